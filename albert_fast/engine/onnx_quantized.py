"""Q/DQ in an ONNX graph: the pairs of a quantized program, arranged as the runtimes that read them multiply fastest.

A weight is one int8 or float8 initializer. It is dequantized by one node for all passes, and stored transposed where
``MatMul`` reads it, its scales then along axis 1. All scales are float32, and what is 16 bits behind them is cast:
TensorRT takes a 16-bit scale as the wish for a product whose sums, up to 2**24, are written in 16 bits, where they
overflow.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from albert_fast.engine import onnx_float8

ACTIVATIONS = ("int8", "uint8")
UINT8_ZERO_POINT = 128
"""uint8 with this zero point holds exactly the numbers of int8 with zero point 0."""


TABLES = ("quantized", "dequantized")


def arrange(graph: Any, ir: Any, activations: str, tables: str = "quantized") -> None:
    """Bring the pairs of an ``onnx_ir.Graph`` into form, in place; a graph without pairs stays as it is.

    Args:
        activations: ``"int8"`` as in the program, for TensorRT; ``"uint8"`` where the product's kernel for x86 wants
            it: a factor of ten in ONNX Runtime.
        tables: how a quantized word table is looked up: ``"quantized"``, rows of whole numbers that are then scaled;
            ``"dequantized"`` for TensorRT, which reads quantized constants through ``DequantizeLinear`` alone.
    """
    onnx_float8.pair_up(graph, ir)
    if not any(node.op_type == "DequantizeLinear" for node in graph):
        return
    for node in list(graph):
        if node.op_type == "Gather" and node.graph is not None and node.inputs[0].is_initializer():
            kind = node.inputs[0].dtype
            if kind == ir.DataType.FLOAT8E4M3FN or (kind == ir.DataType.INT8 and tables == "dequantized"):
                _look_up_dequantized(graph, node, ir)
    for node in list(graph):
        if node.op_type == "Transpose":
            _transpose_stored(graph, node, ir)
    for node in list(graph):
        if node.op_type == "DequantizeLinear" and node.inputs[0].is_initializer():
            _move_to_first_reader(graph, node)
    if activations == "uint8":
        _shift_to_uint8(graph, ir)


def _look_up_dequantized(graph: Any, gather: Any, ir: Any) -> None:
    """Dequantize the table before its rows are looked up, not the rows behind: ``Gather``, ``Cast``, ``Mul``."""
    ((cast, _),) = gather.outputs[0].uses()
    ((multiply, _),) = cast.outputs[0].uses()
    rows = multiply.inputs[1].producer()
    column = rows.inputs[0].producer()
    table, scales = gather.inputs[0], column.inputs[0]
    dequantize = ir.node("DequantizeLinear", [table, scales], attributes={"axis": 0}, name=f"{gather.name}_dequantize")
    dequantize.outputs[0].name = f"{gather.outputs[0].name}_table"
    lookup = ir.node("Gather", [dequantize.outputs[0], gather.inputs[1]], name=f"{gather.name}_dequantized")
    lookup.outputs[0].name = f"{gather.outputs[0].name}_dequantized"
    graph.insert_before(gather, [dequantize, lookup])
    multiply.outputs[0].replace_all_uses_with(lookup.outputs[0])
    graph.remove([gather, cast, multiply, rows], safe=True)
    if not column.outputs[0].uses():
        graph.remove(column, safe=True)


def dequantizing(value: Any) -> Any:
    """The ``DequantizeLinear`` that makes a value, with or without a cast behind it; None where it is another node."""
    node = value.producer()
    if node is not None and node.op_type == "Cast":
        node = node.inputs[0].producer()
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def _transpose_stored(graph: Any, transpose: Any, ir: Any) -> None:
    """Store a weight transposed where its linear maps want it so; a tied word table is then looked up by columns."""
    dequantize = dequantizing(transpose.inputs[0])
    weight = None if dequantize is None else dequantize.inputs[0]
    if weight is None or not weight.is_initializer():
        return
    lookups = [user for user, _ in weight.uses() if user is not dequantize]
    linear_maps = [user for user, _ in transpose.inputs[0].uses()]
    if any(user.op_type != "Gather" for user in lookups) or any(user.op_type != "Transpose" for user in linear_maps):
        return
    _transpose_initializer(graph, weight, ir)
    dequantize.attributes["axis"] = ir.AttrInt64("axis", 1 - dequantize.attributes["axis"].as_int())
    for user in linear_maps:
        user.outputs[0].replace_all_uses_with(user.inputs[0])
        graph.remove(user, safe=True)
    for lookup in lookups:
        lookup.attributes["axis"] = ir.AttrInt64("axis", 1)
        order = [*range(1, len(lookup.inputs[1].shape) + 1), 0]
        rows = ir.node("Transpose", [lookup.outputs[0]], attributes={"perm": order}, name=f"{lookup.name}_rows")
        rows.outputs[0].name = f"{lookup.outputs[0].name}_rows"
        lookup.outputs[0].replace_all_uses_with(rows.outputs[0])
        rows.replace_input_with(0, lookup.outputs[0])
        graph.insert_after(lookup, rows)


def _transpose_initializer(graph: Any, weight: Any, ir: Any) -> None:
    transposed = np.ascontiguousarray(weight.const_value.numpy().transpose())
    tensor = ir.Tensor(transposed, name=f"{weight.name}.T", dtype=weight.const_value.dtype)
    weight.replace_all_uses_with(_stored(graph, tensor, ir))
    del graph.initializers[weight.name]


def _stored(graph: Any, tensor: Any, ir: Any) -> Any:
    value = ir.Value(name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _move_to_first_reader(graph: Any, dequantize: Any) -> None:
    """Let the weights be dequantized in the order of their use: in every pass the same."""
    nodes = [dequantize]
    readers = [user for user, _ in dequantize.outputs[0].uses()]
    if len(readers) == 1 and readers[0].op_type == "Cast":
        nodes += readers
        readers = [user for user, _ in readers[0].outputs[0].uses()]
    positions = {node: position for position, node in enumerate(graph)}
    first = min(readers, key=positions.__getitem__)
    graph.remove(nodes)
    graph.insert_before(first, nodes)


def _shift_to_uint8(graph: Any, ir: Any) -> None:
    """Let activations be uint8, but for the right-hand sides of products of activations: those stay int8."""
    zero_point = None
    for quantize in list(graph):
        if quantize.op_type != "QuantizeLinear" or quantize.inputs[2].dtype != ir.DataType.INT8:
            continue
        pairs = [user for user, _ in quantize.outputs[0].uses()]
        if all(_is_right_hand_side(pair.outputs[0]) for pair in pairs):
            continue
        if zero_point is None:
            zero_point = _stored(graph, ir.Tensor(np.array(UINT8_ZERO_POINT, np.uint8), name="zero_point"), ir)
        for node in (quantize, *pairs):
            node.replace_input_with(2, zero_point)
        quantize.outputs[0].type = ir.TensorType(ir.DataType.UINT8)


def _is_right_hand_side(value: Any) -> bool:
    """Whether nothing but products read a value, casts and transpositions of it left out, and from the right."""
    return all(
        _is_right_hand_side(user.outputs[0]) if user.op_type in ("Cast", "Transpose") else place == 1
        for user, place in value.uses()
    )
