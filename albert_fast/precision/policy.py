"""Which dtype each op of a captured graph runs in when the graph goes to a 16-bit dtype: one row an op.

A graph that holds an op without a row is refused by the op's name. To support one more op, add its row.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import torch
from torch.fx import Node

aten = torch.ops.aten


class Runs(Enum):
    """How an op chooses its dtype.

    HALF: in the 16-bit dtype. Matrix products: every backend sums them in float32 and rounds once, at the end.
    FLOAT32: in float32, its result rounded to the 16-bit dtype: a backend fuses the casts into the kernel, which then
        reads and writes 16 bits.
    AS_READ: element by element: in float32 where all that read the result run in float32 (the residual sum before a
        LayerNorm: fused into it, and never rounded), else in the 16-bit dtype.
    AS_GIVEN: moves numbers and changes none: in the dtype of what it is given.
    """

    HALF = "half"
    FLOAT32 = "float32"
    AS_READ = "as read"
    AS_GIVEN = "as given"


POLICY: Mapping[Callable[..., Any], Runs] = {
    aten.linear.default: Runs.HALF,
    aten.matmul.default: Runs.HALF,
    # One op: every backend's kernel holds scores and softmax in float32. Around aten.softmax we say it ourselves.
    aten.scaled_dot_product_attention.default: Runs.HALF,
    aten.embedding.default: Runs.HALF,
    # ALBERT's eps, 1e-12, is 0 in float16, and the variance of 768 numbers does not fit 11 bits.
    aten.layer_norm.default: Runs.FLOAT32,
    aten.softmax.int: Runs.FLOAT32,
    aten.mean.dim: Runs.FLOAT32,
    aten.sum.dim_IntList: Runs.FLOAT32,
    aten.add.Tensor: Runs.AS_READ,
    aten.mul.Tensor: Runs.AS_READ,
    aten.gelu.default: Runs.AS_READ,
    aten.mish.default: Runs.AS_READ,
    aten.relu.default: Runs.AS_READ,
    aten.relu6.default: Runs.AS_READ,
    aten.sigmoid.default: Runs.AS_READ,
    aten.silu.default: Runs.AS_READ,
    aten.tanh.default: Runs.AS_READ,
    aten.contiguous.default: Runs.AS_GIVEN,
    aten.dropout.default: Runs.AS_GIVEN,  # of a model in eval mode: it changes nothing
    aten.flatten.using_ints: Runs.AS_GIVEN,
    aten.index_select.default: Runs.AS_GIVEN,
    aten.reshape.default: Runs.AS_GIVEN,
    aten.select.int: Runs.AS_GIVEN,
    aten.slice.Tensor: Runs.AS_GIVEN,
    aten.transpose.int: Runs.AS_GIVEN,
    aten.unbind.int: Runs.AS_GIVEN,
    aten.unsqueeze.default: Runs.AS_GIVEN,
    aten.view.default: Runs.AS_GIVEN,
    operator.getitem: Runs.AS_GIVEN,
}


def is_floating(node: Node) -> bool:
    """Whether the node's value is a floating tensor, or a tuple of them."""
    value = node.meta.get("val")
    first = value[0] if isinstance(value, tuple | list) and value else value
    return isinstance(first, torch.Tensor) and first.is_floating_point()


def needs_row(node: Node) -> bool:
    """Whether the node computes with floating numbers: only then its dtype is ours to choose.

    Sizes of tensors, and checks that make no value, are no computation.
    """
    if node.op != "call_function" or not isinstance(node.meta.get("val"), torch.Tensor | tuple | list):
        return False
    return is_floating(node) or any(is_floating(source) for source in node.all_input_nodes)


def runs(node: Node) -> Runs:
    """The row of a node that needs one.

    Raises:
        ValueError: the op has no row; the message names it, the node and the table.
    """
    target = node.target
    if target is aten.to.dtype and node.args[1] is torch.float32:
        # In a float32 program a cast of floats does nothing; one of bools or integers makes the attention bias.
        return Runs.AS_GIVEN if any(is_floating(source) for source in node.all_input_nodes) else Runs.AS_READ
    if target not in POLICY or not is_floating(node):
        raise ValueError(
            f"the graph holds the op {target} (node {node.name}), and no row of albert_fast.precision.policy.POLICY "
            "says in which dtype it runs; add one, or export with precision fp32"
        )
    return POLICY[target]  # type: ignore[index]


def is_mask_bias(node: Node) -> bool:
    """Whether the node is what ``functional.attention_bias`` returns: a bool mask as 0 and 1, times a huge constant."""
    source = node.args[0] if node.target is aten.mul.Tensor else None
    mask = source.args[0] if isinstance(source, Node) and source.target is aten.to.dtype else None
    return isinstance(mask, Node) and mask.meta["val"].dtype == torch.bool
