"""What a 16-bit engine must leave in float32: the tensors that are named, and those found too large for float16."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.export import ExportedProgram

from albert_fast.batch import Batch
from albert_fast.capture import capture
from albert_fast.precision.ranges import overflowing
from albert_fast.recipe.collecting import choose, shapes_of
from albert_fast.recipe.words import Recipe


def too_large(
    recipe: Recipe,
    rest: str,
    program: ExportedProgram,
    batches: Sequence[Batch],
    model: Any,
    tokenizer: Any,
    tell: Callable[[str], None],
) -> dict[str, float]:
    """The tensors whose numbers float16 cannot hold, with the largest magnitude of each; of other precisions none.

    Args:
        rest: the precision that everything which is not quantized computes in.
        program: as captured, in float32, for the shapes of ``batches``: those that the export measures on.
        model, tokenizer: for ``recipe.overflow_text``, which is run in float32 as well.
    Raises:
        ValueError: the text will not do.
    """
    if rest != "fp16":
        return {}
    tell("looking for what float16 cannot hold")
    found = overflowing(program, batches, torch.float16)
    if recipe.overflow_text is not None:
        text = choose(model, tokenizer, recipe.overflow_text).batches
        for name, amax in overflowing(capture(model, shapes_of(text)), text, torch.float16).items():
            found[name] = max(amax, found.get(name, 0.0))
    return found
