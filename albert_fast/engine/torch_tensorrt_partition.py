"""What Torch-TensorRT makes of a program before it builds anything: which ops TensorRT runs, and for which shapes.

It takes the smallest and largest sizes from the program's own ranges and the optimum from the sizes that the program
was traced with. The shapes of the ``Input`` objects that it is given count for nothing (2.11 to 2.13, see
``partitioning.construct_submodule_inputs``), so the optimum is put where it looks for it, and what came of it is read
back.
"""

from __future__ import annotations

import io
import operator
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch.export import ExportedProgram

from albert_fast.batch import ShapeProfile
from albert_fast.errors import EngineError

ENGINE_PREFIX = "_run_on_acc"
"""What Torch-TensorRT calls the parts of a graph that become engines."""


@dataclass(frozen=True)
class Partition:
    """How a graph is divided.

    Attributes:
        engines: TensorRT engines.
        converted: ops inside them.
        left_in_torch: ops outside of them, by name, and how often each occurs.
    """

    engines: int
    converted: int
    left_in_torch: Mapping[str, int]

    @classmethod
    def of(cls, module: torch.nn.Module) -> Partition:
        """Read it off a partitioned graph whose engines are not built yet."""
        inside: Counter[str] = Counter()
        outside = _ops(module)
        engines = 0
        for name, child in module.named_children():
            if name.startswith(ENGINE_PREFIX):
                engines += 1
                inside += _ops(child)
            else:
                outside += _ops(child)
        return cls(engines, inside.total(), dict(sorted(outside.items())))

    def __str__(self) -> str:
        text = f"{self.converted} ops in {self.engines} TensorRT engine{'s' if self.engines != 1 else ''}"
        left = ", ".join(f"{count}x {name}" for name, count in self.left_in_torch.items())
        return f"{text}, in PyTorch {left}" if left else text

    def check(self, *, in_torch_allowed: bool = False, remedy: str) -> None:
        """Refuse a graph without engines, or one of which PyTorch would run a part that nobody allowed.

        Args:
            remedy: what to do about it, in words.
        Raises:
            EngineError: names the ops.
        """
        if self.engines and (in_torch_allowed or not self.left_in_torch):
            return
        left = ", ".join(f"{name} ({count}x)" for name, count in self.left_in_torch.items()) or "any op"
        raise EngineError(f"Torch-TensorRT has no TensorRT layer for {left}; {remedy}")


def partition(
    package: ModuleType, program: ExportedProgram, profile: ShapeProfile, arguments: Mapping[str, Any]
) -> Partition:
    """Lower and divide the program as ``torch_tensorrt.dynamo.compile`` does, without building an engine.

    Args:
        package: ``torch_tensorrt``.
        program: inside ``tuned_for(program, profile)``.
        arguments: for ``compile``.
    Raises:
        EngineError: an engine would be built for other shapes than those of the profile.
    """
    inputs = input_shapes(package, program, profile)
    with redirect_stdout(io.StringIO()):  # it prints its report
        divided = package.dynamo.compile(
            program, inputs=inputs, **{**arguments, "dryrun": True, "require_full_compilation": False}
        )
    expected = {given.name: _shapes(given) for given in inputs}
    for name, child in divided.named_children():
        if name.startswith(ENGINE_PREFIX):
            for found in package.dynamo.partitioning.construct_submodule_inputs(child):
                _check_shapes(found.name, _shapes(found), expected)
    return Partition.of(divided)


def input_shapes(package: ModuleType, program: ExportedProgram, profile: ShapeProfile) -> list[Any]:
    """A ``torch_tensorrt.Input`` for each of the program's inputs, int64, with the profile's shapes."""
    inputs = []
    for name, value in _user_inputs(program).items():
        others = [_range(program, size) for size in value.shape[1:-1]]  # choices
        shapes = [
            (batch, *(sizes[index] for sizes in others), length)
            for index, (batch, length) in enumerate(
                (
                    (profile.min_batch, profile.min_length),
                    (profile.opt_batch, profile.opt_length),
                    (profile.max_batch, profile.max_length),
                )
            )
        ]
        smallest, best, largest = shapes
        inputs.append(
            package.Input(min_shape=smallest, opt_shape=best, max_shape=largest, dtype=value.dtype, name=name)
        )
    return inputs


@contextmanager
def tuned_for(program: ExportedProgram, profile: ShapeProfile) -> Iterator[None]:
    """Make the profile's optimum the sizes that the program says it was traced with."""
    shape = next(iter(_user_inputs(program).values())).shape
    sizes = [(shape[0], profile.opt_batch), (shape[-1], profile.opt_length)]
    dynamic = [(size.node, best) for size, best in sizes if isinstance(size, torch.SymInt)]
    changed = [(_traced_sizes(node.shape_env), node.expr, best) for node, best in dynamic]
    before = [(traced, symbol, traced[symbol]) for traced, symbol, _ in changed]
    try:
        for traced, symbol, best in changed:
            traced[symbol] = type(traced[symbol])(best)
        yield
    finally:
        for traced, symbol, size in before:
            traced[symbol] = size


def _traced_sizes(shape_env: Any) -> Any:
    """Symbol -> the size it had in the trace; torch 2.11 may have it under its older name."""
    found = getattr(shape_env, "backed_var_to_val", None)
    return shape_env.var_to_val if found is None else found


def _user_inputs(program: ExportedProgram) -> dict[str, Any]:
    """The program's inputs as the fake tensors of the trace, by name."""
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    return {str(name): values[str(name)] for name in program.graph_signature.user_inputs}


def _range(program: ExportedProgram, size: Any) -> tuple[int, int, int]:
    """Smallest, traced and largest size of a dimension that no profile speaks of."""
    if isinstance(size, int):
        return size, size, size
    bounds = program.range_constraints[size.node.expr]
    return int(bounds.lower), int(_traced_sizes(size.node.shape_env)[size.node.expr]), int(bounds.upper)


def _shapes(given: Any) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Smallest, best and largest shape of a ``torch_tensorrt.Input``."""
    shape = given.shape
    if not isinstance(shape, Mapping):
        return tuple(shape), tuple(shape), tuple(shape)
    return tuple(shape["min_shape"]), tuple(shape["opt_shape"]), tuple(shape["max_shape"])


def _check_shapes(name: str, found: Any, expected: Mapping[str, Any]) -> None:
    if name not in expected:
        return  # between two parts of a divided graph
    smallest, best, largest = expected[name]
    wide_enough = all(low <= asked for low, asked in zip(found[0], smallest, strict=True))
    if not wide_enough or found[1:] != (best, largest):
        raise EngineError(
            f"Torch-TensorRT would build {name} for shapes {found[0]} to {found[2]}, best {found[1]}; the profile says "
            f"{smallest} to {largest}, best {best}. This torch_tensorrt reads them from elsewhere; install 2.13"
        )


def _ops(module: torch.nn.Module) -> Counter[str]:
    """Calls of ops in a graph, not counting those that take an element of a tuple."""
    if not isinstance(module, torch.fx.GraphModule):
        return Counter()
    called = (node.target for node in module.graph.nodes if node.op in ("call_function", "call_method"))
    return Counter(str(target) for target in called if target is not operator.getitem)
