"""What the quantize and dequantize operations of an int8 graph are in TensorFlow, on the way to LiteRT.

An int8 weight becomes an input of the graph, in float32: so nothing is folded into it while the graph is converted, and
the int8 numbers take its place in the file. A pair on an activation is a fake-quantization with the scale of its pass.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers torch.ops.quantized_decomposed

Tensor = Any
Row = Callable[..., Any]


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight of which the program has int8 numbers.

    Attributes:
        placeholder: the input of the TensorFlow graph that stands for it, float32.
        numbers: int8 ``[out, in]``.
        scale: float32 ``[out]``.
    """

    placeholder: Tensor
    numbers: np.ndarray
    scale: np.ndarray


def rows(met: dict[str, QuantizedWeight]) -> Mapping[Any, Row]:
    """Rows beside ``tensorflow_ops.ROWS``; every int8 weight that is met is put into ``met`` under its name."""
    qd = torch.ops.quantized_decomposed

    def weight(tf: Any, numbers: Tensor, scale: Tensor, *_: Any, **__: Any) -> Tensor:
        name = numbers.op.name.replace("/", "_")  # such as the names of a signature may be
        placeholder = tf.compat.v1.placeholder(tf.float32, numbers.shape, f"dequantized/{numbers.op.name}")
        met[name] = QuantizedWeight(placeholder, tf.get_static_value(numbers), tf.get_static_value(scale))
        return placeholder

    return {
        qd.dequantize_per_channel.default: weight,
        qd.quantize_per_tensor.default: _fake_quantized,
        qd.dequantize_per_tensor.default: lambda tf, x, *_, **__: x,
    }


def per_token() -> set[Any]:
    """Those of the rows that treat every token alike, as in ``tensorflow_ops.PER_TOKEN``."""
    qd = torch.ops.quantized_decomposed
    return {qd.quantize_per_tensor.default, qd.dequantize_per_tensor.default}


def weight_ops() -> set[Any]:
    """Those of the rows that make a weight."""
    return {torch.ops.quantized_decomposed.dequantize_per_channel.default}


def _fake_quantized(tf: Any, x: Tensor, scale: float, zero_point: int, low: int, high: int, *_: Any) -> Tensor:
    """The whole pair in one op: what comes out is float32 and rounded."""
    if zero_point or low != -high:
        raise NotImplementedError(
            f"this graph quantizes to {low}..{high} around {zero_point}; expected -127..127 around 0"
        )
    return tf.quantization.fake_quant_with_min_max_args(x, min=low * scale, max=high * scale, narrow_range=True)
