"""Any shape in: a batch that no profile takes as it is, cut into pieces that one takes, and the answers put together.

Rows are sorted by their length first, so that short texts run with short texts: a piece is as long as its longest row.
Rows and columns are added where a profile asks for more than there is. Positions count from the left, so only columns
on the right, where no row has text, can be left out or added without changing an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from albert_fast.batch import ShapeProfile
from albert_fast.engine.manifest import TensorSpec


@dataclass(frozen=True)
class Piece:
    """Rows of a batch that run together.

    Attributes:
        rows: their numbers in the caller's batch.
        batch, length: the shape they run in, at least ``len(rows)`` and the longest of them.
    """

    rows: tuple[int, ...]
    batch: int
    length: int


def plan(lengths: Sequence[int], profiles: Sequence[ShapeProfile]) -> list[Piece]:
    """Cut a batch into pieces that ``profiles`` take, computing as few padded tokens as may be.

    Longest rows first: each piece goes to the profile that spends the fewest tokens per row on what is left; where
    several spend the same, to the one that takes the most rows at once.

    Args:
        lengths: as ``text_lengths`` finds them.
        profiles: at least one must take rows as long as the longest.
    Returns:
        Pieces that hold every row once.
    """
    left = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    pieces = []
    while left:
        longest = lengths[left[0]]
        profile = min(
            (p for p in profiles if p.max_length >= longest),
            key=lambda p: (_tokens_per_row(p, len(left), longest), -p.max_batch, p.max_length),
        )
        taken, left = left[: profile.max_batch], left[profile.max_batch :]
        pieces.append(Piece(tuple(taken), max(len(taken), profile.min_batch), max(longest, profile.min_length)))
    return pieces


def text_lengths(mask: Tensor) -> list[int]:
    """For each row the number of columns up to its last nonzero one.

    A row without text keeps all its columns: what a model says to it depends on them.

    Args:
        mask: ``[batch, length]`` or ``[batch, choices, length]``; a row of choices is as long as its longest choice.
    """
    seen = (mask != 0).flatten(1, -2).any(1) if mask.dim() == 3 else mask != 0
    places = torch.arange(1, seen.shape[-1] + 1, device=seen.device)
    lengths = (seen * places).amax(-1)
    found: list[int] = torch.where(lengths > 0, lengths, seen.shape[-1]).tolist()
    return found


def cut(tensor: Tensor, piece: Piece) -> Tensor:
    """The piece's rows and columns of an input; added rows repeat the first one, added columns hold 0."""
    rows = [*piece.rows, *[piece.rows[0]] * (piece.batch - len(piece.rows))]
    taken = tensor[torch.tensor(rows, device=tensor.device)][..., : piece.length]
    missing = piece.length - taken.shape[-1]
    return torch.nn.functional.pad(taken, (0, missing)) if missing > 0 else taken


def join(
    answers: Sequence[tuple[Piece, Mapping[str, Tensor]]], specs: Sequence[TensorSpec], batch: int, length: int
) -> dict[str, Tensor]:
    """The pieces' outputs as those of the whole batch, in the caller's order of rows.

    Args:
        specs: of the outputs; a dimension called ``"length"`` is that of the tokens.
        batch, length: of the caller's batch.
    Returns:
        Outputs by name. Places behind the columns that a piece ran with hold 0.
    """
    joined = {}
    for spec in specs:
        along = [dimension.name for dimension in spec.dimensions].index("length") if per_token(spec) else None
        first = answers[0][1][spec.name]
        shape = [batch, *first.shape[1:]]
        if along is not None:
            shape[along] = length
        whole = first.new_zeros(shape)
        for piece, outputs in answers:
            part = outputs[spec.name][: len(piece.rows)]
            target = whole
            if along is not None:
                shared = min(piece.length, length)
                part, target = part.narrow(along, 0, shared), whole.narrow(along, 0, shared)
            target[torch.tensor(piece.rows, device=whole.device)] = part
        joined[spec.name] = whole
    return joined


def per_token(spec: TensorSpec) -> bool:
    """Whether an output has a dimension of tokens."""
    return any(dimension.name == "length" for dimension in spec.dimensions)


def _tokens_per_row(profile: ShapeProfile, rows: int, longest: int) -> float:
    """Tokens computed for each row that the profile's next piece takes away."""
    taken = min(rows, profile.max_batch)
    return max(taken, profile.min_batch) * max(longest, profile.min_length) / taken
