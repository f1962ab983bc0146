"""How far two programs' answers are apart on the same text: answers changed, accuracy lost, divergence in nats."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from albert_fast.batch import Batch

ANSWERS = {
    "logits": "classes",
    "prediction_logits": "classes",
    "sop_logits": "classes",
    "start_logits": "places",
    "end_logits": "places",
}
"""Outputs that a top-1 answer can be read from, ``[rows, classes]`` or ``[rows, length, classes]``; or an answer among
the places of a text, ``[rows, length]``."""
UNLABELLED = -100
"""A label that is not counted, as in Hugging Face's losses."""

Labels = Tensor | Mapping[str, Tensor]
"""Of one batch: class indices of the program's only answer, or of each answer by its output's name."""


@dataclass(frozen=True)
class Count:
    """Answers compared: how many, how many changed against float32, and with labels how many were right in each."""

    answers: int = 0
    changed: int = 0
    right: int = 0
    right_in_float32: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(
            self.answers + other.answers,
            self.changed + other.changed,
            self.right + other.right,
            self.right_in_float32 + other.right_in_float32,
        )


def scores(outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    """The numbers that answers are chosen from: ``{output: [answers, choices]}``, padding left out.

    Raises:
        ValueError: the program gives no answer that could change.
    """
    mask = batch.tensors()[1] != 0
    found = {}
    for name, output in outputs.items():
        kind = ANSWERS.get(name)
        if kind == "places":
            found[name] = output.masked_fill(~mask.to(output.device), -math.inf)
        elif kind == "classes" and output.shape[-1] > 1:
            found[name] = output[mask.to(output.device)] if output.dim() == 3 else output
    if not found:
        raise ValueError(
            f"the program's outputs are {', '.join(outputs)}, none of which chooses among classes; "
            "a drop is counted in answers, so capture the model under the head that will use it"
        )
    return found


def answers(outputs: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    """The top-1 answers by output, int64."""
    return {name: one.argmax(-1).cpu() for name, one in scores(outputs, batch).items()}


def chosen_labels(labels: Labels, expected: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
    """The labels of a batch, laid out as its answers are.

    Raises:
        ValueError: they are of another shape, or for an output that there is not.
    """
    if isinstance(labels, Tensor):
        if len(expected) > 1:
            raise ValueError(f"the program answers {', '.join(expected)}; give labels of each by its name")
        labels = dict.fromkeys(expected, labels)
    unknown = [name for name in labels if name not in expected]
    if unknown:
        raise ValueError(f"labels are for {', '.join(unknown)}, the program answers {', '.join(expected)}")
    mask = batch.tensors()[1] != 0
    laid = {n: (one[mask.cpu()] if one.dim() == 2 and one.shape == mask.shape else one) for n, one in labels.items()}
    wrong = [name for name, one in laid.items() if one.shape != expected[name].shape]
    if wrong:
        name = wrong[0]
        raise ValueError(
            f"labels of {name} have shape {tuple(labels[name].shape)}, which gives {tuple(laid[name].shape)} for "
            f"{tuple(expected[name].shape)} answers; expected one label a row, or [rows, length] for one a token"
        )
    return laid


def count(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], labels: Mapping[str, Tensor] | None) -> Count:
    """Compare the answers of one batch with float32's; with labels only where there is a label."""
    total = Count()
    for name in expected if labels is None else labels:
        mine, theirs = found[name], expected[name]
        if labels is None:
            total += Count(mine.numel(), int((mine != theirs).sum()))
            continue
        there = labels[name] != UNLABELLED
        mine, theirs, label = mine[there], theirs[there], labels[name][there]
        changed = int((mine != theirs).sum())
        total += Count(mine.numel(), changed, int((mine == label).sum()), int((theirs == label).sum()))
    return total


def divergence(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], batch: Batch) -> tuple[float, int]:
    """Kullback-Leibler divergence of the softmax of ``found`` from that of ``expected``.

    Returns:
        Its sum in nats, over all answers of all outputs, and how many answers those are.
    """
    mine, theirs = scores(found, batch), scores(expected, batch)
    total, number = 0.0, 0
    for name, reference in theirs.items():
        p, q = reference.double().log_softmax(-1), mine[name].double().log_softmax(-1)
        terms = torch.where(p.isfinite(), p.exp() * (p - q), 0.0)
        total, number = total + float(terms.sum()), number + reference.shape[0]
    return total, number


def as_percent(part: int, whole: int) -> float:
    """Share in per cent; of nothing 0."""
    return 100 * part / whole if whole else 0.0


def check_labels(labels: Sequence[Labels] | None, batches: Sequence[Batch]) -> None:
    """Refuse labels that cannot belong to the batches.

    Raises:
        ValueError: there are more or fewer than batches.
    """
    if labels is not None and len(labels) != len(batches):
        raise ValueError(f"there are {len(batches)} batches and labels for {len(labels)}; give one tensor a batch")
