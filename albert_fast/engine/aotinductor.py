"""The format ``aotinductor``: the graph compiled ahead of time by Inductor into a package with its own machine code.

The passes are unrolled in the package: Inductor's ahead-of-time wrapper cannot call a subgraph repeatedly (torch 2.13:
"codegen invoke_subgraph is not implemented for cpp wrapper"). Equal kernels are still compiled once, and every weight
is stored once.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.utils._pytree import tree_unflatten, treespec_loads

from albert_fast import ops
from albert_fast.batch import ShapeProfile
from albert_fast.engine import cpu_attention, cpu_int8, cpu_prepack, machine, resident, signature, threads
from albert_fast.engine.exported_program import moved
from albert_fast.engine.formats import Run, Written
from albert_fast.engine.manifest import Requirements
from albert_fast.errors import EngineError

LINEAR_CHOICES = ("auto", "packed", "plain")


def write(
    program: ExportedProgram,
    path: Path,
    *,
    device: str,
    profiles: tuple[ShapeProfile, ...],
    options: Mapping[str, Any],
    tell: Callable[[str], None],
) -> Written:
    """Compile the program for this CPU, or for the current CUDA device.

    Args:
        options: ``{"linear": "auto" | "packed" | "plain"}``, CPU only: whether floating-point weights are packed for
            oneDNN. "auto" measures both here and keeps what was measured in the notes. int8 weights always are.
    Returns:
        Notes: ``linear``, the choice above; ``int8``, what became of the linear maps of a Q/DQ graph
        (``cpu_int8.lower``); ``attention``, where it is not PyTorch's fused one.
    Raises:
        ValueError: an option's value is not one of those, or it is "plain" and the graph int8.
        EngineError: there is no C++ compiler, packing was asked for and this torch has no oneDNN, or the graph is int8
            and this CPU or torch cannot multiply it.
    """
    asked = options.get("linear", "auto")
    if asked not in LINEAR_CHOICES:
        raise ValueError(f"the option linear is {asked!r}, expected one of {', '.join(LINEAR_CHOICES)}")
    if machine.compiler() is None:
        raise EngineError(
            "no C++ compiler found, and the format aotinductor needs one: install g++ (apt install g++), or set CXX"
        )
    program = moved(program, device)
    if torch.device(device).type == "cuda":
        compile_package(program, path, freezing=False)
        return Written()
    notes: dict[str, Any] = {}
    quantized = signature.weight_dtype(program) == "int8"
    if quantized:
        if asked == "plain":
            raise ValueError("linear='plain' has no int8 products: for int8 use linear='packed' or 'auto'")
        program, notes["int8"] = cpu_int8.lower(program)
    notes["linear"] = _choose_linear(program, asked, profiles[0], quantized=quantized)
    packed = notes["linear"]["chosen"] == "packed"
    if packed:
        program = cpu_prepack.pack_weights(program)
    if cpu_attention.pays():
        program, products = cpu_attention.expand(program)
        notes |= {"attention": "two matrix products"} if products else {}
    compile_package(program, path, freezing=packed or quantized)
    return Written({**notes, "threads": torch.get_num_threads()})


def read(path: Path, *, device: str, profiles: tuple[ShapeProfile, ...], notes: Mapping[str, Any]) -> Run:
    """Load the package: its machine code becomes part of this process. The caller has compared its hash.

    Each caller's kernels use all of torch's threads, so as many callers are answered at the same time as that leaves
    processors for: one where torch has them all, see ``threads.callers_at_once``. They share the constants.

    Raises:
        EngineError: it multiplies int8, and oneDNN here would do that wrong; or PyTorch cannot unpack and load it.
    """
    if "int8" in notes:
        cpu_int8.require()
    return load_package(path, device=device, callers=threads.callers_at_once())


def load_package(path: Path, *, device: str, callers: int) -> Run:
    """A package as a function that so many callers may run at the same time.

    This is what ``torch._inductor.aoti_load_package`` does, without the compiler: importing that takes longer than all
    of the rest together and 80 MB. How the outputs are nested is read once here, there at every call. On the CPU the
    op library's own binding is taken where it is built: with torch's, no other Python thread runs during a call.

    Raises:
        EngineError: PyTorch cannot unpack and load it.
    """
    index = torch.device(device).index
    try:
        if device == "cpu" and ops.is_available():
            package = torch.classes.albert_fast.Package(str(path), callers)
            call, specification = package.run, package.call_spec()
        else:
            loader = torch._C._aoti.AOTIModelPackageLoader(str(path), "model", False, 1, -1 if index is None else index)
            call, specification = loader.boxed_run, loader.get_call_spec()
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise EngineError(
            f"PyTorch cannot load {path}: {reason}. It unpacks the file into the system's folder for temporary files, "
            f"which needs {path.stat().st_size / 1e6:.0f} MB of room and must allow programs to run: set TMPDIR to "
            "such a folder"
        ) from error
    resident.page_out("/data/aotinductor/")  # the package's constants: PyTorch has copied what it computes with
    outputs = treespec_loads(specification[1])

    def run(*inputs: Tensor) -> Mapping[str, Tensor]:
        return cast(Mapping[str, Tensor], tree_unflatten(call(list(inputs)), outputs))

    return run


def stored_weight_bytes(path: Path, notes: Mapping[str, Any]) -> int:
    """Bytes of all constants, as the package's own wrapper source lists them."""
    with zipfile.ZipFile(path) as archive:
        sources = [archive.read(name) for name in archive.namelist() if name.endswith(".wrapper.cpp")]
    sizes = [int(size) for text in sources for size in re.findall(rb"constants_info_\[\d+\]\.data_size = (\d+);", text)]
    if not sizes:
        raise EngineError(f"{path} lists no constants in its wrapper source; this torch packages them otherwise")
    return sum(sizes)


def requirements(device: str, options: Mapping[str, Any]) -> Requirements:
    """The same kind of machine and the same minor release of torch."""
    return machine.compiled_requirements(device)


def runs_on(built_for: str, device: str) -> bool:
    """Only on the device type that it was compiled for."""
    return torch.device(device).type == built_for


def _choose_linear(
    program: ExportedProgram, asked: str, profile: ShapeProfile, *, quantized: bool = False
) -> dict[str, Any]:
    """What to do with linear maps in floating point, and the speed ratio it rests on (None: nothing was measured)."""
    weights = cpu_prepack.packable_weights(program)
    possible = cpu_prepack.is_available() and bool(weights)
    if asked == "packed" and not possible and not quantized:
        raise EngineError(
            "linear='packed' was asked for, but this torch has no oneDNN or the graph no linear map to pack; "
            "use linear='plain'"
        )
    if asked != "auto" or not possible:
        only = "packed" if quantized else "plain"
        return {"chosen": asked if possible else only, "ratio": None, "asked": asked}
    dtype = getattr(torch, signature.float_dtype(program))
    ratio = cpu_prepack.measure_speedup(weights, profile.opt_batch * profile.opt_length, dtype)
    chosen = "packed" if ratio >= cpu_prepack.PACKED_PAYS_FROM else "plain"
    return {"chosen": chosen, "ratio": round(ratio, 3), "asked": asked}


def compile_package(program: ExportedProgram, path: Path, *, freezing: bool) -> None:
    """Compile a program of our inputs to a package at ``path``.

    Freezing folds packing ops into constants; Inductor's own packing, once per use, stays off. Kernels take as many
    threads as their caller has: Inductor else writes down the number of the process that compiles.
    """
    from torch._inductor import aoti_compile_and_package, config

    settings: dict[str, Any] = {"freezing": freezing, "cpp.weight_prepack": False, "cpp.dynamic_threads": True}
    if hasattr(config.aot_inductor, "enable_line_tables"):  # debug information, 1.3 MB of it
        settings["aot_inductor.enable_line_tables"] = False
    with torch.no_grad(), _views_stay_views():
        aoti_compile_and_package(program, package_path=str(path), inductor_configs=settings)


@contextmanager
def _views_stay_views() -> Iterator[None]:
    """Keep freezing from storing the transposed view of a weight, the tied decoder's, as a second constant."""
    from torch._inductor import constant_folding

    ops = [torch.ops.aten.permute.default, torch.ops.aten.t.default, torch.ops.aten.transpose.int]
    before = list(constant_folding._dont_constant_fold)
    constant_folding._dont_constant_fold.extend(ops)
    try:
        yield
    finally:
        constant_folding._dont_constant_fold[:] = before
