"""What training minimises: the losses of the heads, as ``transformers`` defines them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over all labels but -100; ``logits`` ``[..., classes]``, ``labels`` ``[...]`` int64."""
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1))


def span_loss(logits: Tensor, positions: Tensor) -> Tensor:
    """Cross-entropy over positions; a position at or past the end is ignored."""
    length = logits.size(1)
    return F.cross_entropy(logits, positions.reshape(-1).clamp(0, length), ignore_index=length)


def regression_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error; a single output is compared as a plain number."""
    return F.mse_loss(logits.squeeze(), labels.squeeze()) if logits.shape[-1] == 1 else F.mse_loss(logits, labels)


CLASSIFICATION_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "regression": regression_loss,
    "single_label_classification": cross_entropy,
    "multi_label_classification": F.binary_cross_entropy_with_logits,
}


def classification_loss(logits: Tensor, labels: Tensor, problem_type: str | None) -> Tensor:
    """The loss of ``problem_type``; None infers it as ``transformers`` does."""
    if problem_type is None:
        one_label = labels.dtype in (torch.int64, torch.int32)
        problem_type = "single_label_classification" if one_label else "multi_label_classification"
        problem_type = "regression" if logits.shape[-1] == 1 else problem_type
    if problem_type not in CLASSIFICATION_LOSSES:
        raise ValueError(f"problem_type is {problem_type!r}, expected one of {', '.join(CLASSIFICATION_LOSSES)}")
    return CLASSIFICATION_LOSSES[problem_type](logits, labels)
