"""Answers at asked positions alone: what a batch asks, or each piece of it, and the answers in the caller's order.

A program that answers so has a fourth input, ``positions``, of at least one number. Where nothing is asked, its first
token is, and the answer left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from albert_fast.engine.formats import Run
from albert_fast.engine.manifest import TensorSpec
from albert_fast.engine.shapes import Piece, cut, join

ASKED = "asked"
"""The name of the dimension: of ``positions``, and of the outputs that are theirs."""


def per_asked(spec: TensorSpec) -> bool:
    """Whether an output has one row for each asked position."""
    return bool(spec.dimensions) and spec.dimensions[0].name == ASKED


def answer(
    run: Run,
    inputs: Sequence[Tensor],
    asked: Tensor,
    specs: Sequence[TensorSpec],
    pieces: Sequence[Piece] | None,
) -> dict[str, Tensor]:
    """Run a batch, or its pieces, and ask each what the caller asks of it.

    Args:
        inputs: of the whole batch, on the engine's device.
        asked: ``[batch, length]`` bool, there as well.
        specs: of the outputs.
        pieces: None where the batch runs as it is.
    Returns:
        Outputs by name; those per asked position ``[asked, ...]``, in row-major order of ``asked``.
    """
    if pieces is None:
        return _run(run, inputs, asked.flatten().nonzero().squeeze(-1), specs)
    numbers = asked.flatten().cumsum(0).view_as(asked) * asked  # 1 for the first position that is asked, 0 where none
    rest, theirs = [], []
    for piece in pieces:
        positions, places = _of(piece, numbers)
        found = _run(run, [cut(tensor, piece).contiguous() for tensor in inputs], positions, specs)
        rest.append((piece, found))
        theirs.append((places, found))
    whole = join(rest, [spec for spec in specs if not per_asked(spec)], asked.shape[0], asked.shape[-1])
    for spec in filter(per_asked, specs):
        first = theirs[0][1][spec.name]
        whole[spec.name] = first.new_zeros([int(asked.sum()), *first.shape[1:]])
        for places, found in theirs:
            whole[spec.name][places] = found[spec.name]
    return {spec.name: whole[spec.name] for spec in specs}


def by_row(outputs: Mapping[str, Tensor], specs: Sequence[TensorSpec], asked: Tensor) -> list[dict[str, Tensor]]:
    """For each row of a batch its own outputs; those at asked positions ``[asked in the row, ...]``.

    Args:
        outputs: of an engine, whether or not it answers at asked positions alone.
        asked: ``[batch, length]`` bool, ``Batch.asked_or_text()``; or of choices.
    """
    counts = asked.flatten(1).sum(-1).tolist()
    parts = {one.name: outputs[one.name].split(counts) if per_asked(one) else outputs[one.name] for one in specs}
    return [{name: part[row] for name, part in parts.items()} for row in range(len(counts))]


def _of(piece: Piece, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """What of the asked positions lies in a piece: indices into its tokens, and their places among all that is asked.

    Rows that the piece repeats to be large enough are asked nothing.
    """
    mine = cut(numbers, piece)
    mine[len(piece.rows) :] = 0
    mine = mine.flatten()
    positions = mine.nonzero().squeeze(-1)
    return positions, mine[positions] - 1


def _run(run: Run, inputs: Sequence[Tensor], positions: Tensor, specs: Sequence[TensorSpec]) -> dict[str, Tensor]:
    """One call; what the program needs to be asked at least, and nobody wants, is left out."""
    nothing = len(positions) == 0
    outputs = run(*inputs, positions.new_zeros(1) if nothing else positions)
    return {spec.name: outputs[spec.name][:0] if nothing and per_asked(spec) else outputs[spec.name] for spec in specs}
