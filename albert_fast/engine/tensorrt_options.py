"""The options of both TensorRT formats: values from TOML or the command line, checked all at once before any work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albert_fast.engine import machine
from albert_fast.engine.onnx_graph import ID_DTYPES
from albert_fast.engine.tensorrt_modules import (
    CAPABILITY,
    FIRST_WITH_FP8,
    TURING_AND_OLDER,
    Flavour,
    default_capabilities,
    known_capabilities,
    numbers,
)

HARDWARE_LEVELS = ("none", "ampere_plus", "same_compute_capability")
MAX_OPTIMIZATION_LEVEL = 5
ONNX_ROAD, TORCH_ROAD = "onnx", "torch-tensorrt"
_NOT_BY_TORCH = {
    "ids": "its engines take the program's own int64 ids",
    "version_compatible": "it leaves out the runtime that such an engine needs",
    "hardware_compatible": "it builds for the GPU of this machine",
    "compute_capabilities": "it names no GPU kinds to TensorRT-RTX, which then builds for all from Ampere on",
    "strip_weights": "an engine without weights is refitted from an ONNX graph, and there is none",
}
"""Options that the road through Torch-TensorRT does not take, and why."""


@dataclass(frozen=True)
class Options:
    """What ``write`` of a TensorRT format was asked for.

    Attributes:
        ids: dtype of the engine's three inputs; the caller gives int64 in any case.
        workspace_mb: the most scratch memory, in MB (2**20 bytes), that a kernel may use; None is TensorRT's own limit.
        timing_cache: file that holds the timings of earlier builds; it is made if absent, and updated.
        version_compatible: whether later releases may load the file, which then carries a runtime of its own.
        hardware_compatible: which other GPUs may run the file.
        compute_capabilities: GPU kinds to build for; empty means the module's own choice.
        strip_weights: leave the weights out; ``refit`` puts them in.
        optimization_level: 0 (built fastest) to 5 (searched longest); None is TensorRT's own, 3.
        cuda_graphs: whether a loaded engine records CUDA graphs of the shapes it meets often.
        road: what lowers the graph: ``"onnx"``, or ``"torch-tensorrt"``, which takes fewer of the other options.
    """

    ids: str = "int64"
    workspace_mb: int | None = None
    timing_cache: Path | None = None
    version_compatible: bool = False
    hardware_compatible: str = "none"
    compute_capabilities: tuple[str, ...] = ()
    strip_weights: bool = False
    optimization_level: int | None = None
    cuda_graphs: bool = True
    road: str = ONNX_ROAD


def read_options(flavour: Flavour, values: Mapping[str, Any]) -> Options:
    """Check values as JSON, TOML or the command line hold them.

    Raises:
        ValueError: unknown names, wrong values and options that the module lacks, all in one message.
    """
    problems, read = [], {}
    for name, value in values.items():
        if name not in _READERS:
            problems.append(f"the format {flavour.format} has no option {name}; it takes {', '.join(offered(flavour))}")
        elif name in flavour.lacks and value != getattr(Options, name):  # its default asks for nothing
            problems.append(f"the option {name} is not for {flavour.title}: {flavour.lacks[name]}")
        else:
            try:
                read[name] = _READERS[name](value)
            except ValueError as error:
                problems.append(f"the option {name} is {value!r}, expected {error}")
    if read.get("road") == TORCH_ROAD:
        problems += [
            f"the option {name} is not for road={TORCH_ROAD}: {reason}; leave it or road out"
            for name, reason in _NOT_BY_TORCH.items()
            if read.get(name, getattr(Options, name)) != getattr(Options, name)
        ]
    if problems:
        raise ValueError("; ".join(problems))
    return Options(**read)


def offered(flavour: Flavour) -> tuple[str, ...]:
    """Names of the options that the module has."""
    return tuple(name for name in _READERS if name not in flavour.lacks)


def check_for_module(flavour: Flavour, module: Any, options: Options, dtype: str) -> None:
    """Refuse what this release of the module, or this machine, cannot do.

    Args:
        dtype: of the graph's weights, ``"bfloat16"``.
    Raises:
        ValueError: all problems in one message.
    """
    problems = []
    if flavour.portable:
        known = known_capabilities(module)
        unknown = [name for name in options.compute_capabilities if name not in known]
        if unknown:
            problems.append(
                f"the option compute_capabilities names {', '.join(unknown)}, {flavour.title} {module.__version__} "
                f"builds for {', '.join(known)}"
            )
        old = [name for name in options.compute_capabilities if numbers(name) < TURING_AND_OLDER]
        if old and dtype == "bfloat16":
            problems.append(
                f"compute capability {', '.join(old)} has no bfloat16: use precision fp16, or leave it out of the "
                "option compute_capabilities"
            )
        named = options.compute_capabilities or default_capabilities(module)
        without = [name for name in named if numbers(name) < FIRST_WITH_FP8]
        if without and dtype == "float8_e4m3fn":
            able = ",".join(name for name in known if numbers(name) >= FIRST_WITH_FP8)
            problems.append(
                f"compute capability {', '.join(without)} has no float8: name those that have it with the option "
                f"compute_capabilities={able}, or use precision int8"
            )
    elif dtype == "float8_e4m3fn":
        here = machine.compute_capability()
        if here is not None and numbers(here) < FIRST_WITH_FP8:
            problems.append(f"this GPU (compute capability {here}) has no float8; use precision int8")
    needed = [
        (options.version_compatible, "BuilderFlag", "VERSION_COMPATIBLE"),
        (options.strip_weights, "BuilderFlag", "STRIP_PLAN"),
        (options.hardware_compatible != "none", "HardwareCompatibilityLevel", options.hardware_compatible.upper()),
    ]
    problems += [
        f"{flavour.title} {module.__version__} has no {kind}.{name}; install a later release"
        for wanted, kind, name in needed
        if wanted and not hasattr(getattr(module, kind), name)
    ]
    if options.version_compatible and options.strip_weights:
        problems.append("version_compatible and strip_weights exclude each other: such an engine cannot be refitted")
    if problems:
        raise ValueError("; ".join(problems))


def _boolean(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError("true or false")
    return value


def _whole_number(low: int, high: int | None = None) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if type(value) is not int or value < low or (high is not None and value > high):
            raise ValueError(f"a whole number of at least {low}" if high is None else f"a whole number {low} to {high}")
        return value

    return read


def _one_of(*choices: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return value

    return read


def _file(value: Any) -> Path:
    path = Path(value) if isinstance(value, str) and value else None
    if path is None or path.is_dir() or not path.parent.is_dir():
        raise ValueError("the path of a file in a folder that exists")
    return path


def _capabilities(value: Any) -> tuple[str, ...]:
    """A list of texts or numbers, or one text with commas: ``["8.6", 8.9]``, ``"8.6,8.9"``."""
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if isinstance(parts, float):
        parts = [parts]
    if not isinstance(parts, list | tuple) or not parts:
        raise ValueError('a list such as ["8.6", "8.9", "12.0"]')
    names = tuple(str(part) if isinstance(part, str | float) else "" for part in parts)
    if not all(CAPABILITY.fullmatch(name) for name in names) or len(set(names)) != len(names):
        raise ValueError('compute capabilities such as ["8.6", "8.9", "12.0"], each once')
    return names


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "ids": _one_of(*ID_DTYPES),
    "workspace_mb": _whole_number(1),
    "timing_cache": _file,
    "version_compatible": _boolean,
    "hardware_compatible": _one_of(*HARDWARE_LEVELS),
    "compute_capabilities": _capabilities,
    "strip_weights": _boolean,
    "optimization_level": _whole_number(0, MAX_OPTIMIZATION_LEVEL),
    "cuda_graphs": _boolean,
    "road": _one_of(ONNX_ROAD, TORCH_ROAD),
}
