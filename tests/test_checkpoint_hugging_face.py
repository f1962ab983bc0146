"""Folders that transformers wrote, and the older spellings of the same."""

from __future__ import annotations

import json
import os
from dataclasses import FrozenInstanceError

import pytest
import torch
from checkpoint_samples import CLASSES, SMALL, same_tensors, stored, their_model, write_config
from safetensors.torch import load_file, save_file

import albert_fast
from albert_fast.checkpoint import digest, load
from albert_fast.errors import CheckpointError

CONFIG = {"model_type": "albert", **SMALL}


def write_bin(folder, state_dict, config=CONFIG, **options):
    write_config(folder, config)
    torch.save(state_dict, folder / "pytorch_model.bin", **options)
    return folder


def write_safetensors(folder, tensors, config=CONFIG):
    write_config(folder, config)
    save_file({n: t.contiguous().clone() for n, t in tensors.items()}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("class_name", CLASSES)
def test_a_folder_that_transformers_wrote_loads_and_computes_the_same(class_name, tmp_path):
    theirs = their_model(class_name)
    theirs.save_pretrained(tmp_path)
    checkpoint = load(tmp_path)
    assert checkpoint.source == "safetensors"
    assert checkpoint.folder == tmp_path
    same_tensors(checkpoint.tensors, stored(theirs))
    ours = getattr(albert_fast, class_name).from_pretrained(tmp_path)
    ids = torch.randint(0, 50, (2, 3, 9) if class_name == "AlbertForMultipleChoice" else (2, 9))
    with torch.no_grad():
        for a, b in zip(ours(ids).to_tuple(), theirs(ids).to_tuple(), strict=True):
            torch.testing.assert_close(a, b, atol=2e-6, rtol=0)


def test_bin_and_safetensors_and_shards_of_equal_weights_have_one_digest(tmp_path):
    model = their_model("AlbertForPreTraining")
    model.save_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "shards", max_shard_size="8KB")
    write_bin(tmp_path / "bin", model.state_dict())  # has the tied decoder twice
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 2
    checkpoints = [load(tmp_path / name) for name in ("one", "shards", "bin")]
    assert len({checkpoint.sha256 for checkpoint in checkpoints}) == 1
    for checkpoint in checkpoints:
        same_tensors(checkpoint.tensors, stored(model))


@pytest.mark.parametrize("change", ["value", "name", "dtype", "shape"])
def test_digest_changes_with_the_weights(change):
    tensors = {"a": torch.arange(4.0), "b": torch.zeros(2, dtype=torch.bfloat16)}  # zeros: same bytes in float16
    changed = {
        "value": {**tensors, "a": torch.tensor([0.0, 1, 2, 4])},
        "name": {"c": tensors["a"], "b": tensors["b"]},
        "dtype": {**tensors, "b": tensors["b"].to(torch.float16)},
        "shape": {**tensors, "a": tensors["a"].view(2, 2)},
    }[change]
    assert digest(changed) != digest(tensors)
    assert digest(dict(reversed(tensors.items()))) == digest(tensors)


def test_digest_takes_scalars_and_strided_tensors():
    assert digest({"a": torch.tensor(3.0)}) != digest({"a": torch.tensor(4.0)})
    square = torch.arange(6.0).view(2, 3)
    assert digest({"a": square.T}) == digest({"a": square.T.contiguous()})


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before torch 1.6"])
def test_bin_of_either_age_loads(legacy, tmp_path):
    model = their_model("AlbertForMaskedLM")
    write_bin(tmp_path, model.state_dict(), _use_new_zipfile_serialization=not legacy)
    checkpoint = load(tmp_path)
    assert checkpoint.source == "pytorch_model.bin"
    same_tensors(checkpoint.tensors, stored(model))


def test_sharded_bin_loads(tmp_path):
    model = their_model("AlbertForMaskedLM")
    write_config(tmp_path, CONFIG)
    weight_map = {}
    for number, name in enumerate(stored(model)):
        file = f"pytorch_model-{number % 3 + 1:05d}-of-00003.bin"
        weight_map[name] = file
    for file in set(weight_map.values()):
        torch.save({n: t for n, t in stored(model).items() if weight_map[n] == file}, tmp_path / file)
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    same_tensors(load(tmp_path).tensors, stored(model))


def test_gamma_beta_prefixless_data_parallel_and_position_ids_are_renamed_or_dropped(tmp_path):
    model = their_model("AlbertForPreTraining")
    old = {}
    for name, tensor in stored(model).items():
        name = name.removeprefix("albert.")
        if "LayerNorm." in name or "layer_norm." in name:
            name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
        old[f"module.{name}"] = tensor
    old["module.embeddings.position_ids"] = torch.arange(32)[None]
    write_bin(tmp_path, old)
    same_tensors(load(tmp_path).tensors, stored(model))


def test_a_parameter_under_an_old_and_a_new_name_is_refused(tmp_path):
    tensors = stored(their_model("AlbertModel"))
    tensors["albert.embeddings.LayerNorm.gamma"] = torch.ones(8)
    write_safetensors(tmp_path, tensors)
    with pytest.raises(CheckpointError, match=r"twice.*LayerNorm\.gamma and .*LayerNorm\.weight"):
        load(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_checkpoint_in_another_dtype_becomes_float32_unless_asked(dtype, tmp_path):
    model = their_model("AlbertForMaskedLM").to(dtype)
    model.save_pretrained(tmp_path)
    assert {t.dtype for t in load(tmp_path).tensors.values()} == {dtype}
    assert {p.dtype for p in albert_fast.AlbertForMaskedLM.from_pretrained(tmp_path).parameters()} == {torch.float32}
    asked = albert_fast.AlbertForMaskedLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in asked.parameters()} == {torch.bfloat16}


def test_safetensors_is_preferred_to_bin(tmp_path):
    write_bin(tmp_path, stored(their_model("AlbertModel", seed=1)))
    write_safetensors(tmp_path, stored(their_model("AlbertModel", seed=2)))
    checkpoint = load(tmp_path)
    assert checkpoint.source == "safetensors"
    same_tensors(checkpoint.tensors, stored(their_model("AlbertModel", seed=2)))


def test_two_different_decoder_biases_load_as_transformers_loads_them(tmp_path, caplog):
    tensors = stored(their_model("AlbertForMaskedLM"))
    tensors["predictions.decoder.bias"] = torch.full((50,), 2.0)
    write_safetensors(tmp_path, tensors)
    theirs = type(their_model("AlbertForMaskedLM")).from_pretrained(tmp_path).eval()
    ours = albert_fast.AlbertForMaskedLM.from_pretrained(tmp_path)
    assert "predictions.decoder.bias differs from predictions.bias" in caplog.text
    ids = torch.arange(7)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=2e-6, rtol=0)


def test_a_decoder_that_differs_from_the_tied_embeddings_is_refused_and_loads_untied(tmp_path):
    tensors = stored(their_model("AlbertForMaskedLM"))
    tensors["predictions.decoder.weight"] = torch.ones(50, 8)
    write_safetensors(tmp_path, tensors)
    with pytest.raises(CheckpointError, match="tie_word_embeddings to false"):
        load(tmp_path)
    write_config(tmp_path, {**CONFIG, "tie_word_embeddings": False})
    model = albert_fast.AlbertForMaskedLM.from_pretrained(tmp_path)
    assert model.predictions.decoder.weight.eq(1).all()
    assert not model.albert.embeddings.word_embeddings.weight.eq(1).all()


def test_a_tied_decoder_alone_stands_for_the_word_embeddings(tmp_path):
    tensors = stored(their_model("AlbertForMaskedLM"))
    tensors["predictions.decoder.weight"] = tensors.pop("albert.embeddings.word_embeddings.weight")
    tensors["predictions.decoder.bias"] = tensors.pop("predictions.bias")
    write_safetensors(tmp_path, tensors)
    same_tensors(load(tmp_path).tensors, stored(their_model("AlbertForMaskedLM")))


def test_checkpoint_is_frozen(tmp_path):
    their_model("AlbertModel").save_pretrained(tmp_path)
    with pytest.raises(FrozenInstanceError):
        load(tmp_path).sha256 = ""


# -- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "bert", "hidden_size": 16},
        {"architectures": ["BertForMaskedLM"], "hidden_size": 16},
        {"model_type": ["albert"]},
    ],
)
def test_another_architecture_is_one_clear_error(config, tmp_path):
    write_safetensors(tmp_path, stored(their_model("AlbertModel")), config)
    with pytest.raises(CheckpointError, match=r"another architecture.*expected model_type 'albert'"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not usable JSON"),
        ("", "not usable JSON"),
        ("[1, 2]", "a JSON list, expected an object"),
        ("[" * 100_000, "not usable JSON"),
        ('{"model_type": "albert", "model_type": "bert"}', "stands twice"),
        (b"\xff\xfe\x00".decode("latin-1"), "not usable JSON"),
        ('{"hidden_size": 1000000000000}', "hidden_size is 1000000000000"),
        ('{"num_hidden_layers": 1000000000}', "num_hidden_layers is 1000000000"),
        ('{"hidden_size": "768"}', "hidden_size is '768'"),
    ],
)
def test_a_broken_or_hostile_config_is_one_clear_error(text, words, tmp_path):
    write_safetensors(tmp_path, stored(their_model("AlbertModel")))
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path)


@pytest.mark.parametrize("change", [{"num_hidden_groups": 1}, {"num_hidden_groups": 1024, "inner_group_num": 1024}])
def test_a_config_with_other_layers_than_the_weights_is_refused_before_a_model_is_made(change, tmp_path):
    write_safetensors(tmp_path, stored(their_model("AlbertModel")), {**CONFIG, "num_hidden_layers": 1024, **change})
    with pytest.raises(
        CheckpointError, match=r"num_hidden_groups 1.*the weights have group 0 layer 0, group 0 layer 1"
    ):
        load(tmp_path)


def test_a_config_of_enormous_size_is_not_read(tmp_path):
    write_safetensors(tmp_path, stored(their_model("AlbertModel")))
    os.truncate(tmp_path / "config.json", 2**33)  # sparse
    with pytest.raises(CheckpointError, match="8589934592 bytes"):
        load(tmp_path)


def test_a_folder_without_config_says_so(tmp_path):
    write_safetensors(tmp_path, stored(their_model("AlbertModel")))
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"weights but no config\.json"):
        load(tmp_path)


def test_a_folder_without_weights_lists_what_was_looked_for_and_found(tmp_path):
    write_config(tmp_path, CONFIG)
    with pytest.raises(CheckpointError, match=r"safetensors.*pytorch_model.*tf1.*tf_model\.h5.*found config\.json"):
        load(tmp_path)
    with pytest.raises(CheckpointError) as error:
        load(tmp_path, from_tf=True)
    assert "safetensors" not in str(error.value)


def test_a_file_instead_of_a_folder_says_which_folder(tmp_path):
    write_safetensors(tmp_path, stored(their_model("AlbertModel")))
    with pytest.raises(CheckpointError, match="is a file, expected the folder"):
        load(tmp_path / "model.safetensors")


def test_a_pickle_that_tries_code_runs_nothing(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    for legacy in (False, True):
        write_bin(tmp_path, {"a": torch.ones(1), "b": Bomb()}, _use_new_zipfile_serialization=not legacy)
        with pytest.raises(CheckpointError, match="was not unpickled"):
            load(tmp_path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("keep", [0, 1, 10, 0.3, 0.9, 0.999])
def test_a_truncated_bin_is_one_clear_error(keep, legacy, tmp_path):
    write_bin(tmp_path, stored(their_model("AlbertModel")), _use_new_zipfile_serialization=not legacy)
    path = tmp_path / "pytorch_model.bin"
    size = path.stat().st_size
    os.truncate(path, int(keep * size) if keep < 1 else keep)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "holds a list"),
        ({"model": {"a": torch.ones(1)}, "epoch": 3}, "more than parameters: model, epoch"),
        (
            {"embeddings.word_embeddings.weight": torch.ones(1).expand(10**12)},
            "claims 4000000000000 bytes and stores 4",
        ),
    ],
)
def test_a_bin_that_is_no_state_dict_is_refused(content, words, tmp_path):
    write_bin(tmp_path, content)
    with pytest.raises(CheckpointError, match=words):
        load(tmp_path)


def test_a_zip_bomb_is_refused_before_it_unpacks(tmp_path):
    import zipfile

    write_config(tmp_path, CONFIG)
    with zipfile.ZipFile(tmp_path / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10_000_000))
    with pytest.raises(CheckpointError, match="unpacks to 10000000 bytes"):
        load(tmp_path)


@pytest.mark.parametrize("target", ["../secret.safetensors", "/etc/passwd", "..", "", 7, "a\\b"])
def test_an_index_that_points_out_of_its_folder_is_refused(target, tmp_path):
    write_config(tmp_path, CONFIG)
    index = {"weight_map": {"albert.pooler.bias": target}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"points to .* expected the plain name|names files that are not"):
        load(tmp_path)


def test_missing_shards_are_all_named_and_so_are_keys_in_the_wrong_shard(tmp_path):
    their_model("AlbertForMaskedLM").save_pretrained(tmp_path, max_shard_size="8KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    moved = load_file(shards[0])
    for shard in shards[:2]:
        shard.rename(shard.with_suffix(".away"))
    with pytest.raises(CheckpointError, match=f"{shards[0].name}, {shards[1].name}"):
        load(tmp_path)
    shards[0].with_suffix(".away").rename(shards[0])
    save_file(moved, shards[1])
    with pytest.raises(CheckpointError, match=r"disagree: .*which the index places in .* lacks "):
        load(tmp_path)


def test_an_index_without_a_weight_map_is_refused(tmp_path):
    write_config(tmp_path, CONFIG)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no weight_map"):
        load(tmp_path)
