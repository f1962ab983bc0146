"""The TF classes read every checkpoint that the PyTorch ones read, and write what both and transformers 4 read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoint_samples import SMALL, stored, their_model, to_tf1, write_config
from safetensors.torch import load_file
from tensorflow_samples import CLASSES, largest_difference, tf

import albert_fast
from albert_fast import checkpoint
from albert_fast.errors import CheckpointError

h5py = pytest.importorskip("h5py", reason="needs h5py: pip install 'albert-fast[tensorflow]'")

# Written by the TF classes of transformers 4.57.6 with random weights; see the README there.
HISTORICAL = Path(__file__).parent / "data/tensorflow"
HISTORICAL_CLASSES = {
    "masked-lm": "TFAlbertForMaskedLM",
    "sequence-classification": "TFAlbertForSequenceClassification",
}
IDS = np.array([[2, 7, 9, 11, 3, 0], [2, 5, 3, 17, 18, 3]])
MASK = (IDS != 0).astype(np.int64)


def tf_class(name: str) -> type:
    return getattr(albert_fast, "TF" + name)


def same_outputs(tf_model, torch_model, bound: float = 2e-5) -> None:
    with torch.no_grad():
        expected = torch_model(torch.tensor(IDS), torch.tensor(MASK))
    assert largest_difference(tf_model(IDS, MASK), expected) <= bound


# -- reading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("safe", [True, False], ids=["safetensors", "bin"])
def test_checkpoints_of_the_torch_classes_load(name: str, safe: bool, tmp_path: Path) -> None:
    theirs = their_model(name)
    if safe:
        theirs.save_pretrained(tmp_path)
    else:
        write_config(tmp_path, theirs.config.to_dict())
        torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    same_outputs(tf_class(name).from_pretrained(tmp_path, from_pt=True), theirs)


def test_a_checkpoint_of_googles_code_loads(tmp_path: Path) -> None:
    theirs = their_model("AlbertForPreTraining", hidden_act="gelu_new")
    write_config(tmp_path, {**SMALL, "hidden_act": "gelu"}, "albert_config.json")
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        variables = {n: tf.compat.v1.Variable(t.numpy(), name=n) for n, t in to_tf1(stored(theirs)).items()}
        session.run([variable.initializer for variable in variables.values()])
        tf.compat.v1.train.Saver(variables).save(session, str(tmp_path / "model.ckpt-best"), write_meta_graph=False)
    ours = albert_fast.TFAlbertForMaskedLM.from_pretrained(tmp_path, from_tf=True)
    with torch.no_grad():
        expected = theirs(torch.tensor(IDS), torch.tensor(MASK)).prediction_logits
    assert abs(ours(IDS, MASK).logits.numpy() - expected.numpy()).max() <= 2e-5


@pytest.mark.parametrize(("folder", "name"), HISTORICAL_CLASSES.items())
def test_a_historical_h5_computes_what_transformers_4_computed(folder: str, name: str) -> None:
    expected = np.load(HISTORICAL / folder / "expected.npz")
    inputs = {key: expected[key] for key in ("input_ids", "attention_mask", "token_type_ids")}
    model = getattr(albert_fast, name).from_pretrained(HISTORICAL / folder)
    out = model(inputs, output_hidden_states=True, output_attentions=True)
    for field in ("logits", "hidden_states", "attentions"):
        np.testing.assert_allclose(np.stack(out[field]), expected[field], atol=1e-6, rtol=0, err_msg=field)


def test_the_embedded_model_equals_the_torch_class() -> None:
    name = "albert-fast/wordnet"
    same_outputs(
        albert_fast.TFAlbertForMaskedLM.from_pretrained(name), albert_fast.AlbertForMaskedLM.from_pretrained(name)
    )


def test_an_untied_decoder_is_kept(tmp_path: Path) -> None:
    theirs = their_model("AlbertForMaskedLM", tie_word_embeddings=False)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = albert_fast.TFAlbertForMaskedLM.from_pretrained(tmp_path / "theirs")
    same_outputs(ours, theirs)
    ours.save_pretrained(tmp_path / "ours")
    same_outputs(albert_fast.TFAlbertForMaskedLM.from_pretrained(tmp_path / "ours"), theirs)
    with pytest.raises(ValueError, match=r"tie_word_embeddings is off.*safe_serialization=True"):
        ours.save_pretrained(tmp_path, safe_serialization=False)


def test_config_changes_and_dtype_are_taken(tmp_path: Path) -> None:
    their_model("AlbertModel").save_pretrained(tmp_path)
    ours = albert_fast.TFAlbertForSequenceClassification.from_pretrained(
        tmp_path, num_labels=7, strict=False, dtype="mixed_bfloat16"
    )
    assert ours(IDS).logits.shape == (2, 7)
    assert ours.compute_dtype == "bfloat16"


def test_a_missing_head_is_an_error_unless_it_may_be_new(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    their_model("AlbertModel").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"(?s)missing \(2\): classifier.*strict=False"):
        albert_fast.TFAlbertForSequenceClassification.from_pretrained(tmp_path)
    albert_fast.TFAlbertForSequenceClassification.from_pretrained(tmp_path, strict=False)
    assert "newly initialised" in caplog.text


def test_wrong_shapes_are_listed_before_a_model_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    their_model("AlbertModel").save_pretrained(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("memory was taken for a model that the checkpoint does not fit")

    monkeypatch.setattr(albert_fast.TFAlbertModel, "build", refuse)
    with pytest.raises(CheckpointError, match=r"wrong shape \(1\): albert\.embeddings\.word_embeddings\.weight"):
        albert_fast.TFAlbertModel.from_pretrained(tmp_path, vocab_size=4_000_000)


def test_from_pt_and_from_tf_ask_for_one_kind(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"of kind tf_model\.h5, and from_pt=True asks for"):
        albert_fast.TFAlbertForMaskedLM.from_pretrained(HISTORICAL / "masked-lm", from_pt=True)
    their_model("AlbertModel").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        albert_fast.TFAlbertModel.from_pretrained(tmp_path, from_tf=True)
    with pytest.raises(ValueError, match="exclude each other"):
        albert_fast.TFAlbertModel.from_pretrained(tmp_path, from_tf=True, from_pt=True)


# -- writing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_saved_safetensors_load_in_both_frameworks_and_in_transformers(name: str, tmp_path: Path) -> None:
    import transformers

    theirs = their_model(name)
    theirs.save_pretrained(tmp_path / "theirs")
    tf_class(name).from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "ours")
    same_outputs(tf_class(name).from_pretrained(tmp_path / "ours"), theirs)
    names = [sorted(load_file(tmp_path / folder / "model.safetensors")) for folder in ("ours", "theirs")]
    assert names[0] == names[1]
    for library in (albert_fast, transformers):
        loaded = getattr(library, name).from_pretrained(tmp_path / "ours").state_dict()
        assert sorted(loaded) == sorted(theirs.state_dict()), library.__name__
        assert all(torch.equal(loaded[key], value) for key, value in theirs.state_dict().items())


@pytest.mark.parametrize("name", CLASSES)
def test_a_saved_h5_loads_in_both_frameworks(name: str, tmp_path: Path) -> None:
    theirs = their_model(name)
    theirs.save_pretrained(tmp_path / "theirs")
    tf_class(name).from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "ours", safe_serialization=False)
    assert checkpoint.load(tmp_path / "ours").source == "tf_model.h5"
    same_outputs(tf_class(name).from_pretrained(tmp_path / "ours"), theirs)
    in_torch = getattr(albert_fast, name).from_pretrained(tmp_path / "ours").state_dict()
    assert all(torch.equal(in_torch[key], value) for key, value in theirs.state_dict().items())


def content(path: Path) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """Datasets by path, and the weights of each layer in order, as Keras reads them."""
    datasets: dict[str, np.ndarray] = {}
    with h5py.File(path, "r") as file:
        file.visititems(lambda n, item: datasets.update({n: item[()]}) if isinstance(item, h5py.Dataset) else None)
        assert file.attrs["backend"] == "tensorflow"
        assert file.attrs["keras_version"].startswith("2.")
        layers = [name if isinstance(name, str) else name.decode() for name in file.attrs["layer_names"]]
        weights = {
            layer: [n if isinstance(n, str) else n.decode() for n in file[layer].attrs["weight_names"]]
            for layer in layers
        }
    return datasets, {layer: names for layer, names in weights.items() if names}


@pytest.mark.parametrize(("folder", "name"), HISTORICAL_CLASSES.items())
def test_a_saved_h5_is_laid_out_as_transformers_4_wrote_it(folder: str, name: str, tmp_path: Path) -> None:
    import keras

    keras.utils.clear_session()  # names begin anew: the second model of a process is tf_albert_..._1, then and now
    model = getattr(albert_fast, name).from_pretrained(HISTORICAL / folder)
    model.save_pretrained(tmp_path, safe_serialization=False)
    (expected, order), (found, our_order) = (
        content(HISTORICAL / folder / "tf_model.h5"),
        content(tmp_path / "tf_model.h5"),
    )
    assert our_order == order
    assert sorted(found) == sorted(expected)
    unused = "predictions/tf_albert_for_masked_lm/predictions/bias:0"  # transformers 4 adds decoder/bias instead
    assert [key for key in expected if key != unused and not np.array_equal(found[key], expected[key])] == []


def test_half_precision_weights_are_written_in_what_the_format_has(tmp_path: Path) -> None:
    config = albert_fast.AlbertConfig(**SMALL)
    for policy, in_safetensors, in_h5 in (
        ("float16", torch.float16, "float16"),
        ("bfloat16", torch.bfloat16, "float32"),
    ):
        model = albert_fast.TFAlbertModel(config, dtype=policy)
        model.save_pretrained(tmp_path / policy)
        model.save_pretrained(tmp_path / policy, safe_serialization=False)
        loaded = checkpoint.load(tmp_path / policy)
        assert {tensor.dtype for tensor in loaded.tensors.values()} == {in_safetensors}
        assert loaded.config.extra["dtype"] == policy
        assert {array.dtype.name for array in content(tmp_path / policy / "tf_model.h5")[0].values()} == {in_h5}


def test_an_interrupted_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = albert_fast.TFAlbertModel(albert_fast.AlbertConfig(**SMALL))
    model.save_pretrained(tmp_path, safe_serialization=False)
    before = (tmp_path / "tf_model.h5").read_bytes()
    monkeypatch.setattr(h5py.Group, "create_dataset", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        model.save_pretrained(tmp_path, safe_serialization=False)
    assert (tmp_path / "tf_model.h5").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "tf_model.h5"]


@pytest.mark.parametrize("name", CLASSES)
def test_parameter_names_are_those_of_the_torch_class(name: str) -> None:
    for tied in (True, False):
        config = albert_fast.AlbertConfig(**SMALL, tie_word_embeddings=tied)
        theirs = getattr(albert_fast, name)(config)
        ties = {("albert." + key).replace("albert.albert.", "albert.").replace("albert.predictions", "predictions")
                for key in theirs.ties()}  # fmt: skip
        wanted = set(checkpoint.with_prefix(theirs.state_dict())) - ties
        assert set(tf_class(name)(config).named_weights()) == wanted


def test_one_layer_is_held_once_whatever_the_passes() -> None:
    def count(passes: int) -> int:
        values = SMALL | {"num_hidden_layers": passes, "num_hidden_groups": 1, "inner_group_num": 1}
        return albert_fast.TFAlbertModel(albert_fast.AlbertConfig(**values)).count_params()

    assert count(24) == count(1)
