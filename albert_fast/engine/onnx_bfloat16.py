"""A bfloat16 ONNX graph for a runtime without bfloat16 kernels: computed in float32, rounded after every operator.

That is what kernels do that multiply bfloat16 numbers and add them up in float32. One that fuses operators rounds less
often, so the error of the emulated graph is rather the larger one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from albert_fast._optional import require
from albert_fast.engine.onnx_file import tensors


def is_in(model: Any) -> bool:
    """Whether an ``onnx.ModelProto`` holds constants in bfloat16."""
    return any(tensor.data_type == _onnx().TensorProto.BFLOAT16 for tensor in tensors(model.graph))


def emulated(model: Any) -> Any:
    """A copy of an ``onnx.ModelProto`` with float32 tensors, of bfloat16 values, where they were bfloat16."""
    onnx = _onnx()
    narrow, wide = onnx.TensorProto.BFLOAT16, onnx.TensorProto.FLOAT
    typed = onnx.shape_inference.infer_shapes(model).graph
    inferred = (*typed.value_info, *typed.output)
    rounded = {value.name for value in inferred if value.type.tensor_type.elem_type == narrow}
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    graph = copied.graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == narrow:
                attribute.i = wide
    for tensor in tensors(graph):
        if tensor.data_type == narrow:
            values = onnx.numpy_helper.to_array(tensor).astype("float32")
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    for value in (*graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == narrow:
            value.type.tensor_type.elem_type = wide
    nodes = [made for node in graph.node for made in _rounding(node, rounded)]
    del graph.node[:]
    graph.node.extend(nodes)
    return copied


def _rounding(node: Any, rounded: set[str]) -> Iterator[Any]:
    """The node, and after it the casts that round its outputs."""
    onnx = _onnx()
    names = [name for name in node.output if name in rounded]
    node.output[:] = [f"{name}:float32" if name in rounded else name for name in node.output]
    yield node
    for name in names:
        yield onnx.helper.make_node("Cast", [f"{name}:float32"], [f"{name}:bfloat16"], to=onnx.TensorProto.BFLOAT16)
        yield onnx.helper.make_node("Cast", [f"{name}:bfloat16"], [name], to=onnx.TensorProto.FLOAT)


def _onnx() -> Any:
    return require("onnx", extra="onnx", purpose="run a bfloat16 ONNX graph in float32")
