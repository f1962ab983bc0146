"""Which tensors of a captured graph grow larger than a 16-bit dtype can hold, on given batches."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from albert_fast.batch import Batch
from albert_fast.precision.plan import Plan, decide
from albert_fast.precision.policy import aten, is_mask_bias, needs_row
from albert_fast.precision.running import GraphRunner


def overflowing(
    program: ExportedProgram, batches: Iterable[Batch], dtype: torch.dtype = torch.float16
) -> dict[str, float]:
    """Find the tensors that ``prepare`` would round to ``dtype`` and that do not fit it.

    Args:
        program: as captured, in float32; it runs in float32, where its weights are.
        batches: real text, at least one batch, of shapes that the program takes.
        dtype: ``torch.float16``, whose largest number is 65504, or ``torch.bfloat16``, which reaches as far as float32.
    Returns:
        The largest magnitude of each such tensor by its node's name, in the order of the graph; empty where all fit.
        The scores inside ``scaled_dot_product_attention`` count as its own: some backends hold them in ``dtype``.
        ``prepare(program, name, keep_float32=list(found))`` leaves exactly these in float32.
    Raises:
        ValueError: there is no batch, or an op has no row in the policy.
    """
    plan = decide(program.graph, dtype)
    watched = {node.name for node in plan.computed if _is_rounded(node, plan)}
    recorder = _Recorder(program, watched)
    for batch in batches:
        recorder.run_batch(batch)
    if not recorder.amax:
        raise ValueError("batches is empty; give at least one batch of real text to find the ranges on")
    limit = torch.finfo(dtype).max
    return {name: amax for name, amax in recorder.amax.items() if not amax <= limit}


def _is_rounded(node: Node, plan: Plan) -> bool:
    """Whether any op of the prepared program makes or reads the value in 16 bits; a mask's bias is made to fit."""
    read_rounded = plan.given[node] == plan.half and any(needs_row(user) for user in node.users)
    return (plan.computed[node] == plan.half or read_rounded) and not is_mask_bias(node)


class _Recorder(GraphRunner):
    """Runs a program node by node and keeps the largest magnitude of those that are watched."""

    def __init__(self, program: ExportedProgram, watched: set[str]) -> None:
        super().__init__(program)
        self.amax: dict[str, float] = {}
        self._watched = watched

    def run_node(self, n: Node) -> Any:
        arguments, keywords = self.fetch_args_kwargs_from_env(n)
        value = super().run_node(n)
        if n.name in self._watched and isinstance(value, Tensor):
            self._note(n.name, value)
            if n.target is aten.scaled_dot_product_attention.default:
                query, key = arguments[:2]
                scale = keywords.get("scale") or query.shape[-1] ** -0.5
                self._note(n.name, query @ key.transpose(-2, -1) * scale)
        return value

    def _note(self, name: str, value: Tensor) -> None:
        low, high = torch.aminmax(value)
        largest = max(-float(low), float(high)) if bool(low == low) else math.inf  # a NaN fits nothing
        self.amax[name] = max(self.amax.get(name, 0.0), largest)
