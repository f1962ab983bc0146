"""How far an engine's outputs are from float32 eager, and whether that is within a budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class MeasuredError:
    """The error of an engine over all its outputs.

    Attributes:
        max_abs: largest absolute difference.
        mean_abs: mean absolute difference, of the worst output.
        cosine: cosine similarity of engine and reference, of the worst output.
        argmax_agreement: share of last dimensions whose largest entry is the reference's too, of the worst output.
            Entries that the reference itself holds within 1e-6 of its largest count as largest.
    """

    max_abs: float
    mean_abs: float
    cosine: float
    argmax_agreement: float


class Budget(Protocol):
    """The limits of a precision: ``max_abs`` and ``mean_abs`` from above, the other two from below."""

    @property
    def max_abs(self) -> float: ...
    @property
    def mean_abs(self) -> float: ...
    @property
    def cosine(self) -> float: ...
    @property
    def argmax_agreement(self) -> float: ...


def measure(
    outputs: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]],
    reference: Mapping[str, Tensor] | Sequence[Mapping[str, Tensor]],
) -> MeasuredError:
    """Compare the outputs of one batch, or of several, with the reference's.

    Args:
        outputs, reference: tensors by name, same names and shapes, any floating dtype and device; or a sequence of
            such, one per batch.
    Raises:
        ValueError: other names or shapes, or numbers that are not finite; the message names the output.
    """
    pairs = [(outputs, reference)] if isinstance(outputs, Mapping) else list(zip(outputs, reference, strict=True))
    errors = [_measure_one(name, out, ref) for o, r in pairs for name, out, ref in _matched(o, r)]  # type: ignore[arg-type]
    if not errors:
        raise ValueError("there is nothing to measure; give at least one batch with at least one output")
    return worst(errors)


def exceeded(error: MeasuredError, budget: Budget) -> list[str]:
    """What of ``error`` is beyond ``budget``, in words; empty when it holds."""
    found = [
        f"{name} is {getattr(error, name):.3g}, at most {getattr(budget, name):.3g} is allowed"
        for name in ("max_abs", "mean_abs")
        if not getattr(error, name) <= getattr(budget, name)
    ]
    return found + [
        f"{name} is {getattr(error, name):.6f}, at least {getattr(budget, name):.6f} is needed"
        for name in ("cosine", "argmax_agreement")
        if not getattr(error, name) >= getattr(budget, name)
    ]


def _matched(outputs: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> list[tuple[str, Tensor, Tensor]]:
    if set(outputs) != set(reference):
        raise ValueError(f"the outputs are {', '.join(outputs)}, expected {', '.join(reference)} as in the reference")
    return [(name, outputs[name], reference[name]) for name in reference]


class ErrorSums:
    """The error of one output over as many tensors as come, without keeping them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.max_abs = 0.0
        self._difference = self._products = self._outputs = self._references = 0.0
        self._numbers = self._rows = self._agreeing = 0

    def add(self, output: Tensor, reference: Tensor) -> float:
        """Count in a tensor and what it should be, of one shape; returns their largest absolute difference.

        Raises:
            ValueError: other shapes, or numbers that are not finite.
        """
        out, ref = output.detach().cpu().double(), reference.detach().cpu().double()
        if out.shape != ref.shape:
            raise ValueError(f"{self.name} has shape {list(out.shape)}, expected {list(ref.shape)} as in the reference")
        for whose, values in (("the engine's", out), ("the reference's", ref)):
            if not bool(torch.isfinite(values).all()):
                raise ValueError(
                    f"{whose} {self.name} holds numbers that are not finite; check the weights and the precision"
                )
        difference = (out - ref).abs()
        chosen = ref.gather(-1, out.argmax(-1, keepdim=True)).squeeze(-1)
        best = ref.amax(-1)
        largest = float(difference.max())
        self.max_abs = max(self.max_abs, largest)
        self._difference += float(difference.sum())
        self._products += float((out * ref).sum())
        self._outputs += float((out * out).sum())
        self._references += float((ref * ref).sum())
        self._numbers += out.numel()
        self._rows += best.numel()
        self._agreeing += int((chosen >= best - 1e-6 * best.abs().clamp(min=1.0)).sum())
        return largest

    def error(self) -> MeasuredError:
        """The error of all that was counted in; at least one tensor must have been."""
        norms = math.sqrt(self._outputs) * math.sqrt(self._references)
        cosine = self._products / norms if norms > 0 else float(self._outputs == self._references)
        return MeasuredError(
            self.max_abs, self._difference / self._numbers, min(cosine, 1.0), self._agreeing / self._rows
        )


def worst(errors: Sequence[MeasuredError]) -> MeasuredError:
    """The worst of each figure."""
    return MeasuredError(
        max_abs=max(e.max_abs for e in errors),
        mean_abs=max(e.mean_abs for e in errors),
        cosine=min(e.cosine for e in errors),
        argmax_agreement=min(e.argmax_agreement for e in errors),
    )


def _measure_one(name: str, output: Tensor, reference: Tensor) -> MeasuredError:
    sums = ErrorSums(name)
    sums.add(output, reference)
    return sums.error()
