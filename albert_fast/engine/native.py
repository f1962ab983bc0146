"""The format ``native``: ALBERT's encoder as one op of our library, embeddings and heads compiled by Inductor.

The file is a package of AOTInductor like that of the format ``aotinductor``, but its graph is short: the op computes
all passes, over the tokens that are text. So it is compiled in seconds, whatever the number of passes, and padding
costs nothing; what per-token outputs hold there is what the head makes of zeros.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from albert_fast import ops
from albert_fast.batch import ShapeProfile
from albert_fast.engine import aotinductor, cpu_int8, machine, threads
from albert_fast.engine.exported_program import moved
from albert_fast.engine.formats import Run, Written
from albert_fast.engine.manifest import Requirements
from albert_fast.errors import EngineError


def write(
    program: ExportedProgram,
    path: Path,
    *,
    device: str,
    profiles: tuple[ShapeProfile, ...],
    options: Mapping[str, Any],
    tell: Callable[[str], None],
) -> Written:
    """Put the encoder into one op and compile the rest for this CPU.

    Returns:
        Notes: ``encoder``, the number of ``passes``, the ``dtype`` of its weights and whether ``first_token_only`` is
        computed in the last pass; ``kernel``, the instruction set of the op's kernel here, which is chosen anew where
        the file is loaded; ``int8``, as in ``aotinductor``, where heads are int8.
    Raises:
        MissingDependencyError: the op library is not built.
        EngineError: there is no C++ compiler, or the op does not compute this graph's encoder; see
            ``encoder_graph.recognise``.
    """
    from albert_fast.engine import encoder_weights  # its imports take half a second that read does without

    ops.require_ops()
    if machine.compiler() is None:
        raise EngineError(
            "no C++ compiler found, and the format native needs one: install g++ (apt install g++), or set CXX"
        )
    program, encoder = encoder_weights.fuse(moved(program, "cpu"))
    notes: dict[str, Any] = {
        "encoder": {
            "passes": len(encoder.settings.schedule),
            "dtype": encoder.weight_dtype,
            "first_token_only": encoder.settings.first_token_only,
        },
        "kernel": ops.cpu_kernel(),
        "threads": torch.get_num_threads(),
    }
    quantized = cpu_int8.is_quantized(program)
    if quantized:
        program, notes["int8"] = cpu_int8.lower(program)
    aotinductor.compile_package(program, path, freezing=quantized)
    return Written(notes)


def read(path: Path, *, device: str, profiles: tuple[ShapeProfile, ...], notes: Mapping[str, Any]) -> Run:
    """Load the op library and the package. The caller has compared its hash.

    Callers at the same time, no more than there are processors, share out the threads: see ``Threads`` in
    ``csrc/encoder_cpu.cpp``.

    Raises:
        MissingDependencyError: the op library is not built.
        EngineError: PyTorch cannot unpack and load it, or its heads are int8 and oneDNN here would do that wrong.
    """
    ops.require_ops()
    if "int8" in notes:
        cpu_int8.require()
    return aotinductor.load_package(path, device=device, callers=min(threads.MOST_CALLERS, os.cpu_count() or 1))


def stored_weight_bytes(path: Path, notes: Mapping[str, Any]) -> int:
    """Bytes of all constants, as the package's own wrapper source lists them."""
    return aotinductor.stored_weight_bytes(path, notes)


def requirements(device: str, options: Mapping[str, Any]) -> Requirements:
    """The same kind of machine and the same minor release of torch: embeddings and heads are compiled for them."""
    return machine.compiled_requirements(device)


def runs_on(built_for: str, device: str) -> bool:
    """Only on the CPU."""
    return torch.device(device).type == built_for
