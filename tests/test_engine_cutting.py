"""Batches of mixed lengths: what they are cut into, that answers at text stay, and that little padding is computed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from engine_samples import BUDGET, RUNNABLE, differ, eager_answers, engine_file, engine_of, small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine_shapes import OUTPUTS, Recorder, assert_answers_like_eager, texts
from torch import Tensor

from albert_fast.batch import Batch, ShapeProfile
from albert_fast.cli.workload import Shape
from albert_fast.engine import FORMATS, Engine, load
from albert_fast.engine.comparing import at_text
from albert_fast.engine.shapes import Cutting, Piece, cost, plan_cheapest, plan_if_it_pays, text_lengths

WIDE = ShapeProfile.parse("1x1:4x16:8x48")
CHEAP = Cutting(call_tokens=2)
CUTTING = [name for name, row in FORMATS.items() if row.cutting is not None]
every_cutting_format = pytest.mark.parametrize("format", [row for row in RUNNABLE if row.values[0] in CUTTING])


def engine_over(profile: ShapeProfile, cutting: Cutting | None = CHEAP) -> tuple[Engine, Recorder]:
    recorder = Recorder((profile,))
    engine = Engine(
        recorder, config=small_model().config, head="pretraining", format="test", device="cpu", profiles=(profile,),
        outputs=OUTPUTS, ids_rank=2, cutting=cutting,
    )  # fmt: skip
    return engine, recorder


def partitions(rows: list[int]) -> Iterator[list[list[int]]]:
    """Every way to put the rows into pieces."""
    if not rows:
        yield []
        return
    for rest in partitions(rows[1:]):
        yield [rows[:1], *rest]
        for index, piece in enumerate(rest):
            yield [*rest[:index], [rows[0], *piece], *rest[index + 1 :]]


@settings(deadline=None, max_examples=150)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=6),
    shape=st.tuples(st.integers(1, 3), st.integers(0, 4), st.integers(1, 8)),
    cutting=st.builds(Cutting, call_tokens=st.integers(0, 30), least=st.integers(1, 2)),
    choices=st.integers(1, 3),
)
def test_no_other_partition_of_the_rows_costs_less(
    lengths: list[int], shape: tuple[int, int, int], cutting: Cutting, choices: int
) -> None:
    profile = ShapeProfile(shape[0], shape[0], shape[0] + shape[1], shape[2], 20, 20)
    fewest = max(profile.min_batch, min(cutting.least, len(lengths), profile.max_batch))
    narrowest = max(profile.min_length, cutting.least)

    def price(rows: list[int]) -> int:
        batch, length = max(len(rows), fewest), max(narrowest, *(lengths[row] for row in rows))
        return batch * length * choices + cutting.call_tokens

    cheapest = min(
        sum(price(piece) for piece in pieces)
        for pieces in partitions(list(range(len(lengths))))
        if all(len(piece) <= profile.max_batch for piece in pieces)
    )
    found = plan_cheapest(lengths, 20, [profile], cutting, choices=choices)
    assert sorted(row for piece in found for row in piece.rows) == list(range(len(lengths)))
    assert all(profile.fits(piece.batch, piece.length) for piece in found)
    assert all(piece.length >= lengths[row] for piece in found for row in piece.rows)
    assert cost(found, cutting, choices=choices) == cheapest


def test_a_batch_that_fits_is_cut_into_rows_of_like_length_and_comes_back_in_order() -> None:
    engine, recorder = engine_over(WIDE)
    assert_answers_like_eager(engine, texts(3, 40, 5, 4, 38, width=40))
    assert recorder.shapes == [(2, 40), (3, 5)]


def test_a_single_padded_text_runs_without_its_padding() -> None:
    engine, recorder = engine_over(WIDE)
    assert_answers_like_eager(engine, texts(7, width=40))
    assert recorder.shapes == [(1, 7)]


@pytest.mark.parametrize(
    ("lengths", "width"), [((9, 9, 9), 9), ((40, 39, 40, 39), 40), ((1, 1), 2)], ids=["none", "little", "small"]
)
def test_what_holds_too_little_padding_runs_as_it_is(lengths: tuple[int, ...], width: int) -> None:
    engine, recorder = engine_over(WIDE, Cutting(call_tokens=40))
    engine(texts(*lengths, width=width))
    assert recorder.shapes == [(len(lengths), width)]


def test_a_batch_without_padding_is_given_to_the_run_without_a_copy() -> None:
    seen: list[Tensor] = []
    engine, recorder = engine_over(WIDE)
    engine._run = lambda *inputs: seen.extend(inputs) or recorder(*inputs)
    batch = Batch(torch.ones(2, 9, dtype=torch.int64), torch.ones(2, 9, dtype=torch.int64))
    engine(batch)
    assert seen[0].data_ptr() == batch.input_ids.data_ptr()


def test_rows_without_text_keep_their_columns_and_so_their_answers() -> None:
    engine, recorder = engine_over(WIDE)
    batch = texts(0, 3, 2, 0, 1, width=30)
    assert_answers_like_eager(engine, batch)
    assert recorder.shapes == [(2, 30), (3, 3)]


def test_pieces_keep_to_the_profiles_minimum_and_a_static_one_is_not_cut() -> None:
    engine, recorder = engine_over(ShapeProfile.parse("2x8:4x16:8x48"))
    assert_answers_like_eager(engine, texts(48, 2, 3, 1, width=48))
    assert recorder.shapes == [(2, 48), (2, 8)]
    static, recorder = engine_over(ShapeProfile.parse("4x16"))
    assert_answers_like_eager(static, texts(16, 2, 3, 1, width=16))
    assert recorder.shapes == [(4, 16)]


def test_a_format_that_compiles_anew_for_a_single_row_gets_none_unless_the_batch_is_one() -> None:
    engine, recorder = engine_over(WIDE, Cutting(2, least=2))
    assert_answers_like_eager(engine, texts(48, 1, 1, 1, width=48))
    assert_answers_like_eager(engine, texts(3, width=48))
    assert recorder.shapes == [(2, 48), (2, 2), (1, 3)]


def test_a_batch_beyond_the_profile_is_cut_at_the_least_cost() -> None:
    engine, recorder = engine_over(WIDE)
    assert_answers_like_eager(engine, texts(*[3] * 9, 40, 40, 40, width=40))
    assert recorder.shapes == [(3, 40), (1, 3), (8, 3)]


def test_per_token_answers_are_zero_behind_the_end_of_a_piece() -> None:
    engine, _ = engine_over(WIDE)
    answers = engine(texts(3, 40, width=40))["prediction_logits"]
    assert answers[0, :3].any(-1).all() and not answers[0, 3:].any()


def test_a_row_of_choices_costs_all_of_its_choices() -> None:
    mask = torch.zeros(4, 3, 10, dtype=torch.int64)
    mask[0], mask[1:, :, :6] = 1, 1
    assert plan_if_it_pays(mask, [WIDE], Cutting(40)) is None
    pieces = plan_if_it_pays(mask, [WIDE], Cutting(20))
    assert pieces == [Piece((0,), 1, 10), Piece((1, 2, 3), 3, 6)]


@pytest.mark.parametrize("call_tokens", [2, 16, 32])
@pytest.mark.parametrize("shape", ["8x128 mixed", "32x128 mixed", "32x512 mixed"])
def test_little_more_is_computed_than_the_text_of_a_batch_of_real_lengths(shape: str, call_tokens: int) -> None:
    lengths, profile = Shape.parse(shape).lengths(), ShapeProfile(1, 8, 32, 1, 128, 512)
    pieces = plan_cheapest(lengths, max(lengths), [profile], Cutting(call_tokens))
    computed = sum(piece.batch * piece.length for piece in pieces)
    assert sum(lengths) <= computed <= 1.25 * sum(lengths) <= 0.55 * len(lengths) * max(lengths)
    assert len(pieces) < len(lengths)


@every_cutting_format
@pytest.mark.parametrize("lengths", [(48, 3, 5, 2), (48, 0, 4, 1), (6,), (30, 30, 2)], ids=str)
def test_an_engine_that_cuts_answers_like_eager_at_text(format: str, lengths: tuple[int, ...]) -> None:
    engine, batch = cutting_engine(format), texts(*lengths, width=48)
    shapes: list[tuple[int, ...]] = []
    run = engine._run
    engine._run = lambda *inputs: shapes.append(tuple(inputs[0].shape)) or run(*inputs)
    try:
        found = engine(batch)
    finally:
        engine._run = run
    assert sum(rows * length for rows, length in shapes) < 0.8 * batch.input_ids.numel()
    mine, theirs = at_text(
        found, eager_answers(small_model(), batch), batch.tensors()[1], engine.outputs, empty_texts=True
    )
    assert differ(mine, theirs) <= BUDGET.max_abs


def test_inductor_compiles_nothing_new_for_the_pieces_of_a_batch() -> None:
    engine = engine_of("inductor")
    engine(texts(20, 20, 20, width=20))
    with torch.compiler.set_stance("fail_on_recompile"):
        for lengths in ((48, 1, 1, 1), (48, 3), (40, 41, 2, 7)):
            engine(texts(*lengths, width=48))


def test_multiple_choice_is_cut_by_the_longest_choice_of_a_row() -> None:
    engine, model = load(engine_file("exported_program", "multiple-choice")), small_model("multiple-choice")
    ids = torch.randint(5, 97, (3, 2, 40))
    ends = torch.tensor([[3, 5], [40, 2], [4, 1]])
    mask = (torch.arange(40) < ends[..., None]).long()
    batch, shapes, run = Batch(ids, mask), list[tuple[int, ...]](), engine._run
    engine._run = lambda *inputs: shapes.append(tuple(inputs[0].shape)) or run(*inputs)
    assert text_lengths(mask) == [5, 40, 4]
    assert differ(engine(batch), eager_answers(model, batch)) <= BUDGET.max_abs
    assert shapes == [(1, 2, 40), (2, 2, 5)]


def test_a_file_whose_notes_say_so_is_never_cut_and_neither_is_an_engine_on_a_gpu() -> None:
    row = FORMATS["saved_model"]
    assert row.cutting_on("cpu", {"xla": "no"}) == row.cutting
    assert row.cutting_on("cpu", {"xla": "yes"}) is None
    assert FORMATS["aotinductor"].cutting_on("cuda:0", {}) is None
    assert {name for name, row in FORMATS.items() if "cpu" in row.devices} - set(CUTTING) == {"native"}


def cutting_engine(format: str) -> Any:
    """An engine whose row says that it cuts."""
    engine = engine_of(format)
    assert engine.cutting == FORMATS[format].cutting is not None
    return engine
