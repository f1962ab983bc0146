"""calibrate: from a model and text to scales, the same every time; what will not do is told before the model runs."""

from __future__ import annotations

import importlib
import json
import logging
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from small_checkpoint import SENTENCES, small_config, write_small_checkpoint

import albert_fast
from albert_fast import Batch, Scales, calibrate
from albert_fast.capture import capture
from albert_fast.heads import HEADS
from albert_fast.precision import Quantization, prepare
from albert_fast.recipe import collecting
from albert_fast.recipe.collecting import FEWEST_TEXTS, FEWEST_TOKENS, Sampling, choose

WORDS = " ".join(SENTENCES).split()
LAYER = "encoder.albert_layer_groups.0.albert_layers.0"


def sentences(number: int = 60, *, words: int = 6, seed: int = 5) -> list[str]:
    """Different texts of words that the vocabulary holds."""
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=words + i % 5)) for i in range(number)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_checkpoint(tmp_path_factory.mktemp("calibrating") / "model")


@pytest.fixture(scope="module")
def scales(folder: Path) -> Scales:
    return calibrate(folder, sentences())


@pytest.fixture
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test that gets as far as capturing a graph."""

    def run(*arguments: Any, **keywords: Any) -> None:
        pytest.fail("the graph was captured")

    monkeypatch.setattr(collecting, "capture", run)


def test_the_scales_quantize_the_model_that_they_were_found_on(folder: Path, scales: Scales) -> None:
    assert scales.method == "percentile 99.99"
    assert (scales.text.texts, scales.text.source, scales.text.truncated) == (60, "list", 0)
    assert len(scales.amax[f"{LAYER}.ffn_output.input"]) == 4
    assert len(scales.amax[f"{LAYER}.attention.probabilities"]) == 4
    model = HEADS["masked-lm"].model_class.from_pretrained(folder, attn_implementation="eager")
    program = capture(model, albert_fast.ShapeProfile(1, 2, 4, 1, 8, 16))
    parts = ("encoder", "embeddings", "heads", "attention")
    typed = prepare(program, "int8", quantization=Quantization(scales, parts))
    ids = torch.randint(5, 80, (2, 12))
    inputs = (ids, torch.ones_like(ids), torch.zeros_like(ids))
    exact, found = (one.module(check_guards=False)(*inputs)["logits"] for one in (program, typed))
    assert torch.nn.functional.cosine_similarity(exact.flatten(), found.flatten(), dim=0) > 0.98


def test_scales_of_another_model_are_refused_when_a_graph_is_prepared(scales: Scales) -> None:
    torch.manual_seed(8)
    other = HEADS["masked-lm"].model_class(small_config(), attn_implementation="eager").eval()
    program = capture(other, albert_fast.ShapeProfile(1, 2, 4, 1, 8, 16))
    with pytest.raises(ValueError, match=r"these scales are of another model.*calibrate this one"):
        prepare(program, "int8", quantization=Quantization(scales))


def test_the_same_texts_give_the_same_file_in_whatever_order_they_lie(folder: Path, scales: Scales) -> None:
    texts = sentences()
    shuffled = random.Random(1).sample(texts, len(texts))
    assert calibrate(folder, [*shuffled, *texts]).to_json() == scales.to_json()


def test_another_batch_size_gives_the_same_ranges_but_for_rounding(folder: Path, scales: Scales) -> None:
    expected = calibrate(folder, sentences(), method="max")
    for size in (1, 60):
        other = calibrate(folder, sentences(), batch_size=size, method="max")
        assert other.text == scales.text
        for tensor, amax in expected.amax.items():
            assert other.amax[tensor] == pytest.approx(amax, rel=2e-5), tensor


def test_a_live_model_gives_what_its_checkpoint_gives(folder: Path, scales: Scales) -> None:
    ours = HEADS["masked-lm"].model_class.from_pretrained(folder)
    theirs = transformers.AlbertForMaskedLM.from_pretrained(folder).eval()
    before = {name: tensor.clone() for name, tensor in ours.state_dict().items()}
    tokenizer = albert_fast.AlbertTokenizer.from_pretrained(folder)
    assert calibrate(ours, sentences(), tokenizer=tokenizer).to_json() == scales.to_json()
    assert calibrate(theirs, sentences(), tokenizer=folder).to_json() == scales.to_json()
    assert all(torch.equal(tensor, before[name]) for name, tensor in ours.state_dict().items())


def test_ready_batches_are_run_as_they_are(folder: Path, scales: Scales) -> None:
    model = HEADS["masked-lm"].model_class.from_pretrained(folder)
    chosen = choose(model, albert_fast.AlbertTokenizer.from_pretrained(folder), sentences())
    for batches in (chosen.batches, list(chosen.batches), iter(chosen.batches)):
        found = calibrate(model, batches)
        assert found.amax == scales.amax and found.text.sha256 == scales.text.sha256
        assert found.text.source == "batches"


def test_every_option_is_followed(folder: Path) -> None:
    found = calibrate(
        folder, ({"label": "x", "s": text} for text in sentences(90)), column="s", max_texts=70, max_length=15,
        attention="sdpa", method="percentile", percentile=90.0,
    )  # fmt: skip
    assert found.method == "percentile 90" and (found.text.texts, found.text.source) == (70, "iterator")
    assert 60 <= found.text.truncated <= 70 and 70 * 14 <= found.text.tokens <= 70 * 15
    assert not any("probabilities" in tensor for tensor in found.amax)


def test_pairs_are_run_as_pairs(folder: Path, tmp_path: Path) -> None:
    texts = sentences(40)
    (tmp_path / "pairs.txt").write_text("".join(f"{first}\t{first[::-1]}\n" for first in texts))
    model = HEADS["masked-lm"].model_class.from_pretrained(folder)
    tokenizer = albert_fast.AlbertTokenizer.from_pretrained(folder)
    chosen = choose(model, tokenizer, tmp_path / "pairs.txt", sampling=Sampling(max_length=40))
    types = torch.cat([batch.tensors()[2].flatten() for batch in chosen.batches])
    assert types.max() == 1 and chosen.source == "pairs.txt"


@pytest.mark.parametrize("head", ["multiple-choice", "sequence-classification", "question-answering"])
def test_other_heads_get_ranges_of_their_own(head: str, tmp_path: Path) -> None:
    checkpoint = write_small_checkpoint(tmp_path / head, head)
    found = calibrate(checkpoint, sentences(), head=head)
    assert found.text.texts == 60
    assert ("classifier.input" in found.amax) == (head != "question-answering")


def test_too_little_text_is_refused_with_what_there_is_and_what_is_needed(folder: Path, no_run: None) -> None:
    with pytest.raises(ValueError, match=r"there are 20 different texts with \d+ tokens, at least 32 texts and 1,000"):
        calibrate(folder, sentences(20) * 5)
    with pytest.raises(ValueError, match=r"there are 40 different texts with \d+ tokens, at least 32 texts and 1,000"):
        calibrate(folder, [f"a {text[:7]} {i}" for i, text in enumerate(sentences(40))])
    ids = torch.full((31, 40), 9)
    with pytest.raises(ValueError, match="there are 31 different texts with 1240 tokens"):
        calibrate(folder, [Batch(ids)])
    with pytest.raises(ValueError, match="there is no calibration text"):
        calibrate(folder, [])
    with pytest.raises(ValueError, match="there is no calibration text"):
        calibrate(folder, iter([]))
    assert (FEWEST_TEXTS, FEWEST_TOKENS) == (32, 1000)


def test_text_in_another_script_is_refused_with_its_share_and_the_first_text(folder: Path, no_run: None) -> None:
    foreign = [f"Все люди рождаются свободными {i}" for i in range(40)]
    with pytest.raises(
        ValueError, match=r"\d\d\.\d% of its pieces are not in the model's vocabulary, such as in 'Все лю"
    ):
        calibrate(folder, foreign * 4)
    with pytest.raises(ValueError) as refused:
        calibrate(folder, foreign[:10])
    assert "there are 10 different texts" in str(refused.value) and "not in the model's vocabulary" in str(
        refused.value
    )


def test_doubtful_text_is_told_and_run(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = HEADS["masked-lm"].model_class.from_pretrained(folder)
    tokenizer = albert_fast.AlbertTokenizer.from_pretrained(folder)
    with caplog.at_level(logging.WARNING):
        choose(model, tokenizer, sentences())
    assert caplog.messages == []
    texts = sentences(100)
    some = [f"{text} Ж" for text in texts]
    with caplog.at_level(logging.WARNING):
        choose(model, tokenizer, some)
    assert len(caplog.messages) == 1 and "is doubtful: " in caplog.messages[0]
    caplog.clear()
    long = [text * 4 if i % 5 == 0 else text for i, text in enumerate(texts)]
    with caplog.at_level(logging.WARNING):
        chosen = choose(model, tokenizer, long)
    assert chosen.truncated == 20
    assert "20 of 100 calibration texts are longer than 40 tokens and are cut there" in caplog.messages[0]


def test_weights_that_are_not_finite_are_told_by_the_first_tensor_that_shows_it(folder: Path) -> None:
    model = HEADS["masked-lm"].model_class.from_pretrained(folder)
    with torch.no_grad():
        model.albert.encoder.albert_layer_groups[0].albert_layers[0].ffn.bias[3] = float("inf")
    with pytest.raises(ValueError, match=rf"{LAYER}\.ffn_output\.input of pass 0 is NaN or infinite.*damaged"):
        calibrate(model, sentences(), tokenizer=folder)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"method": "median"}, "method is 'median', expected one of max"),
        ({"percentile": 0}, "percentile is 0, expected a number above 0"),
        ({"max_texts": 31}, "max_texts is 31, expected a number of at least 32"),
        ({"batch_size": 0, "max_length": 1}, "max_length is 1, expected .* at least 3; batch_size is 0"),
        ({"attention": "flash"}, "attention is 'flash', expected one of eager, sdpa"),
        ({"head": "summary"}, "head is 'summary', expected one of"),
        ({"column": "text"}, "the list holds no rows by column"),
    ],
)
def test_wrong_words_are_refused(words: dict[str, Any], message: str, folder: Path, no_run: None) -> None:
    with pytest.raises(ValueError, match=message):
        calibrate(folder, sentences(), **words)


def test_a_live_model_without_its_tokenizer_or_in_training_is_refused(folder: Path, no_run: None) -> None:
    model = HEADS["masked-lm"].model_class.from_pretrained(folder)
    with pytest.raises(ValueError, match=r"comes without its tokenizer; pass tokenizer="):
        calibrate(model, sentences())
    with pytest.raises(ValueError, match=r"in training mode; call model\.eval\(\)"):
        calibrate(model.train(), sentences(), tokenizer=folder)


def test_ids_that_the_model_does_not_have_are_refused(folder: Path, no_run: None) -> None:
    with pytest.raises(ValueError, match=r"input_ids holds 96, expected 0\.\.95 .vocab_size is 96"):
        calibrate(folder, [Batch(torch.full((40, 30), 96))])
    with pytest.raises(ValueError, match="the text has 41 tokens, the model takes at most 40"):
        calibrate(folder, [Batch(torch.full((40, 41), 9))])


def test_batches_have_no_columns(folder: Path, no_run: None) -> None:
    with pytest.raises(ValueError, match="batches have no columns; leave column"):
        calibrate(folder, [Batch(torch.full((40, 30), 9))], column="text")


def test_the_table_of_how_many_texts_is_the_one_that_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    benchmarks = Path(__file__).parents[1] / "benchmarks"
    monkeypatch.syspath_prepend(str(benchmarks))
    table = importlib.import_module("int8_texts").table
    lines = table(json.loads((benchmarks / "results" / "int8_texts.json").read_text()))
    assert "\n".join(lines) in (benchmarks.parent / "docs" / "int8.md").read_text()


def test_every_stage_is_told(folder: Path) -> None:
    told: list[str] = []
    steps: list[str] = []
    calibrate(folder, sentences(), progress=told.append, step=steps.append)
    assert [stage.split(" ")[0] for stage in told] == [
        "reading",
        "loading",
        "choosing",
        "capturing",
        "running",
        "choosing",
    ]
    assert steps == ["running 60 texts in float32, 32 done", "running 60 texts in float32, 60 done"]


def test_smoothing_is_measured_or_of_a_given_strength_and_stands_in_the_scales(folder: Path) -> None:
    plain = calibrate(folder, sentences(), attention="sdpa")
    smoothed = calibrate(folder, sentences(), attention="sdpa", smooth=0.5)
    assert not plain.smoothing
    assert {name.removeprefix(f"{LAYER}.") for name in smoothed.smoothing} >= {"attention.input", "ffn.input"}
    assert smoothed.method == f"{plain.method}, smoothed"
    with pytest.raises(ValueError, match="smooth is 2, expected True, False or a number between 0 and 1"):
        calibrate(folder, sentences(), smooth=2)
