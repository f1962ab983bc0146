"""A captured program as an ONNX graph: every weight once, the head's output names, dimensions called by their names.

``torch.onnx`` writes a ``Transpose`` of the weight before every linear map, so in a graph of N passes N for each shared
weight. Its own constant folding makes N stored copies of them; a runtime's folding makes N in memory. Here each weight
is transposed once, in the graph, and all passes refer to it.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.export import ExportedProgram

from albert_fast._optional import require
from albert_fast.engine import onnx_quantized
from albert_fast.engine.onnx_quantized import ACTIVATIONS
from albert_fast.engine.signature import INPUT_DIMENSIONS, output_names

OPSET = 20
"""The first opset with ``Gelu``; ONNX Runtime knows it since 1.17, TensorRT since 10."""
ID_DTYPES = ("int64", "int32")


def require_onnx() -> None:
    """Make sure that ONNX graphs can be written.

    Raises:
        MissingDependencyError: onnx or onnxscript is not installed.
    """
    for module in ("onnx", "onnxscript"):
        _require(module)


def _require(module: str) -> Any:
    return require(module, extra="onnx", purpose="write an ONNX graph")


def to_onnx(
    program: ExportedProgram, *, ids: str = "int64", activations: str = "int8", tables: str = "quantized"
) -> Any:
    """Translate a program into an ONNX graph.

    Args:
        program: called with ``(input_ids, attention_mask, token_type_ids)``, and ``positions`` where it answers at
            asked ones alone; returns a dict of tensors. It keeps its dtypes; what is dynamic in it is dynamic in the
            graph.
        ids: dtype of the inputs, ``"int64"`` or ``"int32"``; int32 is cast to int64 inside.
        activations, tables: how a quantized program's pairs are written, see ``onnx_quantized.arrange``.
    Returns:
        An ``onnx.ModelProto``. Inputs are called as the program's, outputs as the keys of its dict, dynamic dimensions
        ``batch``, ``choices``, ``length`` and ``asked``. Weights have the checkpoint's names; one that is stored
        transposed, for ``MatMul``, ends in ``.T``.
    Raises:
        ValueError: ``ids`` or ``activations`` is something else.
        MissingDependencyError: onnx or onnxscript is not installed.
    """
    if ids not in ID_DTYPES:
        raise ValueError(f"ids is {ids!r}, expected one of {', '.join(ID_DTYPES)}")
    if activations not in ACTIVATIONS:
        raise ValueError(f"activations is {activations!r}, expected one of {', '.join(ACTIVATIONS)}")
    require_onnx()
    ir = _require("onnx_ir")
    model = _exported(program)
    _fold_shapes_but_no_weights(model)
    onnx_quantized.arrange(model.graph, ir, activations, tables)
    _transpose_weights_once(model.graph, ir)
    _name(model.graph, ir)
    if ids == "int32":
        _take_int32(model.graph, ir)
    # torch leaves stack traces there, with this machine's paths
    _require("onnx_ir.passes.common").ClearMetadataAndDocStringPass()(model)
    return ir.to_proto(model)


def _exported(program: ExportedProgram) -> Any:
    with torch.no_grad(), _without_known_noise():
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=OPSET,
            optimize=False,
            verbose=False,
            output_names=output_names(program),
            custom_translation_table={torch.ops.aten.scaled_dot_product_attention.default: _attention},
        )
    assert exported is not None
    return exported.model


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """Attention over ``[B, N, S, H]`` as runtimes expect it; torch's own translation computes shapes in every pass."""
    op = _require("onnxscript").opset20
    if dropout_p or is_causal or scale is not None or enable_gqa or attn_mask is None:
        raise NotImplementedError("this graph's attention has dropout, causality, scale or grouping, or no mask")
    factor = op.CastLike(op.Constant(value_float=query.shape[-1] ** -0.5), query)
    scores = op.MatMul(op.Mul(query, factor), op.Transpose(key, perm=[0, 1, 3, 2]))
    return op.MatMul(op.Softmax(op.Add(scores, attn_mask), axis=-1), value)


def _fold_shapes_but_no_weights(model: Any) -> None:
    """Compute what depends on nothing but constants, and join what is computed twice. Weights stay as they are."""
    weights = set(model.graph.initializers.values())

    def should_fold(node: Any) -> bool | None:
        return False if any(value in weights for value in node.inputs) else None

    _require("onnxscript.optimizer").optimize_ir(model, should_fold=should_fold)


def _transpose_weights_once(graph: Any, ir: Any) -> None:
    """Replace each transposed weight by one that is stored that way, unless the plain one is used as well.

    The tied decoder's weight is also the word table: there the ``Transpose`` stays, one for the whole graph.
    """
    for node in list(graph):
        weight = node.inputs[0] if node.op_type == "Transpose" else None
        if weight is None or not weight.is_initializer() or weight.is_graph_output():
            continue
        if any(user.op_type != "Transpose" for user, _ in weight.uses()):
            continue
        assert len(weight.uses()) == 1, f"{weight.name} is transposed more than once"
        transposed = np.ascontiguousarray(weight.const_value.numpy().transpose(node.attributes["perm"].as_ints()))
        tensor = ir.Tensor(transposed, name=f"{weight.name}.T")
        stored = ir.Value(name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        graph.register_initializer(stored)
        node.outputs[0].replace_all_uses_with(stored)
        graph.remove(node, safe=True)
        del graph.initializers[weight.name]


def _name(graph: Any, ir: Any) -> None:
    """Dimensions and weights get their names; shapes in between, in the tracer's symbols, go."""
    graph.name = "albert"
    named = {
        size.value: name
        for value in graph.inputs
        for size, name in zip(value.shape, INPUT_DIMENSIONS[len(value.shape)], strict=True)
        if not isinstance(size, int)
    }
    for value in (*graph.inputs, *graph.outputs):
        value.metadata_props.clear()
        sizes = [size if isinstance(size, int) else named.get(size.value, size.value) for size in value.shape]
        value.shape = ir.Shape(sizes)
    kept = {*graph.inputs, *graph.outputs}
    for node in graph:
        for value in node.outputs:
            if value not in kept:
                value.shape, value.type = None, None
    for value in list(graph.initializers.values()):
        value.name = value.name.removeprefix("model.")  # the wrapper that was captured


def _take_int32(graph: Any, ir: Any) -> None:
    for value in graph.inputs:
        cast = ir.node("Cast", [value], attributes={"to": ir.DataType.INT64}, name=f"{value.name}_to_int64")
        cast.outputs[0].name = f"{value.name}_int64"
        value.replace_all_uses_with(cast.outputs[0])
        cast.replace_input_with(0, value)
        value.type = ir.TensorType(ir.DataType.INT32)
        graph.insert_before(graph[0], cast)


@contextmanager
def _without_known_noise() -> Iterator[None]:
    """Keep two messages of torch 2.13 from the user: that torchvision is missing, and its own deprecated calls."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")

    def keep(record: logging.LogRecord) -> bool:
        return "torchvision is not installed" not in record.getMessage()

    log.addFilter(keep)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        log.removeFilter(keep)
