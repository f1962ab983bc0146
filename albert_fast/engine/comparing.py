"""What of an engine's answers is compared with a reference's: all of it, or, where padding is left out, the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from albert_fast.batch import Batch
from albert_fast.engine.asked import per_asked
from albert_fast.engine.manifest import TensorSpec
from albert_fast.engine.measure import TIE, MeasuredError, measure
from albert_fast.engine.shapes import per_token

Answers = Mapping[str, Tensor]


def compared(
    answers: Sequence[Answers],
    references: Sequence[tuple[Batch, Answers]],
    outputs: Sequence[TensorSpec],
    *,
    skips_padding: bool,
    cuts: bool,
    tie: float = TIE,
) -> MeasuredError:
    """The error of an engine's answers to batches whose right answers are known.

    Args:
        answers: one for each batch.
        outputs: their names and dimensions.
        skips_padding: of the format's row: compare text alone, see ``at_text``.
        cuts: whether the engine cuts batches: compare text alone, and what it says to texts without a token.
        tie: see ``measure.ErrorSums``.
    Raises:
        ValueError: as ``measure``.
    """
    expected = [reference for _, reference in references]
    if not skips_padding and not cuts:
        return measure(answers, expected, tie=tie)
    pairs = [
        at_text(mine, theirs, batch.tensors()[1], outputs, empty_texts=not skips_padding)
        for mine, (batch, theirs) in zip(answers, references, strict=True)
    ]
    return measure([mine for mine, _ in pairs], [theirs for _, theirs in pairs], tie=tie)


def at_text(
    found: Answers, expected: Answers, mask: Tensor, outputs: Sequence[TensorSpec], *, empty_texts: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Two answers to a batch without what stands at padding.

    Args:
        mask: ``[batch, length]`` or ``[batch, choices, length]``, nonzero where there is text.
        empty_texts: whether rows that have a text of no token stay as well.
    Returns:
        Both: ``[tokens, scores]`` where each token has scores; where each is one score among its text's, the
        reference's smallest number stands at padding in both; other outputs, and those at asked positions, as they are.
    """
    seen = (mask != 0).cpu()
    rows = seen.any(-1) if seen.dim() == 2 else seen.any(-1).all(-1)
    rows = rows | empty_texts
    mine, theirs = {}, {}
    for spec in outputs:
        if per_asked(spec):
            mine[spec.name], theirs[spec.name] = found[spec.name], expected[spec.name]
            continue
        one, other = found[spec.name].cpu()[rows], expected[spec.name].cpu()[rows]
        if per_token(spec) and one.shape == other.shape and other.numel():
            if one.dim() == seen.dim():
                one, other = (torch.where(seen[rows], value, other.min()) for value in (one, other))
            else:
                one, other = one[seen[rows]], other[seen[rows]]
        mine[spec.name], theirs[spec.name] = one, other
    return mine, theirs
