"""fp32: the graph as it was captured."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.export import ExportedProgram


def prepare(program: ExportedProgram, dtype: torch.dtype, keep_float32: Sequence[str] = ()) -> ExportedProgram:
    """Return the program unchanged, after making sure that it is float32.

    Args:
        dtype: ``torch.float32``.
        keep_float32: of no effect: everything stays in float32.
    Raises:
        ValueError: a weight has another floating dtype; load the model with ``dtype=torch.float32``.
    """
    wrong = sorted(n for n, t in program.state_dict.items() if t.is_floating_point() and t.dtype != torch.float32)
    if wrong:
        raise ValueError(
            f"every precision starts from float32 weights, but {len(wrong)} are not, the first is {wrong[0]} "
            f"({program.state_dict[wrong[0]].dtype}); load the model with dtype=torch.float32"
        )
    return program
