"""What a model takes from a checkpoint, and the one error that lists everything that does not fit."""

from __future__ import annotations

import logging

import pytest
import torch
from checkpoint_samples import CLASSES, stored, their_model

import albert_fast
from albert_fast.checkpoint import match, with_prefix, without_prefix
from albert_fast.errors import CheckpointError

TIED = {
    "predictions.decoder.weight": "albert.embeddings.word_embeddings.weight",
    "predictions.decoder.bias": "predictions.bias",
}
T = torch.ones


def test_all_misfits_are_listed_in_one_error():
    found = {"albert.a": T(2), "albert.b": T(2, 3), "alien.x": T(5), "albert.c": T(1, dtype=torch.int8)}
    expected = {"albert.a": (3,), "albert.b": (3, 2), "albert.c": (1,), "albert.d": (7,), "classifier.bias": (2,)}
    with pytest.raises(CheckpointError) as error:
        match(found, expected, origin="folder/x")
    message = str(error.value)
    assert message.startswith("folder/x does not fit the model")
    assert "missing (2): albert.d [7], classifier.bias [2]" in message
    assert "unexpected (1): alien.x [5]" in message
    assert "wrong shape (2): albert.a: found [2], expected [3], albert.b: found [2, 3], expected [3, 2]" in message
    assert "no floating-point numbers (1): albert.c: torch.int8" in message
    assert "Check that the folder holds an ALBERT" in message


def test_the_next_step_depends_on_what_is_wrong():
    with pytest.raises(CheckpointError, match="pass strict=False"):
        match({"albert.a": T(1)}, {"albert.a": (1,), "classifier.bias": (2,)})
    with pytest.raises(CheckpointError, match="use the config that was saved with these weights"):
        match({"albert.a": T(1)}, {"albert.a": (2,)})


def test_keys_of_other_heads_are_left_out_and_logged(caplog):
    heads = ["predictions.bias", "sop_classifier.classifier.bias", "classifier.bias", "qa_outputs.bias"]
    found = {name: T(2) for name in [*heads, "albert.pooler.bias", "pooler.weight", "albert.a"]}
    with caplog.at_level(logging.INFO):
        assert list(match(found, {"albert.a": (2,)})) == ["albert.a"]
    assert "not used by this model: predictions.bias" in caplog.text


def test_index_buffers_and_ignorable_keys_are_not_unexpected():
    found = {"albert.a": T(1), "albert.embeddings.position_ids": T(1), "ema.a": T(1)}
    assert list(match(found, {"albert.a": (1,)}, ignorable=[r"ema\..*"])) == ["albert.a"]
    with pytest.raises(CheckpointError, match=r"ema\.a"):
        match(found, {"albert.a": (1,)})


def test_only_head_keys_may_be_absent_without_strict(caplog):
    expected = {"albert.a": (1,), "classifier.bias": (2,), "albert.pooler.bias": (1,)}
    assert list(match({"albert.a": T(1)}, expected, strict=False)) == ["albert.a"]
    assert "newly initialised" in caplog.text
    assert "classifier.bias, albert.pooler.bias" in caplog.text
    with pytest.raises(CheckpointError, match=r"missing \(1\): albert\.a"):
        match({"classifier.bias": T(2), "albert.pooler.bias": T(1)}, expected, strict=False)


def test_tied_keys_take_the_tensor_of_their_source():
    word, bias = T(5, 2), T(5)
    found = {"albert.embeddings.word_embeddings.weight": word, "predictions.bias": bias}
    expected = {**{n: t.shape for n, t in found.items()}, "predictions.decoder.weight": (5, 2)}
    expected["predictions.decoder.bias"] = (5,)
    matched = match(found, expected, tied=TIED)
    assert matched["predictions.decoder.weight"] is word
    assert matched["predictions.decoder.bias"] is bias
    with pytest.raises(CheckpointError, match=r"missing \(2\): predictions\.decoder\.weight"):
        match(found, expected)


def test_prefixes_are_added_and_taken_off():
    names = {"embeddings.a": 1, "albert.encoder.b": 2, "pooler.c": 3, "classifier.bias": 4}
    full = {"albert.embeddings.a": 1, "albert.encoder.b": 2, "albert.pooler.c": 3, "classifier.bias": 4}
    assert with_prefix(names) == full
    assert without_prefix(full) == {"embeddings.a": 1, "encoder.b": 2, "pooler.c": 3, "classifier.bias": 4}
    with pytest.raises(CheckpointError, match="twice"):
        with_prefix({"pooler.a": 1, "albert.pooler.a": 2})


@pytest.mark.parametrize(("written", "wanted"), list(zip(CLASSES, CLASSES[1:] + CLASSES[:1], strict=True))[:-2])
def test_a_head_loads_from_another_one_without_strict(written, wanted, tmp_path):
    their_model(written).save_pretrained(tmp_path)
    model = getattr(albert_fast, wanted).from_pretrained(tmp_path, strict=False)
    assert not any(p.is_meta for p in model.parameters())
    word = "embeddings.word_embeddings.weight"
    key = word if wanted == "AlbertModel" else f"albert.{word}"
    assert torch.equal(model.state_dict()[key], stored(their_model(written))[f"albert.{word}"])


def test_a_head_of_another_size_is_an_error_even_without_strict(tmp_path):
    their_model("AlbertForMultipleChoice").save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"classifier\.weight: found \[1, 16\], expected \[2, 16\]"):
        albert_fast.AlbertForSequenceClassification.from_pretrained(tmp_path, strict=False)


def test_a_checkpoint_of_other_sizes_lists_every_shape_and_takes_no_memory(tmp_path):
    their_model("AlbertModel").save_pretrained(tmp_path)
    config = albert_fast.AlbertConfig.from_pretrained(tmp_path, hidden_size=32_768, intermediate_size=16)
    with pytest.raises(CheckpointError) as error:  # a model of this size would take 70 GB
        albert_fast.AlbertModel.from_pretrained(tmp_path, config=config)
    assert str(error.value).count("found [") == 68
    assert "expected [32768, 8]" in str(error.value)
