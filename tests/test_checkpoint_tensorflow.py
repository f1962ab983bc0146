"""Google's TF1 checkpoints, written here by TensorFlow itself, and tf_model.h5."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from checkpoint_samples import SMALL, same_tensors, stored, their_model, to_keras, to_tf1, write_config

import albert_fast
from albert_fast.checkpoint import load, names, save
from albert_fast.errors import CheckpointError, MissingDependencyError

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
h5py = pytest.importorskip("h5py", reason="needs h5py: pip install 'albert-fast[tensorflow]'")

# As in Google's archives: "gelu" there is the tanh form; no model_type, no layer_norm_eps.
GOOGLE = {**SMALL, "hidden_act": "gelu", "net_structure_type": 0, "gap_size": 0, "down_scale_factor": 1}
SLOTS = {"bert/pooler/dense/kernel/adam_m": (16, 16), "bert/pooler/dense/kernel/adam_v": (16, 16)}


def slots():
    ones = {name: torch.ones(shape) for name, shape in SLOTS.items()}
    return {**ones, "global_step": torch.tensor(125000), "AdamWeightDecayOptimizer_1/beta1": torch.ones(1)}


def equal_sizes():
    """An ALBERT whose embedding_size is its hidden_size: Google's code has no projection there."""
    model = their_model("AlbertModel", embedding_size=16)
    with torch.no_grad():
        model.encoder.embedding_hidden_mapping_in.weight.copy_(torch.eye(16))
        model.encoder.embedding_hidden_mapping_in.bias.zero_()
    return model


@pytest.fixture(scope="module")
def tf1(tmp_path_factory):
    """Folders of real TF1 checkpoints, one per kind."""
    tf = pytest.importorskip("tensorflow", reason="needs TensorFlow: pip install 'albert-fast[tensorflow]'")
    root = tmp_path_factory.mktemp("tf1")
    pretraining = to_tf1(stored(their_model("AlbertForPreTraining")))
    classifier = to_tf1(stored(their_model("AlbertForSequenceClassification", num_labels=3)))
    choice = to_tf1(stored(their_model("AlbertForMultipleChoice")))
    no_mapping = {n: t for n, t in to_tf1(stored(equal_sizes())).items() if "hidden_mapping" not in n}
    aliases = {
        n.replace("LayerNorm_1/", "layer_normalization_1/").replace("LayerNorm/", "layer_normalization/"): t
        for n, t in pretraining.items()
    }
    squad2 = ("start_logits/dense/kernel", "end_logits/dense_0/kernel", "answer_class/dense_1/kernel")
    kinds = {
        "pretraining": ({**pretraining, **slots()}, "model.ckpt-best", GOOGLE),
        "hub": ({f"module/{n}": t for n, t in aliases.items()}, "variables/variables", GOOGLE),
        "classifier": ({**classifier, **slots()}, "model.ckpt-1200", GOOGLE),
        "choice": (choice, "model.ckpt-1200", GOOGLE),
        "squad1": (to_tf1(stored(their_model("AlbertForQuestionAnswering"))), "model.ckpt-best", GOOGLE),
        "squad2": ({**pretraining, **{n: torch.ones(2, 2) for n in squad2}}, "model.ckpt-best", GOOGLE),
        "no mapping": (no_mapping, "model.ckpt-best", {**GOOGLE, "embedding_size": 16}),
        "foreign": ({"bert/encoder/layer_0/attention/self/query/kernel": torch.ones(2)}, "model.ckpt-best", GOOGLE),
    }
    for kind, (variables, prefix, config) in kinds.items():
        write_config(root / kind, config, "albert_config.json")
        (root / kind / prefix).parent.mkdir(exist_ok=True)
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            made = [tf.compat.v1.Variable(t.numpy(), name=n, dtype=t.numpy().dtype) for n, t in variables.items()]
            session.run([variable.initializer for variable in made])
            tf.compat.v1.train.Saver(made).save(session, str(root / kind / prefix), write_meta_graph=False)
    return root


@pytest.fixture
def copied(tf1, tmp_path):
    """A folder of one's own to damage."""
    return lambda kind: shutil.copytree(tf1 / kind, tmp_path / kind)


@pytest.mark.parametrize("kind", ["pretraining", "hub", "squad1"])
def test_tf1_checkpoint_loads_under_hugging_face_names(tf1, kind):
    class_name = "AlbertForQuestionAnswering" if kind == "squad1" else "AlbertForPreTraining"
    checkpoint = load(tf1 / kind)
    assert checkpoint.source == "tf1"
    same_tensors(checkpoint.tensors, stored(their_model(class_name)))


def test_tf1_model_computes_what_the_same_weights_compute_in_transformers(tf1):
    ours = albert_fast.AlbertForPreTraining.from_pretrained(tf1 / "pretraining", from_tf=True)
    theirs = their_model("AlbertForPreTraining", hidden_act="gelu_new")
    assert ours.config.hidden_act == "gelu_new"
    assert ours.config.extra["net_structure_type"] == 0
    ids = torch.randint(0, 50, (2, 11))
    with torch.no_grad():
        for a, b in zip(ours(ids).to_tuple(), theirs(ids).to_tuple(), strict=True):
            torch.testing.assert_close(a, b, atol=2e-6, rtol=0)


def test_the_number_of_classes_comes_from_a_fine_tuned_head(tf1):
    checkpoint = load(tf1 / "classifier")
    assert checkpoint.config.num_labels == 3
    same_tensors(checkpoint.tensors, stored(their_model("AlbertForSequenceClassification", num_labels=3)))
    assert albert_fast.AlbertForMultipleChoice.from_pretrained(tf1 / "choice").classifier.weight.shape == (1, 16)


def test_without_a_mapping_variable_the_projection_is_the_identity(tf1):
    same_tensors(load(tf1 / "no mapping").tensors, stored(equal_sizes()))


def test_a_missing_mapping_is_an_error_where_the_sizes_differ(copied):
    folder = copied("no mapping")
    write_config(folder, {**GOOGLE, "embedding_size": 8}, "albert_config.json")
    with pytest.raises(CheckpointError, match=r"missing \(2\): albert\.encoder\.embedding_hidden_mapping_in"):
        albert_fast.AlbertModel.from_pretrained(folder)


def test_squad2_heads_are_refused_by_name(tf1):
    with pytest.raises(CheckpointError, match=r"SQuAD 2\.0.*answer_class/dense_1/kernel.*no counterpart"):
        load(tf1 / "squad2")


def test_foreign_variables_are_refused_by_name(tf1):
    with pytest.raises(CheckpointError, match="no ALBERT has: bert/encoder/layer_0/attention/self/query/kernel"):
        load(tf1 / "foreign")


def test_from_tf_passes_over_safetensors_in_the_same_folder(copied):
    folder = copied("pretraining")
    save(albert_fast.AlbertConfig(**SMALL), stored(their_model("AlbertForPreTraining", seed=9)), folder)
    assert load(folder).source == "safetensors"
    checkpoint = load(folder, from_tf=True)
    assert checkpoint.source == "tf1"
    same_tensors(checkpoint.tensors, stored(their_model("AlbertForPreTraining")))


def test_the_best_checkpoint_is_preferred_and_then_the_latest(tmp_path):
    from albert_fast.checkpoint.google_tf1 import prefixes

    for name in ("model.ckpt-9", "model.ckpt-1000", "model.ckpt-best", "model.ckpt-200"):
        (tmp_path / f"{name}.index").touch()
    assert [p.name.partition("-")[2] for p in prefixes(tmp_path)] == ["best", "1000", "200", "9"]


@pytest.mark.parametrize(("file", "size"), [("model.ckpt-best.index", 100), ("model.ckpt-best.index", 0),
                                            ("model.ckpt-best.data-00000-of-00001", 1000)])  # fmt: skip
def test_a_truncated_tf1_checkpoint_is_one_clear_error(copied, file, size):
    folder = copied("pretraining")
    os.truncate(folder / file, size)
    with pytest.raises(CheckpointError, match=r"model\.ckpt-best"):
        load(folder)


def test_bit_flipped_tf1_data_is_one_clear_error(copied):
    folder = copied("pretraining")
    path = folder / "model.ckpt-best.data-00000-of-00001"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="cut off or no TensorFlow checkpoint"):
        load(folder)


def test_missing_tf1_files_are_named(copied):
    folder = copied("pretraining")
    (folder / "albert_config.json").unlink()
    with pytest.raises(CheckpointError, match=r"none of albert_config\.json"):
        load(folder)
    write_config(folder, {**GOOGLE, "ln_type": "preln"}, "albert_config.json")
    with pytest.raises(CheckpointError, match="'preln', expected 'postln'"):
        load(folder)
    write_config(folder, GOOGLE, "albert_config.json")
    (folder / "model.ckpt-best.data-00000-of-00001").unlink()
    with pytest.raises(CheckpointError, match=r"no model\.ckpt-best\.data-\* beside it"):
        load(folder)


@pytest.mark.parametrize("module", ["tensorflow", "h5py"])
def test_without_the_extra_the_message_says_what_to_install(module, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    write_config(tmp_path, {**GOOGLE, "model_type": "albert"})
    for name in (
        ("model.ckpt-best.index", "model.ckpt-best.data-00000-of-00001") if module == "tensorflow" else ("tf_model.h5",)
    ):
        (tmp_path / name).touch()
    with pytest.raises(MissingDependencyError, match=r"albert-fast\[tensorflow\]"):
        load(tmp_path)


# -- tf_model.h5 -------------------------------------------------------------------------------------------------


def write_h5(folder, datasets, **config):
    write_config(folder, {"model_type": "albert", **SMALL, **config})
    with h5py.File(folder / "tf_model.h5", "w") as file:
        for name, tensor in datasets.items():
            file.create_dataset(name, data=tensor.numpy())
    return folder


@pytest.mark.parametrize("scope", ["", "tf_albert_for_pre_training", "tf_albert_for_pre_training_1"])
def test_h5_loads_under_hugging_face_names(scope, tmp_path):
    model = their_model("AlbertForPreTraining")
    checkpoint = load(write_h5(tmp_path, to_keras(stored(model), scope)))
    assert checkpoint.source == "tf_model.h5"
    assert checkpoint.config.hidden_act == "gelu_new"
    same_tensors(checkpoint.tensors, stored(model))


@pytest.mark.parametrize("class_name", ["AlbertModel", "AlbertForSequenceClassification", "AlbertForQuestionAnswering"])
def test_h5_of_other_heads_loads(class_name, tmp_path):
    model = their_model(class_name)
    write_h5(tmp_path, to_keras(stored(model), "tf_albert"))
    same_tensors(load(tmp_path, from_tf=True).tensors, stored(model))


def test_h5_in_half_precision_and_big_endian_loads(tmp_path):
    datasets = to_keras(stored(their_model("AlbertModel").half()), "")
    write_config(tmp_path, {"model_type": "albert", **SMALL})
    with h5py.File(tmp_path / "tf_model.h5", "w") as file:
        for name, tensor in datasets.items():
            file.create_dataset(name, data=tensor.numpy().astype(">f2"))
    same_tensors(load(tmp_path).tensors, stored(their_model("AlbertModel").half()))


def test_the_decoder_bias_that_keras_adds_is_the_one_taken(tmp_path):
    datasets = to_keras(stored(their_model("AlbertForMaskedLM")), "")
    datasets["predictions/predictions/decoder/bias:0"] = torch.full((50,), 3.0)
    assert load(write_h5(tmp_path, datasets)).tensors["predictions.bias"].eq(3).all()


@pytest.mark.parametrize("size", [0, 7, 100, 4000])
def test_a_truncated_h5_is_one_clear_error(size, tmp_path):
    write_h5(tmp_path, to_keras(stored(their_model("AlbertModel")), ""))
    os.truncate(tmp_path / "tf_model.h5", size)
    with pytest.raises(CheckpointError, match="cut off or no HDF5 file"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shape": (10**7, 10**5), "dtype": "f4"}, "claims 4000000000000 bytes of tensors"),
        ({"shape": (10**7, 10**5), "dtype": "f4", "chunks": (100, 100), "compression": "gzip"}, "does not"),
        ({"shape": (4,), "dtype": "f4", "external": [("/etc/passwd", 0, 16)]}, "does not"),
        ({"shape": (4,), "dtype": "i8"}, "does not"),
        ({"data": "text"}, "does not"),
    ],
)
def test_a_hostile_h5_is_refused_before_memory_is_taken(options, words, tmp_path):
    write_config(tmp_path, {"model_type": "albert", **SMALL})
    with h5py.File(tmp_path / "tf_model.h5", "w") as file:
        file.create_dataset("albert/albert/pooler/kernel:0", **options)
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path)


def test_h5_follows_no_links_and_names_foreign_weights(tmp_path):
    write_config(tmp_path, {"model_type": "albert", **SMALL})
    with h5py.File(tmp_path / "tf_model.h5", "w") as file:
        file["albert/albert/pooler/kernel:0"] = h5py.ExternalLink("/etc/passwd", "/x")
        file["bert/bert/pooler/dense/kernel:0"] = [1.0]
    with pytest.raises(CheckpointError, match="no ALBERT has: bert/bert/pooler/dense/kernel:0"):
        load(tmp_path)


def test_names_tell_unknown_variables_from_known_ones():
    assert names.from_tf1("bert/encoder/transformer/group_3/inner_group_1/LayerNorm_1/gamma") == (
        "albert.encoder.albert_layer_groups.3.albert_layers.1.full_layer_layer_norm.weight",
        False,
    )
    assert names.from_tf1("bert/encoder/transformer/group_0/inner_group_0/LayerNorm_2/gamma") is None
    assert names.from_tf1("bert/pooler/dense/moving_mean") is None
    assert names.from_keras("tf_albert_model/albert/pooler/kernel:0") == ("albert.pooler.weight", True)
    assert names.from_keras("tf_bert_model/bert/pooler/kernel:0") is None
    assert names.from_keras("albert/pooler/moving_mean:0") is None
