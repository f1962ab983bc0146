"""What save_pretrained writes is what transformers loads, whole or not at all."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from checkpoint_samples import CLASSES, SMALL, same_tensors, stored, their_model
from safetensors import safe_open
from safetensors.torch import load_file

import albert_fast
from albert_fast.checkpoint import load, save
from albert_fast.errors import CheckpointError

CONFIG = albert_fast.AlbertConfig(**SMALL)


def keys_and_metadata(folder):
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        return sorted(file.keys()), file.metadata()


@pytest.mark.parametrize("tie", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("class_name", CLASSES)
def test_transformers_loads_what_we_save_with_no_key_missing_or_left_over(class_name, tie, tmp_path):
    theirs = their_model(class_name, tie_word_embeddings=tie)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = getattr(albert_fast, class_name).from_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    assert keys_and_metadata(tmp_path / "ours") == keys_and_metadata(tmp_path / "theirs")
    back, info = getattr(transformers, class_name).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info.values()), info
    ids = torch.randint(0, 50, (2, 3, 9) if class_name == "AlbertForMultipleChoice" else (2, 9))
    with torch.no_grad():
        for a, b in zip(ours(ids).to_tuple(), back.eval()(ids).to_tuple(), strict=True):
            torch.testing.assert_close(a, b, atol=2e-6, rtol=0)


def test_the_config_keeps_unknown_fields_and_names_the_class(tmp_path):
    model = albert_fast.AlbertForMaskedLM(albert_fast.AlbertConfig(**SMALL, finetuning_task="wordnet", num_labels=5))
    model.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["finetuning_task"] == "wordnet"
    assert written["architectures"] == ["AlbertForMaskedLM"]
    assert load(tmp_path).config.num_labels == 5


def test_tied_tensors_are_written_once_and_shared_memory_is_no_obstacle(tmp_path):
    model = their_model("AlbertForMaskedLM")
    save(CONFIG, model.state_dict(), tmp_path)
    same_tensors(load_file(tmp_path / "model.safetensors"), stored(model))
    base = torch.arange(12.0)
    save(CONFIG, {"a": base.view(3, 4).T, "b": base[2:5], "c": base}, tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    assert torch.equal(written["a"], base.view(3, 4).T)
    assert torch.equal(written["b"], base[2:5])


def test_an_interrupted_save_leaves_the_old_checkpoint_and_no_litter(tmp_path, monkeypatch):
    save(CONFIG, stored(their_model("AlbertModel", seed=1)), tmp_path)
    before = load(tmp_path).sha256

    def full_disk(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr("albert_fast.checkpoint.saving.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(CONFIG, stored(their_model("AlbertModel", seed=2)), tmp_path)
    assert load(tmp_path).sha256 == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_saving_over_the_folder_that_a_model_was_loaded_from_keeps_the_model(tmp_path):
    save(CONFIG, stored(their_model("AlbertModel", seed=1)), tmp_path)
    checkpoint = load(tmp_path)  # its tensors are views of the file
    save(CONFIG, stored(their_model("AlbertModel", seed=2)), tmp_path)
    same_tensors(checkpoint.tensors, stored(their_model("AlbertModel", seed=1)))
    same_tensors(load(tmp_path).tensors, stored(their_model("AlbertModel", seed=2)))


def test_there_must_be_something_to_save(tmp_path):
    with pytest.raises(CheckpointError, match="empty state dict"):
        save(CONFIG, {}, tmp_path)
    with pytest.raises(CheckpointError, match=r"nothing to save for a\.b"):
        save(CONFIG, {"a.b": torch.empty(2, device="meta")}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_decoder_that_came_loose_is_not_saved_as_tied(tmp_path):
    tensors = {**stored(their_model("AlbertForMaskedLM")), "predictions.decoder.weight": torch.ones(50, 8)}
    with pytest.raises(CheckpointError, match="tie them again"):
        save(CONFIG, tensors, tmp_path)
    save(CONFIG.replace(tie_word_embeddings=False), tensors, tmp_path)
    assert "predictions.decoder.weight" in load(tmp_path).tensors
