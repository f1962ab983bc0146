"""Q/DQ for Torch-TensorRT: converters of the pairs of an int8 program, which it has none for.

Its own op for quantization comes with ModelOpt, holds float weights and rounds them in the engine. Here the weights are
int8 already: they go into the engine as they are, and its constant folding must not multiply them out before.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch.export import ExportedProgram

from albert_fast._optional import require
from albert_fast.engine.torch_tensorrt_settings import EXTRA

_NAMESPACE = "quantized_decomposed"
_PURPOSE = "compile a quantized program with Torch-TensorRT"


def has_pairs(program: ExportedProgram) -> bool:
    """Whether the program is quantized in int8."""
    return any(getattr(node.target, "namespace", None) == _NAMESPACE for node in program.graph.nodes)


@contextmanager
def pairs_converted(package: ModuleType, program: ExportedProgram) -> Iterator[None]:
    """Let Torch-TensorRT compile the pairs of ``program``; without any, nothing is changed.

    Args:
        package: ``torch_tensorrt``.
    Raises:
        ValueError: the word table is int8, and TensorRT looks up no rows of a quantized constant.
    """
    if not has_pairs(program):
        yield
        return
    lookups = [node for node in program.graph.nodes if node.target is torch.ops.aten.embedding.default]
    if any(node.meta["val"].dtype == torch.int8 for node in lookups):
        raise ValueError(
            "Torch-TensorRT takes no int8 word table; leave embeddings out of the parts to quantize, or use the format "
            "tensorrt or tensorrt-rtx"
        )
    _register(package)
    folding = require("torch_tensorrt.dynamo.lowering.passes.constant_folding", extra=EXTRA, purpose=_PURPOSE)
    folder = folding._TorchTensorRTConstantFolder
    before = folder.is_impure
    kept = torch.ops.quantized_decomposed.dequantize_per_channel.default

    def is_impure(self: Any, node: torch.fx.Node) -> bool:
        return node.target is kept or bool(before(self, node))

    folder.is_impure = is_impure
    try:
        yield
    finally:
        folder.is_impure = before


def _register(package: ModuleType) -> None:
    registry = require("torch_tensorrt.dynamo.conversion._ConverterRegistry", extra=EXTRA, purpose=_PURPOSE)
    ops = torch.ops.quantized_decomposed
    for op, converter in (
        (ops.quantize_per_tensor.default, _quantize),
        (ops.dequantize_per_tensor.default, _dequantize),
        (ops.dequantize_per_channel.default, _dequantize_weight),
    ):
        if op not in registry.DYNAMO_ATEN_CONVERTERS:
            registry.dynamo_tensorrt_converter(op, supports_dynamic_shapes=True)(converter)


def _quantize(ctx: Any, target: Any, args: Any, kwargs: Any, name: str) -> Any:
    """``(input, scale, zero_point, ...)``."""
    layer = ctx.net.add_quantize(args[0], _constant(ctx, args[1], f"{name}_scale"), _tensorrt().int8)
    layer.name = name
    return layer.get_output(0)


def _dequantize(ctx: Any, target: Any, args: Any, kwargs: Any, name: str) -> Any:
    """``(input, scale, zero_point, ..., out_dtype)``."""
    return _dequantized(ctx, args[0], _constant(ctx, args[1], f"{name}_scale"), None, kwargs, name)


def _dequantize_weight(ctx: Any, target: Any, args: Any, kwargs: Any, name: str) -> Any:
    """``(input, scales, zero_points, axis, ..., out_dtype)``."""
    weight, scales = _constant(ctx, args[0], f"{name}_weight"), _constant(ctx, args[1], f"{name}_scales")
    return _dequantized(ctx, weight, scales, args[3], kwargs, name)


def _dequantized(ctx: Any, value: Any, scale: Any, axis: int | None, kwargs: Any, name: str) -> Any:
    """In float32 and then cast, so that no product's sums are written in 16 bits: see ``onnx_quantized``."""
    trt = _tensorrt()
    layer = ctx.net.add_dequantize(value, scale, trt.float32)
    layer.name = name
    if axis is not None:
        layer.axis = axis
    wanted = {torch.float16: trt.float16, torch.bfloat16: trt.bfloat16}.get(kwargs.get("out_dtype"))
    if wanted is None:
        return layer.get_output(0)
    cast = ctx.net.add_cast(layer.get_output(0), wanted)
    cast.name = f"{name}_cast"
    return cast.get_output(0)


def _constant(ctx: Any, value: Any, name: str) -> Any:
    """A number, or a weight, as a constant of the network."""
    utils = require("torch_tensorrt.dynamo.conversion.converter_utils", extra=EXTRA, purpose=_PURPOSE)
    tensor = torch.tensor(value, dtype=torch.float32) if isinstance(value, float) else value
    return utils.get_trt_tensor(ctx, tensor, name)


def _tensorrt() -> Any:
    return require("tensorrt", extra=EXTRA, purpose=_PURPOSE)
