"""The model that ships as ``albert-fast/wordnet``: small, offline, licensed, and as good as its card says."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from albert_fast import AlbertConfig, AlbertForMaskedLM, AlbertForSequenceClassification, AlbertTokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import gloss_examples as ge
import wordnet

REPOSITORY = Path(__file__).parents[1]
NAME = "albert-fast/wordnet"
FOLDER = REPOSITORY / "albert_fast/embedded/wordnet"
HELD_OUT = REPOSITORY / "tests/data/wordnet_heldout.tsv"
MASKED_SENTENCES = {
    "a [MASK] in northern italy": {"city", "town", "river", "region", "province"},
    "a large [MASK] having red flowers": {"tree", "plant", "shrub"},
    "in a careful [MASK]": {"manner", "way"},
    "the [MASK] of being honest": {"quality", "state", "trait", "property", "act"},
}


@pytest.fixture(scope="module")
def metrics() -> dict[str, Any]:
    return json.loads((FOLDER / "metrics.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def held_out() -> list[list[str]]:
    return [line.split("\t") for line in HELD_OUT.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def tokenizer() -> AlbertTokenizer:
    return AlbertTokenizer.from_pretrained(NAME)


@pytest.fixture(scope="module")
def classifier() -> AlbertForSequenceClassification:
    return AlbertForSequenceClassification.from_pretrained(NAME)


def accuracy(model: AlbertForSequenceClassification, tokenizer: AlbertTokenizer, rows: list[list[str]], pair: bool):
    """The share of rows whose best class is their lexname, in percent; rows of like length share a batch."""
    rows, hits = sorted(rows, key=lambda row: len(row[2])), 0
    for start in range(0, len(rows), 40):
        lexnames, lemmas, glosses = zip(*rows[start : start + 40], strict=True)
        texts = (list(lemmas), list(glosses)) if pair else (list(glosses),)
        batch = tokenizer(*texts, padding=True, truncation=True, max_length=128, return_tensors="pt")
        with torch.no_grad():
            best = model(**batch).logits.argmax(-1)
        hits += sum(model.config.id2label[int(i)] == name for i, name in zip(best, lexnames, strict=True))
    return 100 * hits / len(rows)


def test_folder_with_vocabulary_stays_within_six_megabytes() -> None:
    sizes = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert sum(sizes.values()) <= 6_000_000, sizes


def test_both_heads_and_the_tokenizer_load_by_name_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the embedded model opened a network connection")

    monkeypatch.setattr(socket, "socket", refuse)
    for head in (AlbertForMaskedLM, AlbertForSequenceClassification):
        assert head.from_pretrained(NAME).dtype == torch.float32
    assert AlbertTokenizer.from_pretrained(NAME).vocab_size == AlbertConfig.from_pretrained(NAME).vocab_size


def test_one_layer_serves_at_least_six_passes_and_45_named_classes() -> None:
    config = AlbertConfig.from_pretrained(NAME)
    assert (config.num_hidden_groups, config.inner_group_num) == (1, 1)
    assert config.num_hidden_layers >= 6
    assert tuple(config.id2label.values()) == wordnet.LEXNAMES


def test_weights_are_stored_in_half_precision_and_are_finite() -> None:
    for name, tensor in load_file(FOLDER / "model.safetensors").items():
        assert tensor.dtype == torch.float16, name
        assert tensor.isfinite().all(), name


def test_held_out_glosses_are_outside_the_training_split(held_out: list[list[str]], metrics: dict[str, Any]) -> None:
    assert len(held_out) == metrics["test_synsets"] >= 3000
    assert {len(row) for row in held_out} == {3}
    assert {lexname for lexname, _, _ in held_out} <= set(wordnet.LEXNAMES)
    assert [gloss for _, _, gloss in held_out if wordnet.split_of(gloss) != "test"] == []


@pytest.mark.parametrize("kind", ["gloss", "pair"])
def test_held_out_accuracy_is_what_the_metrics_say(
    kind: str,
    classifier: AlbertForSequenceClassification,
    tokenizer: AlbertTokenizer,
    held_out: list[list[str]],
    metrics: dict[str, Any],
) -> None:
    found = accuracy(classifier, tokenizer, held_out[: 600 if kind == "gloss" else 300], pair=kind == "pair")
    assert found == pytest.approx(100 * metrics[f"accuracy_{kind}"], abs=3)


def test_masked_lm_is_far_better_than_unigram_counts(
    tokenizer: AlbertTokenizer, held_out: list[list[str]], metrics: dict[str, Any]
) -> None:
    assert metrics["perplexity_model"] < 0.2 * metrics["perplexity_unigram"]
    model = AlbertForMaskedLM.from_pretrained(NAME)
    rows = sorted(
        (tokenizer(gloss, truncation=True, max_length=64)["input_ids"] for *_, gloss in held_out[:200]), key=len
    )
    rng, nats = np.random.default_rng(3), []
    for start in range(0, len(rows), 40):
        batch = ge.collate([(ids, 1) for ids in rows[start : start + 40]], [0] * 40)
        batch = ge.mask_tokens(batch, rng, vocab_size=tokenizer.vocab_size)
        with torch.no_grad():
            logits = model(batch.input_ids, batch.attention_mask).logits
        targets = batch.masked_labels != ge.IGNORED
        nats.append(torch.nn.functional.cross_entropy(logits[targets], batch.masked_labels[targets], reduction="none"))
    assert torch.cat(nats).mean().exp() == pytest.approx(metrics["perplexity_model"], rel=0.25)


@pytest.mark.parametrize("sentence", MASKED_SENTENCES)
def test_a_masked_gloss_gets_a_word_that_fits(sentence: str, tokenizer: AlbertTokenizer) -> None:
    batch = tokenizer(sentence, return_tensors="pt")
    place = batch["input_ids"][0].tolist().index(tokenizer.mask_token_id)
    with torch.no_grad():
        best = AlbertForMaskedLM.from_pretrained(NAME)(**batch).logits[0, place].topk(5).indices
    words = {piece.removeprefix("▁") for piece in tokenizer.convert_ids_to_tokens(best.tolist())}
    assert words & MASKED_SENTENCES[sentence], words


def test_transformers_loads_it_in_float32_and_gives_the_same_scores(
    classifier: AlbertForSequenceClassification, tokenizer: AlbertTokenizer, held_out: list[list[str]]
) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AlbertForSequenceClassification.from_pretrained(FOLDER).eval()
    assert theirs.dtype == torch.float32
    batch = tokenizer([gloss for _, _, gloss in held_out[:8]], padding=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.allclose(theirs(**batch).logits, classifier(**batch).logits, atol=2e-5)


def test_licence_and_card_are_beside_the_weights(metrics: dict[str, Any]) -> None:
    licence = (FOLDER / "LICENSE.WordNet").read_text(encoding="utf-8")
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in licence
    assert "Permission to use, copy, modify and distribute" in licence
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"{100 * metrics['accuracy_gloss']:.1f} %" in card
    assert f"{metrics['perplexity_model']:.1f}" in card
    assert "No dev or test text was used" in card
