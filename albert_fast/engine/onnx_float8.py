"""Rounding to float8 in an ONNX graph, as QuantizeLinear and DequantizeLinear in place of the arithmetic that says it.

PyTorch has no op for the pair, so a program spells it out (``albert_fast.precision.fp8``): of an activation
division, clip, cast and back, product; of a weight cast and product. TensorRT wants the pair.
"""

from __future__ import annotations

from typing import Any

import numpy as np

ZERO_POINT = "float8_zero_point"
"""An initializer that says the pair's dtype, and that nothing is shifted."""


def pair_up(graph: Any, ir: Any) -> None:
    """Replace every rounding to E4M3 of an ``onnx_ir.Graph`` by the pair, in place."""
    float8, float32 = ir.DataType.FLOAT8E4M3FN, ir.DataType.FLOAT
    for node in list(graph):
        if node.op_type != "Cast" or node.graph is None:
            continue
        to = node.attributes["to"].as_int()
        if to == float8:
            _pair_activation(graph, node, ir)
        elif to == float32 and node.inputs[0].is_initializer() and node.inputs[0].dtype == float8:
            _pair_weight(graph, node, ir)


def _pair_activation(graph: Any, cast: Any, ir: Any) -> None:
    clip = _made_by(cast.inputs[0], "Clip")
    divide = _made_by(clip.inputs[0], "Div")
    back = _only_reader(cast.outputs[0], "Cast")
    multiply = _only_reader(back.outputs[0], "Mul")
    value, scale = divide.inputs
    quantized = ir.node("QuantizeLinear", [value, scale, _zero_point(graph, ir)], name=f"{cast.name}_quantize")
    quantized.outputs[0].name = f"{cast.outputs[0].name}_quantized"
    _replace(graph, [divide, clip, cast, back, multiply], quantized, quantized.outputs[0], scale, {}, ir)


def _pair_weight(graph: Any, cast: Any, ir: Any) -> None:
    multiply = _only_reader(cast.outputs[0], "Mul")
    column = _made_by(multiply.inputs[1], "Unsqueeze")
    _replace(graph, [cast, multiply], None, cast.inputs[0], column.inputs[0], {"axis": 0}, ir)
    if not column.outputs[0].uses():
        graph.remove(column, safe=True)


def _replace(
    graph: Any, old: list[Any], quantize: Any, quantized: Any, scale: Any, attributes: dict[str, int], ir: Any
) -> None:
    """Put the pair in the place of nodes that follow one another."""
    inputs = [quantized, scale, *([] if quantize is None else [quantize.inputs[2]])]
    dequantize = ir.node("DequantizeLinear", inputs, attributes=attributes, name=f"{old[-1].name}_dequantize")
    dequantize.outputs[0].name = f"{old[-1].outputs[0].name}_dequantized"
    graph.insert_before(old[-1], [dequantize] if quantize is None else [quantize, dequantize])
    old[-1].outputs[0].replace_all_uses_with(dequantize.outputs[0])
    graph.remove(old, safe=True)


def _zero_point(graph: Any, ir: Any) -> Any:
    if ZERO_POINT not in graph.initializers:
        float8 = ir.DataType.FLOAT8E4M3FN
        tensor = ir.Tensor(np.zeros((), float8.numpy()), name=ZERO_POINT, dtype=float8)
        graph.register_initializer(
            ir.Value(name=ZERO_POINT, shape=tensor.shape, type=ir.TensorType(float8), const_value=tensor)
        )
    return graph.initializers[ZERO_POINT]


def _made_by(value: Any, operator: str) -> Any:
    node = value.producer()
    assert node is not None and node.op_type == operator, f"{value.name} is made by {node and node.op_type}"
    return node


def _only_reader(value: Any, operator: str) -> Any:
    (reader,) = (user for user, _ in value.uses())
    assert reader.op_type == operator, f"{value.name} is read by {reader.op_type}"
    return reader
