"""Torch-TensorRT itself: which distribution is installed, the options of our rows, and what they mean to its compiler.

Its releases 2.11 to 2.13 drive TensorRT 10 and 11, or TensorRT-RTX in the distribution ``torch-tensorrt-rtx``. Graphs
are typed, and nothing here casts. The compiler ignores arguments that it does not know, so they are compared with its
signature first.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from albert_fast._optional import require
from albert_fast.engine import machine
from albert_fast.engine.manifest import Package, Requirements
from albert_fast.errors import EngineError, MissingDependencyError

EXTRA = "torch-tensorrt"
# What is imported as torch_tensorrt, the one that wins when both are installed first, and the TensorRT beneath it.
_DISTRIBUTIONS = {
    "torch-tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_cu13", "tensorrt_rtx_cu13_bindings", "tensorrt_rtx_cu12"),
    "torch-tensorrt": ("tensorrt", "tensorrt_cu13", "tensorrt_cu13_bindings", "tensorrt_cu12"),
}
_PURPOSE = "compile with Torch-TensorRT or run what it compiled"


@dataclass(frozen=True)
class Settings:
    """The values of the options; what each means is said in the row ``torch-tensorrt`` of the table."""

    require_full_compilation: bool = True
    workspace_bytes: int = 0
    optimization_level: int | None = None
    tf32: bool = False
    timing_cache: Path | None = None
    engine_cache: Path | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Settings:
        """Read and check option values, as a recipe or the command line holds them.

        Raises:
            ValueError: every value that is none, in one message.
        """
        problems, values = [], {}
        for name, value in options.items():
            if name not in _READERS:
                problems.append(f"unknown option {name}, expected {', '.join(_READERS)}")
                continue
            expected, read = _READERS[name]
            found = read(value)
            if found is None:
                problems.append(f"the option {name} is {value!r}, expected {expected}")
            values[name] = found
        if problems:
            raise ValueError("; ".join(problems))
        return cls(**values)


def _boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _bytes(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _level(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 5 else None


def _file(value: Any) -> Path | None:
    path = Path(value).absolute() if isinstance(value, str | Path) and str(value) else None
    return path if path is not None and path.parent.is_dir() and not path.is_dir() else None


def _folder(value: Any) -> Path | None:
    path = Path(value).absolute() if isinstance(value, str | Path) and str(value) else None
    return path if path is not None and path.parent.is_dir() and not path.is_file() else None


_READERS: Mapping[str, tuple[str, Any]] = {
    "require_full_compilation": ("true or false", _boolean),
    "workspace_bytes": ("a number of bytes, 0 for no limit", _bytes),
    "optimization_level": ("a number from 0 to 5", _level),
    "tf32": ("true or false", _boolean),
    "timing_cache": ("the path of a file in a folder that exists", _file),
    "engine_cache": ("the path of a folder, in one that exists", _folder),
}


def load_package() -> ModuleType:
    """Import ``torch_tensorrt``, which asks CUDA for its device while it is imported.

    Raises:
        MissingDependencyError: it is not installed.
    """
    return require("torch_tensorrt", extra=EXTRA, purpose=_PURPOSE)


def packages() -> tuple[Package, ...]:
    """The installed distributions that an engine needs again, Torch-TensorRT's first. Imports nothing.

    Raises:
        MissingDependencyError: Torch-TensorRT is not installed.
    """
    for name, runtimes in _DISTRIBUTIONS.items():
        version = _version(name)
        if version is not None:
            found = ((runtime, _version(runtime)) for runtime in runtimes)
            runtime = next((Package(n, v, "same") for n, v in found if v is not None), None)
            return (Package(name, version, "same"), *([] if runtime is None else [runtime]))
    raise MissingDependencyError(
        f"torch_tensorrt is needed to {_PURPOSE} and is not installed: pip install 'albert-fast[{EXTRA}]', "
        "or pip install torch-tensorrt-rtx for TensorRT-RTX"
    )


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def requirements(device: str) -> Requirements:
    """This system, GPU kind, CUDA, torch and the very releases of Torch-TensorRT and TensorRT."""
    return replace(machine.compiled_requirements(device), cpu_flags=(), packages=packages())


def compiler_arguments(
    settings: Settings, known: Collection[str], *, timing_cache: Path, device: str, **more: Any
) -> dict[str, Any]:
    """Arguments for a function of ``torch_tensorrt.dynamo`` that compiles.

    A padding mask must never be taken for a causal one, which is the compiler's default (``attn_bias_is_causal``).

    Args:
        known: the names that the function takes.
        timing_cache: used where the settings name none.
        more: further arguments.
    Raises:
        EngineError: the installed release does not know one of them.
    """
    index = torch.device(device).index
    arguments = {
        "device": None if index is None else torch.device(device),
        "attn_bias_is_causal": False,
        "min_block_size": 1,
        "workspace_size": settings.workspace_bytes,
        "optimization_level": settings.optimization_level,
        "disable_tf32": not settings.tf32,
        "timing_cache_path": str(settings.timing_cache or timing_cache),
        "immutable_weights": settings.engine_cache is None,
        "cache_built_engines": settings.engine_cache is not None,
        "reuse_cached_engines": settings.engine_cache is not None,
        **more,
    }
    if settings.engine_cache is not None:
        arguments["engine_cache_dir"] = str(settings.engine_cache)
    if "use_explicit_typing" in known:  # up to 2.12; from then on the graph's types always are the engine's
        arguments["use_explicit_typing"] = True
    missing = sorted(set(arguments) - set(known))
    if missing:
        installed = packages()[0]
        raise EngineError(
            f"{installed.name} {installed.version} does not know the compiler arguments {', '.join(missing)}; "
            "install one from 2.11 to 2.13"
        )
    return arguments
