"""What can be read off a captured program: inputs and outputs by name and dimension, its weights, the ops it calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.utils._pytree import tree_unflatten

from albert_fast.batch import POSITIONS, ShapeProfile
from albert_fast.engine.manifest import Dimension, TensorSpec

QUANTIZED = ("int8", "float8_e4m3fn")
OP_NAMESPACE = "albert_fast"
INPUT_DIMENSIONS = {1: ("asked",), 2: ("batch", "length"), 3: ("batch", "choices", "length")}
"""Of an input, by how many it has: the positions, ids, or ids of choices."""


def input_specs(program: ExportedProgram, profile: ShapeProfile) -> tuple[TensorSpec, ...]:
    """Names, dtypes and dimensions of the program's inputs.

    Raises:
        ValueError: the profile does not lie inside the captured ranges.
    """
    placeholders = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    specs = []
    for name in program.graph_signature.user_inputs:
        value = placeholders[str(name)]
        ranges = [_range(program, size) for size in value.shape]
        names = INPUT_DIMENSIONS[value.dim()]
        dimensions = tuple(Dimension(n, low, high) for n, (low, high) in zip(names, ranges, strict=True))
        specs.append(TensorSpec(str(name), dtype_name(value.dtype), dimensions))
    asked = {"batch": (profile.min_batch, profile.max_batch), "length": (profile.min_length, profile.max_length)}
    problems = [
        f"{d.name} {asked[d.name][0]}..{asked[d.name][1]} of the profile is not within {d.minimum}..{d.maximum}"
        for d in specs[0].dimensions
        if d.name in asked and not (d.minimum <= asked[d.name][0] and asked[d.name][1] <= d.maximum)
    ]
    if problems:
        raise ValueError(
            f"the program was captured for other shapes: {'; '.join(problems)}; capture it with the profile"
        )
    return tuple(specs)


def output_specs(program: ExportedProgram) -> tuple[TensorSpec, ...]:
    """Names, dtypes and dimensions of the program's outputs; a dimension is named after the input's that it equals.

    A static size is named only in its own place, batch first and tokens second: sizes that merely agree mean nothing.
    """
    placeholders = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    inputs = [placeholders[str(name)] for name in program.graph_signature.user_inputs]
    names = {n: size for value in inputs for n, size in zip(INPUT_DIMENSIONS[value.dim()], value.shape, strict=True)}
    specs = []
    for name, value in _named_outputs(program).items():
        dimensions = []
        for index, size in enumerate(value.shape):
            expected = [n for n, s in names.items() if _same(s, size, n == ("batch", "length")[min(index, 1)])]
            low, high = _range(program, size)
            dimensions.append(Dimension(expected[0] if expected else "", low, high))
        specs.append(TensorSpec(name, dtype_name(value.dtype), tuple(dimensions)))
    return tuple(specs)


def distinct_weight_bytes(program: ExportedProgram) -> int:
    """Bytes of the program's parameters, buffers and constants; what shares memory counts once."""
    tensors = [*program.state_dict.values(), *program.constants.values()]
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if isinstance(t, torch.Tensor)
    }
    return sum(storages.values())


def weight_dtype(program: ExportedProgram) -> str:
    """The dtype of a quantized graph's quantized weights, or else the one that most bytes have: ``"float16"``."""
    sizes: Counter[str] = Counter()
    for tensor in program.state_dict.values():
        sizes[dtype_name(tensor.dtype)] += tensor.nbytes
    return next((name for name in QUANTIZED if name in sizes), sizes.most_common(1)[0][0])


def float_dtype(program: ExportedProgram) -> str:
    """The dtype in which what is not quantized computes: ``"float16"`` where any weight of two dimensions has it."""
    matrices = {dtype_name(t.dtype) for t in program.state_dict.values() if t.dim() > 1 and t.is_floating_point()}
    return next((name for name in ("float16", "bfloat16") if name in matrices), "float32")


def is_asked(program: ExportedProgram) -> bool:
    """Whether the program answers at asked positions alone: it then has them as an input."""
    return POSITIONS in program.graph_signature.user_inputs


def calls_our_ops(program: ExportedProgram) -> bool:
    """Whether the graph calls an op of the op library."""
    return any(
        getattr(node.target, "namespace", None) == OP_NAMESPACE
        for module in program.graph_module.modules()
        if isinstance(module, torch.fx.GraphModule)
        for node in module.graph.nodes
    )


def dtype_name(dtype: torch.dtype) -> str:
    """``torch.float16`` -> ``"float16"``."""
    return str(dtype).removeprefix("torch.")


def output_names(program: ExportedProgram) -> tuple[str, ...]:
    """Keys of the dict that the program returns, in order."""
    return tuple(_named_outputs(program))


def _named_outputs(program: ExportedProgram) -> Mapping[str, Any]:
    """The program's outputs by name, as the fake tensors of the trace."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}
    flat = [values[str(name)] for name in program.graph_signature.user_outputs]
    out_spec = program.call_spec.out_spec
    assert out_spec is not None
    named: Mapping[str, Any] = tree_unflatten(flat, out_spec)
    return named


def _same(expected: Any, size: Any, in_place: bool) -> bool:
    """Whether a size of an output is that dimension of the input."""
    if isinstance(expected, int) or isinstance(size, int):
        return in_place and isinstance(expected, int) and isinstance(size, int) and expected == size
    return bool(expected.node.expr == size.node.expr)


def _range(program: ExportedProgram, size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    bounds = program.range_constraints[size.node.expr]
    return int(bounds.lower), int(bounds.upper)
