"""What each ATen op of a captured graph is in TensorFlow: one row an op.

A graph that holds an op without a row is refused by the op's name. To support one more op, add its row: a function that
is called with the ``tensorflow`` module and the op's arguments, tensors and dtypes among them as TensorFlow's.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

aten = torch.ops.aten
Tensor = Any
Row = Callable[..., Any]


def _linear(tf: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    product = tf.matmul(x, weight, transpose_b=True)
    return product if bias is None else tf.nn.bias_add(product, bias)


def _layer_norm(tf: Any, x: Tensor, shape: Sequence[int], weight: Tensor, bias: Tensor, eps: float, *_: Any) -> Tensor:
    """LayerNorm over the last dimension.

    The weight meets the inverse deviation first: a product with a constant, last, would be folded by LiteRT's converter
    into the weights of every linear map that follows, a second copy of a matrix that other passes use as it is.
    """
    centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
    return centred * (tf.math.rsqrt(variance + tf.constant(eps, x.dtype)) * weight) + bias


def _attention(
    tf: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention over ``[B, N, S, H]``; mask and softmax in float32, as in PyTorch's own kernels."""
    if dropout_p or is_causal or enable_gqa:
        raise NotImplementedError("this graph's attention has dropout, causality or grouping")
    factor = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = tf.cast(tf.matmul(query * tf.constant(factor, query.dtype), key, transpose_b=True), tf.float32)
    scores = scores if attn_mask is None else scores + tf.cast(attn_mask, tf.float32)
    return tf.matmul(tf.cast(tf.nn.softmax(scores), value.dtype), value)


def _binary(name: str) -> Row:
    """TensorFlow's op of that name, on a tensor and another or a number."""

    def apply(tf: Any, a: Tensor, b: Any, *, alpha: float = 1) -> Tensor:
        if alpha != 1:
            raise NotImplementedError(f"this graph scales the second number of a sum by {alpha}")
        return getattr(tf, name)(a, b if tf.is_tensor(b) else tf.constant(b, a.dtype))

    return apply


def _transpose(tf: Any, x: Tensor, dim0: int, dim1: int) -> Tensor:
    order = list(range(x.shape.rank))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return tf.transpose(x, order)


def _slice(tf: Any, x: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> Tensor:
    whole = isinstance(end, int) and end >= 2**31 - 1  # torch's way to say "to the end"
    return x[(*[slice(None)] * (dim % x.shape.rank), slice(start, None if whole else end, step))]


def _select(tf: Any, x: Tensor, dim: int, index: int) -> Tensor:
    return x[(*[slice(None)] * (dim % x.shape.rank), index)]


def _softmax(tf: Any, x: Tensor, dim: int, dtype: Any = None) -> Tensor:
    return tf.nn.softmax(x if dtype is None else tf.cast(x, dtype), axis=dim)


def _as_it_is(tf: Any, x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x


ROWS: Mapping[Any, Row] = {
    aten.linear.default: _linear,
    aten.matmul.default: lambda tf, a, b: tf.matmul(a, b),
    aten.scaled_dot_product_attention.default: _attention,
    aten.embedding.default: lambda tf, weight, ids, *_: tf.gather(weight, ids),
    aten.layer_norm.default: _layer_norm,
    aten.softmax.int: _softmax,
    aten.mean.dim: lambda tf, x, dim, keepdim=False: tf.reduce_mean(x, axis=dim, keepdims=keepdim),
    aten.sum.dim_IntList: lambda tf, x, dim, keepdim=False: tf.reduce_sum(x, axis=dim, keepdims=keepdim),
    aten.add.Tensor: _binary("add"),
    aten.mul.Tensor: _binary("multiply"),
    aten.eq.Scalar: _binary("equal"),
    aten.ne.Scalar: _binary("not_equal"),
    aten.gelu.default: lambda tf, x, *, approximate="none": tf.nn.gelu(x, approximate=approximate == "tanh"),
    aten.mish.default: lambda tf, x: x * tf.tanh(tf.math.softplus(x)),
    aten.relu.default: lambda tf, x: tf.nn.relu(x),
    aten.relu6.default: lambda tf, x: tf.nn.relu6(x),
    aten.sigmoid.default: lambda tf, x: tf.sigmoid(x),
    aten.silu.default: lambda tf, x: tf.nn.silu(x),
    aten.tanh.default: lambda tf, x: tf.tanh(x),
    aten.to.dtype: lambda tf, x, dtype, *_: x if x.dtype == dtype else tf.cast(x, dtype),
    aten.contiguous.default: _as_it_is,
    aten.dropout.default: _as_it_is,  # of a model in eval mode
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.transpose.int: _transpose,
    aten.unbind.int: lambda tf, x, dim=0: tf.unstack(x, axis=dim),
    aten.unsqueeze.default: lambda tf, x, dim: tf.expand_dims(x, dim),
    operator.getitem: lambda tf, x, index: x[index],
}
RESHAPES = {aten.flatten.using_ints, aten.reshape.default, aten.view.default}
"""These give the same numbers in the shape that their result has in the captured graph. They need no row."""
PER_TOKEN = {
    aten.linear.default, aten.layer_norm.default, aten.add.Tensor, aten.mul.Tensor, aten.gelu.default,
    aten.mish.default, aten.relu.default, aten.relu6.default, aten.sigmoid.default, aten.silu.default,
    aten.tanh.default, aten.to.dtype, aten.contiguous.default, aten.dropout.default,
}  # fmt: skip
"""These treat every token alike, so tokens may come ``[batch, length, size]`` or end to end, ``[tokens, size]``."""
