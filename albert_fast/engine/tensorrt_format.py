"""What both TensorRT formats offer to the table of formats; each binds these functions to its module."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from albert_fast.batch import ShapeProfile
from albert_fast.engine import machine, signature, tensorrt_build, tensorrt_by_torch
from albert_fast.engine.formats import Written
from albert_fast.engine.manifest import Package, Requirements
from albert_fast.engine.onnx_graph import require_onnx
from albert_fast.engine.onnx_runtime import require_onnx_runtime, stand_in
from albert_fast.engine.tensorrt_modules import Flavour, default_capabilities, distribution_of, load
from albert_fast.engine.tensorrt_options import TORCH_ROAD, Options, check_for_module, read_options
from albert_fast.engine.tensorrt_refit import weights_digest

OLDEST_TORCH = "2.11.0"
"""Of torch an engine uses tensors and streams only, so any release of it that this project supports will do."""
LEAN_RUNTIME_BYTES = 64_000_000
"""What a version-compatible engine may hold beside: TensorRT's lean runtime, tens of MB. An allowance, unmeasured: such
an engine needs a GPU to build."""


def write(
    flavour: Flavour,
    program: ExportedProgram,
    path: Path,
    *,
    device: str,
    profiles: tuple[ShapeProfile, ...],
    options: Mapping[str, Any],
    tell: Callable[[str], None],
) -> Written:
    """Build an engine file; see ``tensorrt_options.Options``, ``tensorrt_build.build`` and ``tensorrt_by_torch``.

    Where the engine cannot be run, for want of a GPU or of its weights, its ONNX graph stands in for it, run by ONNX
    Runtime on CPU.

    Raises:
        ValueError: wrong options, or options that the module or this machine lacks; all in one message.
        MissingDependencyError: the module, onnx, onnxruntime for the stand-in, or Torch-TensorRT for the road through
            it is not installed.
        EngineError: TensorRT cannot build the graph.
    """
    asked = read_options(flavour, options)
    if asked.road == TORCH_ROAD:
        tensorrt_by_torch.check(flavour, device=device, profiles=profiles)
    module = load(flavour, f"build a {flavour.title} engine")
    check_for_module(flavour, module, asked, signature.weight_dtype(program))
    if asked.road == TORCH_ROAD:
        notes = tensorrt_by_torch.build(
            flavour, module, program, path, device=device, profiles=profiles, options=asked, tell=tell
        )
        _tell_scratch(flavour, notes, tell)
        return Written(notes)
    _check_for_machine(flavour, asked)
    require_onnx()
    needs_stand_in = asked.strip_weights or not _runs_here(flavour, module, asked, device)
    if needs_stand_in:
        require_onnx_runtime()
    shapes = tensorrt_build.profile_shapes(program, profiles)
    tell(f"{flavour.title}: write the ONNX graph")
    model = tensorrt_build.graph_of(program, asked)
    facts = tensorrt_build.build(flavour, module, model, path, device=device, shapes=shapes, options=asked, tell=tell)
    _tell_scratch(flavour, facts, tell)
    notes = tensorrt_build.notes_of(flavour, module, asked, shapes, facts)
    if asked.strip_weights:
        notes["weights_sha256"] = weights_digest(model)
    extra_bytes = LEAN_RUNTIME_BYTES if asked.version_compatible else 0
    if not needs_stand_in:
        return Written(notes, extra_bytes=extra_bytes)
    run, words = stand_in(model)
    return Written(notes, run, words, extra_bytes)


def stored_weight_bytes(path: Path, notes: Mapping[str, Any]) -> int:
    """Bytes of all constants, as TensorRT counted them; in a file without weights at most what is left of them."""
    counted = int(notes["weights_bytes"])
    return min(counted, path.stat().st_size) if notes["weights"] == "stripped" else counted


def requirements(flavour: Flavour, device: str, options: Mapping[str, Any]) -> Requirements:
    """The release of TensorRT that built it, and a GPU that it was built for."""
    asked = read_options(flavour, options)
    module = load(flavour, f"build a {flavour.title} engine")
    version = str(module.__version__)
    rule = "at least" if asked.version_compatible else "same"
    package = Package(distribution_of(flavour, version), version, rule)
    if flavour.portable:
        capabilities = asked.compute_capabilities or default_capabilities(module)
        return Requirements(OLDEST_TORCH, "at least", compute_capabilities=capabilities, packages=(package,))
    compiled = machine.compiled_requirements(device)
    ampere_plus = asked.hardware_compatible == "ampere_plus"
    return Requirements(
        OLDEST_TORCH,
        "at least",
        system=platform.system(),
        architecture=platform.machine(),
        cuda=compiled.cuda,
        gpu_name=compiled.gpu_name,
        compute_capabilities=("8.0",) if ampere_plus else compiled.compute_capabilities,
        compute_capability_rule="at least" if ampere_plus else "any of",
        packages=(package,),
    )


def runs_on(built_for: str, device: str) -> bool:
    """On CUDA."""
    return built_for == torch.device(device).type == "cuda"


def _tell_scratch(flavour: Flavour, facts: Mapping[str, Any], tell: Callable[[str], None]) -> None:
    if facts["activation_bytes"]:
        tell(f"{flavour.title}: running it takes {max(facts['activation_bytes']) / 1e6:.0f} MB of scratch memory")


def _runs_here(flavour: Flavour, module: Any, options: Options, device: str) -> bool:
    """Whether this machine has a GPU that the engine is built for; a portable module builds for a list of kinds."""
    if not machine.has_device(device) or not flavour.portable:
        return machine.has_device(device)
    return machine.compute_capability() in (options.compute_capabilities or default_capabilities(module))


def _check_for_machine(flavour: Flavour, options: Options) -> None:
    if options.strip_weights and not torch.cuda.is_available():
        raise ValueError(
            f"the option strip_weights needs a CUDA driver: without one {flavour.title} cannot mark weights as "
            "replaceable; build on a machine with a GPU, or leave it out"
        )
