"""Vocabulary scores at asked positions alone, up to the typed graph: batch, model, capture and precisions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from precision_samples import HALVES, PROFILE, batches_of, graph_of, largest_difference, model_of
from torch import Tensor
from torch.export import ExportedProgram

from albert_fast.batch import Batch, ShapeProfile
from albert_fast.capture import capture
from albert_fast.heads import HEADS
from albert_fast.precision import Quantization, prepare
from albert_fast.precision.calibration import collect
from albert_fast.precision.sites import sites

ASKABLE = [name for name, head in HEADS.items() if head.asked]
IDS = torch.ones(2, 5, dtype=torch.int64)


def asking(batch: Batch, *, share: float = 0.4, seed: int = 0) -> Batch:
    """The batch with some of its places asked for, at least one."""
    asked = torch.rand(batch.input_ids.shape, generator=torch.Generator().manual_seed(seed)) < share
    asked[0, 0] = True
    return Batch(batch.input_ids, batch.attention_mask, batch.token_type_ids, asked)


def answers_at_asked(program: ExportedProgram, batches: list[Batch]) -> list[dict[str, Tensor]]:
    run = program.module(check_guards=False)
    with torch.inference_mode():
        return [run(*batch.tensors(), batch.positions()) for batch in batches]


def full_answers_at_asked(program: ExportedProgram, head: str, batches: list[Batch]) -> list[dict[str, Tensor]]:
    """What a program that answers everywhere says, and of that what was asked."""
    run = program.module(check_guards=False)
    with torch.inference_mode():
        found = [(batch, run(*batch.tensors())) for batch in batches]
    return [
        {n: value[batch.asked] if n in HEADS[head].asked else value for n, value in one.items()} for batch, one in found
    ]


def test_a_batch_asks_in_row_major_order_and_without_words_wherever_there_is_text() -> None:
    mask = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    assert Batch(IDS, mask).positions().tolist() == [0, 1, 5, 6, 7]
    asked = torch.zeros(2, 5, dtype=torch.bool)
    asked[1, 0] = asked[0, 3] = True
    assert Batch(IDS, mask, asked=asked).positions().tolist() == [3, 5]
    assert Batch(IDS, asked=torch.zeros_like(asked)).positions().shape == (0,)


def test_a_batch_keeps_what_it_asks_when_it_moves_is_cast_or_filled_up() -> None:
    asked = IDS == 1
    for moved in (Batch(IDS, asked=asked).to(torch.int32), Batch(IDS, asked=asked).to("cpu"), Batch(IDS, asked=asked)):
        assert moved.filled().asked is not None and moved.filled().asked.dtype == torch.bool  # type: ignore[union-attr]


@pytest.mark.parametrize("head", ASKABLE)
def test_a_model_scores_the_positions_that_it_is_given_in_their_order(head: str) -> None:
    model, (name,) = model_of(head), HEADS[head].asked
    batch = batches_of(head)[0]
    positions = torch.tensor([7, 2, 7, 0])
    with torch.inference_mode():
        found, full = model(*batch.tensors(), positions=positions), model(*batch.tensors())
    torch.testing.assert_close(found[name], full[name].flatten(0, 1)[positions], atol=1e-6, rtol=1e-5)


def test_the_loss_at_the_labelled_positions_is_the_loss() -> None:
    model, batch = model_of("masked-lm"), batches_of("masked-lm")[0]
    labels = torch.full_like(batch.input_ids, -100)
    labels[0, 3], labels[1, 1] = 5, 9
    at = (labels != -100).flatten().nonzero().squeeze(-1)
    with torch.inference_mode():
        whole = model(*batch.tensors(), labels=labels).loss
        asked = model(*batch.tensors(), labels=labels, positions=at).loss
    torch.testing.assert_close(asked, whole)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        (torch.tensor([0, 10]), r"positions holds 10, expected 0\.\.9"),
        (torch.tensor([-1]), r"positions holds -1, expected 0\.\.9"),
        (torch.ones(2, 5, dtype=torch.bool), r"torch\.bool \[2, 5\], expected torch\.int64 \[asked\]"),
        (torch.tensor([0], dtype=torch.int32), r"torch\.int32 \[1\]"),
    ],
)
def test_a_model_refuses_positions_that_are_no_places_of_its_batch(positions: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model_of("masked-lm")(IDS, positions=positions)


@pytest.mark.parametrize(
    ("head", "profile"),
    [
        ("pretraining", "1x1:4x16:8x64"),
        *(("masked-lm", one) for one in ("1x1:4x16:8x64", "1x1", "2x8", "1x1:1x8:1x64")),
    ],
)
def test_a_program_answers_at_asked_positions_as_the_whole_one_does(head: str, profile: str) -> None:
    shapes, model = ShapeProfile.parse(profile), model_of(head)
    program = capture(model, shapes, asked=True)
    batches = [asking(batch) for batch in batches_of(head, shapes)]
    expected = full_answers_at_asked(capture(model, shapes), head, batches)
    assert largest_difference(answers_at_asked(program, batches), expected) <= 2e-6


@pytest.mark.parametrize("head", [name for name in HEADS if name not in ASKABLE])
def test_capture_refuses_heads_without_vocabulary_scores(head: str) -> None:
    with pytest.raises(ValueError, match=f"the head '{head}' has no scores .* only pretraining, masked-lm have"):
        capture(model_of(head), PROFILE, asked=True)


@pytest.mark.parametrize(("head", "precision"), list(zip(ASKABLE, HALVES, strict=True)))
def test_16_bits_round_alike_at_asked_positions_and_everywhere(precision: str, head: str) -> None:
    program = prepare(capture(model_of(head), PROFILE, asked=True), precision)
    batches = [asking(batch) for batch in batches_of(head)]
    expected = full_answers_at_asked(prepare(graph_of(head), precision), head, batches)
    assert largest_difference(answers_at_asked(program, batches), expected) <= 0.02  # sums of other shapes round apart


def quantized(program: ExportedProgram, scales: Any) -> ExportedProgram:
    return prepare(program, "int8", quantization=Quantization(scales, parts=("encoder", "embeddings", "heads")))


@pytest.mark.parametrize("head", ASKABLE)
def test_scales_of_either_program_serve_the_other(head: str) -> None:
    whole, asked = graph_of(head), capture(model_of(head), PROFILE, asked=True)
    assert [site.place for site in sites(asked)] == [site.place for site in sites(whole)]
    batches = batches_of(head)
    of_whole, of_asked = (collect(program, batches).scales("max") for program in (whole, asked))
    assert list(of_asked.amax) == list(of_whole.amax)
    for tensor, passes in of_whole.amax.items():
        assert of_asked.amax[tensor] == pytest.approx(passes, rel=1e-5)
    asking_batches = [asking(batch) for batch in batches]
    for scales in (of_whole, of_asked):
        found = answers_at_asked(quantized(asked, scales), asking_batches)
        expected = full_answers_at_asked(quantized(whole, scales), head, asking_batches)
        assert largest_difference(found, expected) <= 0.02


def test_a_program_is_calibrated_on_what_a_batch_asks() -> None:
    program = capture(model_of("masked-lm"), PROFILE, asked=True)
    batch = batches_of("masked-lm")[0]
    everything, some = (collect(program, [one]).scales("max") for one in (batch, asking(batch, share=0.1)))
    tensor = "predictions.dense.input"
    assert some.amax[tensor][0] < everything.amax[tensor][0]
    assert (
        some.amax["encoder.embedding_hidden_mapping_in.input"]
        == everything.amax["encoder.embedding_hidden_mapping_in.input"]
    )
