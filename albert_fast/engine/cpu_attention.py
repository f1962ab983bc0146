"""Attention in bfloat16 on CPU as two matrix products of oneDNN with a softmax between them.

PyTorch's fused attention multiplies tile by tile and reaches a few per cent of what AVX512-BF16 does where the CPU has
no AMX (torch 2.13). Two whole products with the scores held in between are faster from some 32 tokens on, at the cost
of ``[heads, batch, length, length]`` numbers of memory.
"""

from __future__ import annotations

import math
import operator

import torch
from torch.export import ExportedProgram
from torch.fx import Node

from albert_fast.engine import machine
from albert_fast.engine.linear_groups import argument
from albert_fast.engine.rewriting import Rewriting, value_of

aten = torch.ops.aten


def pays() -> bool:
    """Whether whole products beat the fused attention on this CPU: bfloat16 arithmetic, and no tiles in hardware."""
    flags = machine.cpu_flags()
    return torch.backends.mkldnn.is_available() and "avx512_bf16" in flags and "amx_bf16" not in flags


def expand(program: ExportedProgram) -> tuple[ExportedProgram, int]:
    """Rewrite every bfloat16 ``scaled_dot_product_attention``; returns the new program and how many there were.

    Scores are rounded to bfloat16 once, between the first product and the softmax, which is computed in float32. The
    program given is not changed.
    """
    rewriting = Rewriting(program)
    found = [node for node in rewriting.find(aten.scaled_dot_product_attention.default) if _is_plain(node)]
    for node in found:
        with rewriting.graph.inserting_before(node):
            rewriting.replace(node, _products(rewriting, node))
    return rewriting.finished(), len(found)


def _is_plain(node: Node) -> bool:
    """In bfloat16, with at most a bias: no dropout, nothing causal."""
    dropout, causal = (*node.args[4:], 0.0, False)[:2] if len(node.args) < 6 else node.args[4:6]
    named = {name: value for name, value in node.kwargs.items() if name not in ("scale", "attn_mask")}
    return value_of(argument(node, 0)).dtype == torch.bfloat16 and not (dropout or causal or any(named.values()))


def _products(rewriting: Rewriting, node: Node) -> Node:
    """Heads come before rows: then batch and length are one dimension wherever tokens are copied, and a batch of one is
    shared among the threads too, which the compiler has to do by its outermost loop.
    """
    query, key, value = (argument(node, index) for index in range(3))
    bias = node.args[3] if len(node.args) > 3 else node.kwargs.get("attn_mask")
    call = rewriting.call
    heads, head_size = (int(value_of(query).shape[index]) for index in (1, 3))
    scale = node.kwargs.get("scale") or 1 / math.sqrt(head_size)
    batch, length = (call(aten.sym_size.int, query, index) for index in (0, 2))
    count = call(operator.mul, batch, heads)

    def by_head(x: Node) -> Node:
        return call(aten.reshape.default, call(aten.permute.default, x, [1, 0, 2, 3]), [count, length, head_size])

    scores = call(aten.bmm.default, by_head(query), call(aten.transpose.int, by_head(key), 1, 2))
    scores = call(aten.reshape.default, scores, [heads, batch, length, length])
    scores = call(aten.mul.Tensor, call(aten.to.dtype, scores, torch.float32), scale)
    if isinstance(bias, Node):
        by_row = call(aten.permute.default, call(aten.to.dtype, bias, torch.float32), [1, 0, 2, 3])
        scores = call(aten.add.Tensor, scores, by_row)
    shifted = call(aten.sub.Tensor, scores, call(aten.amax.default, scores, [-1], True))
    weights = call(aten.to.dtype, call(aten.exp.default, shifted), torch.bfloat16)
    total = call(aten.sum.dim_IntList, call(aten.to.dtype, weights, torch.float32), [-1], True)
    weights = call(aten.reshape.default, weights, [count, length, length])
    context = call(aten.bmm.default, weights, by_head(value))
    context = call(aten.reshape.default, context, [heads, batch, length, head_size])
    context = call(aten.div.Tensor, call(aten.to.dtype, context, torch.float32), total)
    return call(aten.permute.default, call(aten.to.dtype, context, torch.bfloat16), [1, 0, 2, 3])
