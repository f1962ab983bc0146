"""Any shape in: how a batch is cut into pieces, what runs, and that rows come back in the caller's order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engine_samples import BUDGET, batch_of, differ, eager_answers, small_model
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from albert_fast.batch import Batch, ShapeProfile
from albert_fast.engine import Engine
from albert_fast.engine.manifest import Dimension, TensorSpec
from albert_fast.engine.shapes import Piece, plan, text_lengths

SMALL, LARGE = ShapeProfile.parse("1x1:1x8:2x16"), ShapeProfile.parse("4x1:4x16:8x48")
OUTPUTS = (
    TensorSpec("prediction_logits", "float32", (Dimension("batch", 1, 8), Dimension("length", 1, 48))),
    TensorSpec("sop_logits", "float32", (Dimension("batch", 1, 8),)),
)


class Recorder:
    """Runs the small model, remembers the shapes that it is given, and refuses those that no profile takes."""

    def __init__(self, profiles: tuple[ShapeProfile, ...]) -> None:
        self.profiles, self.shapes = profiles, list[tuple[int, ...]]()

    def __call__(self, ids: Tensor, mask: Tensor, types: Tensor) -> dict[str, Tensor]:
        assert any(profile.fits(ids.shape[0], ids.shape[-1]) for profile in self.profiles)
        self.shapes.append(tuple(ids.shape))
        return eager_answers(small_model(), Batch(ids, mask, types))


def engine_over(*profiles: ShapeProfile) -> tuple[Engine, Recorder]:
    recorder = Recorder(profiles)
    engine = Engine(
        recorder, config=small_model().config, head="pretraining", format="test", device="cpu", profiles=profiles,
        outputs=OUTPUTS, ids_rank=2,
    )  # fmt: skip
    return engine, recorder


def texts(*lengths: int, width: int) -> Batch:
    """One row for each length, padded on the right."""
    ids = torch.randint(5, 97, (len(lengths), width))
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    return Batch(ids * mask, mask, torch.zeros_like(ids))


def assert_answers_like_eager(engine: Engine, batch: Batch) -> None:
    """Where there is text, in every row; places without text mean nothing."""
    found, expected = engine(batch), eager_answers(small_model(), batch)
    assert {name: value.shape for name, value in found.items()} == {n: v.shape for n, v in expected.items()}
    seen = (batch.tensors()[1] != 0)[..., None]
    found["prediction_logits"] = found["prediction_logits"] * seen
    expected["prediction_logits"] = expected["prediction_logits"] * seen
    assert differ(found, expected) <= BUDGET.max_abs


def test_a_batch_that_fits_runs_as_it_is() -> None:
    engine, recorder = engine_over(SMALL)
    engine(batch_of(2, 16))
    assert recorder.shapes == [(2, 16)]


def test_more_rows_than_the_profile_run_in_pieces_sorted_by_length_and_come_back_in_order() -> None:
    engine, recorder = engine_over(SMALL)
    batch = texts(3, 16, 5, 1, 9, width=16)
    assert_answers_like_eager(engine, batch)
    assert recorder.shapes == [(2, 16), (2, 5), (1, 1)]


def test_fewer_rows_and_columns_than_the_profile_are_filled_up_and_cut_back() -> None:
    engine, recorder = engine_over(ShapeProfile.parse("4x8:4x16:8x48"))
    batch = texts(3, 2, width=5)
    assert_answers_like_eager(engine, batch)
    assert recorder.shapes == [(4, 8)]


def test_padding_on_the_left_keeps_its_columns() -> None:
    engine, recorder = engine_over(SMALL)
    batch = batch_of(3, 9, padding="left")
    assert_answers_like_eager(engine, batch)
    assert recorder.shapes[0] == (2, 9)


def test_a_row_without_text_keeps_its_columns_so_that_its_answer_stays_the_same() -> None:
    assert text_lengths(torch.tensor([[0, 0, 0], [0, 1, 0]])) == [3, 2]
    engine, recorder = engine_over(SMALL)
    batch = texts(0, 3, 0, 2, width=6)
    assert_answers_like_eager(engine, batch)
    assert recorder.shapes == [(2, 6), (2, 3)]


def test_a_row_of_choices_is_as_long_as_its_longest_choice() -> None:
    assert text_lengths(torch.tensor([[[1, 0, 0], [1, 1, 0]], [[1, 0, 0], [0, 0, 0]]])) == [2, 1]


def test_the_smallest_profile_that_fits_is_chosen() -> None:
    engine, recorder = engine_over(LARGE, SMALL)
    engine(batch_of(5, 40))
    engine(texts(40, width=40))  # rows are added for the only profile that is long enough
    assert recorder.shapes == [(5, 40), (4, 40)]
    assert plan([8, 8, 8], [SMALL, LARGE]) == [Piece((0, 1), 2, 8), Piece((2,), 1, 8)]
    assert plan([8] * 8, [SMALL, LARGE]) == [Piece(tuple(range(8)), 8, 8)]


def test_a_text_longer_than_every_profile_is_refused_before_any_work() -> None:
    engine, recorder = engine_over(SMALL)
    with pytest.raises(ValueError, match=r"length 17 is beyond 16 of the engine's profile 1x1:1x8:2x16; truncate"):
        engine(batch_of(3, 17))
    assert recorder.shapes == []


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 48), min_size=1, max_size=40),
    shapes=st.lists(
        st.tuples(st.integers(1, 6), st.integers(0, 6), st.integers(1, 20), st.integers(0, 30)), min_size=0, max_size=3
    ),
)
def test_every_row_is_in_one_piece_and_every_piece_fits_a_profile(lengths: list[int], shapes: Any) -> None:
    profiles = [ShapeProfile(b, b, b + more, s, s, s + longer) for b, more, s, longer in shapes] + [LARGE]
    pieces = plan(lengths, profiles)
    assert sorted(row for piece in pieces for row in piece.rows) == list(range(len(lengths)))
    for piece in pieces:
        assert any(profile.fits(piece.batch, piece.length) for profile in profiles)
        assert piece.length >= max(lengths[row] for row in piece.rows) and piece.batch >= len(piece.rows)
