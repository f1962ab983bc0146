"""TensorRT and TensorRT-RTX: two Python modules with one API. What tells them apart is data, here or in the module.

Both are optional and proprietary. ``tensorrt`` tunes an engine on the GPU that will run it; ``tensorrt_rtx`` compiles
for a list of GPU kinds, on any machine, and finishes the work on the GPU when the engine is loaded.
"""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from albert_fast._optional import require
from albert_fast.errors import MissingDependencyError

CAPABILITY = re.compile(r"\d+\.\d")
"""How a compute capability is written: ``"8.9"``."""


@dataclass(frozen=True)
class Flavour:
    """One of the two modules.

    Attributes:
        format: name of the row in ``FORMATS``; also the extra of this project that installs it.
        module: what is imported.
        title: what its owner calls it.
        minimum: the oldest release that has the API that is used here.
        distribution: what ``pip`` installs where the module does not say which distribution it belongs to.
        torch_tensorrt: the distribution of Torch-TensorRT that drives it.
        magic: the first bytes of its engine files.
        portable: whether an engine file runs on every GPU kind of a list, and can be built without a GPU.
        lacks: options that this module does not have: why, and what to do instead.
    """

    format: str
    module: str
    title: str
    minimum: tuple[int, ...]
    distribution: str
    torch_tensorrt: str
    magic: bytes
    portable: bool
    lacks: Mapping[str, str]


TENSORRT = Flavour(
    "tensorrt",
    "tensorrt",
    "TensorRT",
    (10, 1),
    "tensorrt",
    "torch-tensorrt",
    b"ftrt",
    portable=False,
    lacks={
        "compute_capabilities": "TensorRT builds for the GPU of this machine; build on each kind of GPU, or use "
        "hardware_compatible=ampere_plus, or the format tensorrt-rtx",
    },
)
TENSORRT_RTX = Flavour(
    "tensorrt-rtx",
    "tensorrt_rtx",
    "TensorRT-RTX",
    (1, 2),
    "tensorrt-rtx-cu13",
    "torch-tensorrt-rtx",
    b"vtrt",
    portable=True,
    lacks={
        "version_compatible": "an engine of TensorRT-RTX runs only with the release that built it; export anew for "
        "another release, or use the format tensorrt",
        "hardware_compatible": "TensorRT-RTX ignores it; name the GPU kinds with compute_capabilities",
        "timing_cache": "TensorRT-RTX times nothing while it builds, so a cache has no effect; leave it out",
        "optimization_level": "it has no effect in TensorRT-RTX; leave it out",
    },
)
TURING_AND_OLDER = (8, 0)
"""Compute capabilities below this one must be asked for in TensorRT-RTX, and have no bfloat16."""

FIRST_WITH_FP8 = (8, 9)
"""Compute capabilities from this one on (Ada, Hopper) multiply float8."""


def load(flavour: Flavour, purpose: str) -> Any:
    """Import the module.

    Args:
        purpose: as it stands after "to": ``"build a TensorRT-RTX engine"``.
    Raises:
        MissingDependencyError: it is not installed, cannot be loaded, or is too old.
    """
    try:
        module: Any = require(flavour.module, extra=flavour.format, purpose=purpose)
    except MissingDependencyError:
        raise
    except (ImportError, OSError) as error:  # the Python half is there, its shared libraries are not
        raise MissingDependencyError(
            f"{flavour.module} is installed but cannot be loaded ({error}): "
            f"pip install --force-reinstall 'albert-fast[{flavour.format}]'"
        ) from error
    if numbers(module.__version__) < flavour.minimum:
        oldest = ".".join(map(str, flavour.minimum))
        raise MissingDependencyError(
            f"{flavour.module} {module.__version__} is installed, at least {oldest} is needed to {purpose}: "
            f"pip install --upgrade 'albert-fast[{flavour.format}]'"
        )
    return module


def distribution_of(flavour: Flavour, version: str) -> str:
    """Name of the installed distribution that brought the module: there is one for each CUDA release."""
    for name in importlib.metadata.packages_distributions().get(flavour.module, ()):
        if importlib.metadata.version(name) == version:
            return name
    return flavour.distribution


def known_capabilities(module: Any) -> dict[str, Any]:
    """The GPU kinds that a portable module can build for: ``{"8.9": ComputeCapability.SM89}``."""
    members = module.ComputeCapability.__members__
    return {f"{name[2:-1]}.{name[-1]}": value for name, value in members.items() if re.fullmatch(r"SM\d{2,3}", name)}


def default_capabilities(module: Any) -> tuple[str, ...]:
    """The GPU kinds that a portable module builds for where none are named: all that it knows from Ampere on."""
    return tuple(name for name in known_capabilities(module) if numbers(name) >= TURING_AND_OLDER)


def numbers(version: str) -> tuple[int, ...]:
    """The leading whole numbers of a release or a compute capability: ``"10.13.3.9"`` -> ``(10, 13, 3, 9)``."""
    return tuple(int(part) for part in re.findall(r"(?:^|\.)(\d+)", version))
