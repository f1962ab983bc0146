"""Any shape in: a batch cut into pieces, and the answers put together.

That is done to a batch that no profile takes as it is, and, where a format's row says what a call costs, to one whose
padding costs more. Rows are sorted by their length first, so that short texts run with short texts: a piece is as long
as its longest row. Rows and columns are added where a profile asks for more than there is. Positions count from the
left, so only columns on the right, where no row has text, can be left out or added without changing an answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from albert_fast.batch import ShapeProfile
from albert_fast.engine.manifest import TensorSpec

PAYS_FROM = 0.05
"""A batch that fits a profile is cut where that saves at least this part of what it costs."""


@dataclass(frozen=True)
class Cutting:
    """What cutting a batch costs a format.

    Attributes:
        call_tokens: what one more call costs, as the number of tokens that are computed in the same time: where a line
            through times of a call over tokens begins, divided by its slope. It varies little with the model.
        least: fewest rows and columns of a piece of a batch that has as many: for what compiles code of its own when
            it meets a single one.
    """

    call_tokens: int
    least: int = 1


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


def plan_cheapest(
    lengths: Sequence[int], length: int, profiles: Sequence[ShapeProfile], cutting: Cutting, *, choices: int = 1
) -> list[Piece]:
    """Cut a batch into pieces that ``profiles`` take, at the least cost there is.

    The cost of a piece is the tokens that it computes, padding and added rows among them, and ``call_tokens``. No other
    partition of the rows costs less than the best one of rows in the order of their lengths, and that one is found by
    dynamic programming.

    Args:
        lengths: as ``text_lengths`` finds them.
        length: columns of the batch.
        profiles: at least one must take rows as long as the longest.
        choices: texts that a row holds.
    Returns:
        Pieces that hold every row once, longest rows first.
    """
    order = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    call = cutting.call_tokens / choices
    best: list[tuple[float, int, int, int]] = [(0.0, 0, 0, 0)]  # cost, and of the last piece: start, batch, length
    best += [(inf, 0, 0, 0)] * len(order)
    for start, row in enumerate(order):
        cost = best[start][0] + call
        for profile in profiles:
            if profile.max_length < lengths[row]:
                continue
            most = min(profile.max_batch, len(order) - start)
            fewest = max(profile.min_batch, min(cutting.least, len(order), profile.max_batch))
            columns = max(lengths[row], profile.min_length, min(cutting.least, length, profile.max_length))
            for taken in range(1, most + 1):
                found = cost + max(taken, fewest) * columns
                if found < best[start + taken][0]:
                    best[start + taken] = found, start, max(taken, fewest), columns
    pieces, end = [], len(order)
    while end:
        _, start, batch, columns = best[end]
        pieces.append(Piece(tuple(order[start:end]), batch, columns))
        end = start
    return pieces[::-1]


def plan_if_it_pays(mask: Tensor, profiles: Sequence[ShapeProfile], cutting: Cutting) -> list[Piece] | None:
    """``plan_cheapest`` for a batch that fits a profile; None where that would not save ``PAYS_FROM`` of its cost.

    Args:
        mask: ``[batch, length]`` or ``[batch, choices, length]``, nonzero where there is text.
    """
    if bool(mask.all()):
        return None
    rows, length = mask.shape[0], mask.shape[-1]
    choices = mask.shape[1] if mask.dim() == 3 else 1
    pieces = plan_cheapest(text_lengths(mask), length, profiles, cutting, choices=choices)
    whole = cost([Piece(tuple(range(rows)), rows, length)], cutting, choices=choices)
    return pieces if cost(pieces, cutting, choices=choices) <= (1 - PAYS_FROM) * whole else None


def cost(pieces: Sequence[Piece], cutting: Cutting, *, choices: int = 1) -> int:
    """What running the pieces costs, in tokens."""
    return sum(piece.batch * piece.length * choices + cutting.call_tokens for piece in pieces)


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
