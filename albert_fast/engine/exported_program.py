"""The format ``exported_program``: the captured graph saved by ``torch.export``, run by PyTorch's own kernels."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch.export import ExportedProgram

from albert_fast.batch import ShapeProfile
from albert_fast.engine.formats import Run, Written
from albert_fast.engine.manifest import Requirements


def write(
    program: ExportedProgram,
    path: Path,
    *,
    device: str,
    profiles: tuple[ShapeProfile, ...],
    options: Mapping[str, Any],
    tell: Callable[[str], None],
) -> Written:
    """Save the program as it is; the file does not depend on the device or the machine."""
    torch.export.save(moved(program, "cpu"), path)
    return Written()


def read(path: Path, *, device: str, profiles: tuple[ShapeProfile, ...], notes: Mapping[str, Any]) -> Run:
    """Load the program onto ``device``. Its file may hold pickled parts: the caller has compared its hash.

    ``forward`` is called past the module's own input checks: the engine has made them, and theirs take over a
    millisecond a call.
    """
    with zipfile.ZipFile(path) as archive:
        graphs = [archive.read(name) for name in archive.namelist() if name.endswith("/models/model.json")]
    if any(b"quantized_decomposed" in graph for graph in graphs):
        from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers the ops; half a second
    return cast(Run, moved(torch.export.load(path), device).module(check_guards=False).forward)


def moved(program: ExportedProgram, device: str) -> ExportedProgram:
    """The program on a device: itself where it is there already, else a copy."""
    kind = torch.device(device).type
    if all(tensor.device.type == kind for tensor in program.state_dict.values()):
        return program
    from torch.export.passes import move_to_device_pass

    copied = io.BytesIO()
    torch.export.save(program, copied)
    copied.seek(0)
    return move_to_device_pass(torch.export.load(copied), device)


def stored_weight_bytes(path: Path, notes: Mapping[str, Any]) -> int:
    """Bytes of the archive's members under ``data/weights`` and ``data/constants``."""
    with zipfile.ZipFile(path) as archive:
        return sum(
            member.file_size
            for member in archive.infolist()
            if ("/data/weights/" in member.filename or "/data/constants/" in member.filename)
            and not member.filename.endswith(".json")
        )


def requirements(device: str, options: Mapping[str, Any]) -> Requirements:
    """Any machine, with the torch that wrote it or a later one."""
    return Requirements(torch=torch.__version__.split("+")[0], torch_rule="at least")


def runs_on(built_for: str, device: str) -> bool:
    """Everywhere."""
    return True
