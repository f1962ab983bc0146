"""The format ``eager``: the live model, called as it is. The others are measured against it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from albert_fast.batch import POSITIONS, ShapeProfile
from albert_fast.engine.formats import Run


def make(model: nn.Module, *, outputs: tuple[str, ...], profile: ShapeProfile, asked: bool = False) -> Run:
    """A callable over ``model`` that returns its named outputs, at asked positions alone where it is given them."""

    def run(
        input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, positions: Tensor | None = None
    ) -> Mapping[str, Tensor]:
        asked = {} if positions is None else {POSITIONS: positions}
        output = model(input_ids, attention_mask, token_type_ids, return_dict=True, **asked)
        return {name: output[name] for name in outputs}

    return run
