"""The measured error: what it holds, and when it is beyond a budget."""

from __future__ import annotations

import pytest
import torch

from albert_fast.engine.measure import MeasuredError, exceeded, measure
from albert_fast.precision import PRECISIONS

BUDGET = PRECISIONS["fp32"].budget


def test_equal_outputs_have_no_error() -> None:
    out = {"logits": torch.randn(3, 5)}
    error = measure(out, out)
    assert (error.max_abs, error.mean_abs, error.argmax_agreement) == (0.0, 0.0, 1.0)
    assert error.cosine == pytest.approx(1.0)
    assert exceeded(error, BUDGET) == []


def test_each_number_is_that_of_the_worst_output_of_the_worst_batch() -> None:
    reference = [{"a": torch.tensor([[1.0, 0.0]]), "b": torch.tensor([[0.0, 2.0]])}] * 2
    outputs = [
        {"a": torch.tensor([[1.0, 0.0]]), "b": torch.tensor([[3.0, 2.0]])},
        {"a": torch.tensor([[1.0, 0.5]]), "b": torch.tensor([[0.0, 2.0]])},
    ]
    error = measure(outputs, reference)
    assert (error.max_abs, error.mean_abs, error.argmax_agreement) == (3.0, 1.5, 0.5)  # the last over both batches
    assert error.cosine == pytest.approx(4 / (13**0.5 * 2))


def test_entries_that_the_reference_cannot_tell_apart_both_count_as_largest() -> None:
    assert measure({"a": torch.tensor([[1.0, 1.1]])}, {"a": torch.tensor([[1.0, 1.0]])}).argmax_agreement == 1.0


def test_entries_closer_together_than_a_precision_can_tell_both_count_as_largest() -> None:
    output, reference = {"a": torch.tensor([[1.0, 1.1], [0.0, 3.0]])}, {"a": torch.tensor([[1.04, 1.0], [2.0, 1.0]])}
    assert measure(output, reference, tie=0.05).argmax_agreement == 0.5
    assert measure(output, reference, tie=0.03).argmax_agreement == 0.0


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"a": torch.ones(2)}, r"the outputs are a, expected logits"),
        ({"logits": torch.ones(3)}, r"logits has shape \[3\], expected \[2\]"),
        ({"logits": torch.tensor([1.0, float("nan")])}, "the engine's logits holds numbers that are not finite"),
    ],
)
def test_outputs_that_cannot_be_compared_are_refused(output: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(output, {"logits": torch.ones(2)})


@pytest.mark.parametrize("field", ["max_abs", "mean_abs", "cosine", "argmax_agreement"])
def test_each_limit_of_a_budget_counts(field: str) -> None:
    worse = {"max_abs": 1.0, "mean_abs": 1.0, "cosine": 0.5, "argmax_agreement": 0.5}[field]
    error = MeasuredError(**{"max_abs": 0.0, "mean_abs": 0.0, "cosine": 1.0, "argmax_agreement": 1.0, field: worse})
    [words] = exceeded(error, BUDGET)
    assert field in words


def test_a_number_that_is_none_is_beyond_every_budget() -> None:
    assert len(exceeded(MeasuredError(*[float("nan")] * 4), BUDGET)) == 4
