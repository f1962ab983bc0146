"""Linear maps on CPU: pack each weight once for oneDNN in the graph itself, and decide by measuring whether it pays.

A compiler that packs weights by itself packs the shared layer's once per use: twelve copies of ALBERT-base. Here the
graph says it explicitly: one packing op per weight, whose result every pass uses. The compiler folds the packing op
into a constant, so the file holds each weight once, in the packed layout.

Whether oneDNN's packed GEMM is faster than the plain one (MKL) depends on the CPU: clearly on AMD Zen 5, not on Zen 3.
So it is measured where the engine is built.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node
from torch.nn import functional as F

from albert_fast.engine.linear_groups import (
    LinearGroup,
    activation_behind,
    argument,
    gelu_algorithm,
    group,
    hand_out,
    side_by_side,
)
from albert_fast.engine.rewriting import Rewriting, register_fake

aten, mkldnn = torch.ops.aten, torch.ops.mkldnn

PACKED_PAYS_FROM = 1.05
"""Packed weights are chosen when they are at least this much faster: they cost portability between CPUs."""
MAX_TOKENS = 512
_ROUNDS = 5


@dataclass(frozen=True)
class LinearWeight:
    """One weight that every use of reads as a linear map: its placeholder's name, ``[out, in]``, number of uses."""

    name: str
    out_features: int
    in_features: int
    uses: int


def packable_weights(program: ExportedProgram) -> list[LinearWeight]:
    """Float32 and bfloat16 parameters that nothing but ``aten.linear`` uses, as its weight.

    A word table that is also the decoder has another use, so it is left alone and stays one tensor in the file.
    """
    parameters = program.graph_signature.inputs_to_parameters
    found = []
    for node in program.graph.nodes:
        if node.op != "placeholder" or node.name not in parameters or not node.users:
            continue
        value = node.meta["val"]
        if value.dim() != 2 or value.dtype not in (torch.float32, torch.bfloat16):
            continue
        if all(user.target is aten.linear.default and user.args.index(node) == 1 for user in node.users):
            out_features, in_features = value.shape
            found.append(LinearWeight(node.name, int(out_features), int(in_features), len(node.users)))
    return found


def is_available() -> bool:
    """Whether this torch has oneDNN's packed linear."""
    return torch.backends.mkldnn.is_available() and hasattr(mkldnn, "_linear_pointwise")


def measure_speedup(weights: list[LinearWeight], tokens: int, dtype: torch.dtype) -> float:
    """How many times faster the passes' linear maps are with packed weights, on this CPU and its threads now.

    Takes the best of a few interleaved rounds of each distinct shape, weighted by its uses, on at most 512 tokens.
    """
    plain_s = packed_s = 0.0
    shapes: dict[tuple[int, int], int] = {}
    for weight in weights:
        shape = (weight.out_features, weight.in_features)
        shapes[shape] = shapes.get(shape, 0) + weight.uses
    with torch.inference_mode():
        for (out_features, in_features), uses in shapes.items():
            x = torch.randn(min(tokens, MAX_TOKENS), in_features).to(dtype)
            w, bias = torch.randn(out_features, in_features).to(dtype), torch.randn(out_features).to(dtype)
            plain, packed = _interleaved_best(_plain(x, w, bias), _packed(x, w, bias))
            plain_s, packed_s = plain_s + uses * plain, packed_s + uses * packed
    return plain_s / packed_s if packed_s else 1.0


def pack_weights(program: ExportedProgram) -> ExportedProgram:
    """Rewrite every linear map over ``packable_weights`` to oneDNN's packed form; a GELU behind it moves into it.

    Linear maps of one value, as query, key and value are, become one over their weights side by side. The program given
    is not changed; the new one shares its tensors. It is for lowering with constant folding on: run as it is, it packs
    at every call.
    """
    # torch 2.13 has no fake kernel for the packing op; its packed tensor passes for one of the weight's own shape
    register_fake("mkldnn::_reorder_linear_weight", lambda weight, batch_size=None: torch.empty_like(weight))
    rewriting = Rewriting(program)
    names = {weight.name for weight in packable_weights(program)}
    linears = [node for node in rewriting.find(aten.linear.default) if argument(node, 1).name in names]
    packed: dict[tuple[Node, ...], tuple[Node, Node | None]] = {}
    for found in group(linears):
        if found.weights not in packed:
            with rewriting.graph.inserting_before(rewriting.first_op()):
                weight = side_by_side(rewriting, found.weights)
                bias = side_by_side(rewriting, found.biases)
                packed[found.weights] = rewriting.call(mkldnn._reorder_linear_weight.default, weight), bias
        _replace(rewriting, found, *packed[found.weights])
    return rewriting.finished()


def _replace(rewriting: Rewriting, found: LinearGroup, weight: Node, bias: Node | None) -> None:
    """``linear(x, w, b)`` -> reshape to 2-D, packed linear, reshape back; the compiler wants two dimensions here."""
    first = found.linears[0]
    gelu = activation_behind(first) if len(found.linears) == 1 else None
    activation: tuple[Any, ...] = ("none", [], "") if gelu is None else ("gelu", [], gelu_algorithm(gelu))
    with rewriting.graph.inserting_before(first):
        rows = rewriting.rows(found.input)
        y = rewriting.call(mkldnn._linear_pointwise.default, rows, weight, bias, *activation)
        if gelu is not None:
            rewriting.replace(gelu, rewriting.like(y, found.input))
        else:
            hand_out(rewriting, found, y, found.input)


def _plain(x: Tensor, weight: Tensor, bias: Tensor) -> Callable[[], Tensor]:
    return lambda: F.linear(x, weight, bias)


def _packed(x: Tensor, weight: Tensor, bias: Tensor) -> Callable[[], Tensor]:
    packed = mkldnn._reorder_linear_weight(weight)
    return lambda: mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


def _interleaved_best(first: Callable[[], Tensor], second: Callable[[], Tensor]) -> tuple[float, float]:
    """Best seconds of two functions, called in turn; the first call of each is not counted."""
    best = [float("inf"), float("inf")]
    for round_index in range(_ROUNDS + 1):
        for index, function in enumerate((first, second)):
            started = time.perf_counter()
            function()
            if round_index:
                best[index] = min(best[index], time.perf_counter() - started)
    return best[0], best[1]
