"""The format ``exported_program``: the captured graph saved by ``torch.export``, run by PyTorch's own kernels."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch.export import ExportedProgram

from albert_fast.batch import ShapeProfile
from albert_fast.engine.formats import Run
from albert_fast.engine.manifest import Requirements


def write(
    program: ExportedProgram, path: Path, *, device: str, profile: ShapeProfile, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Save the program as it is; the file does not depend on the device or the machine.

    Raises:
        ValueError: any option; this format has none.
    """
    if options:
        raise ValueError(f"the format exported_program has no options, found {', '.join(options)}")
    torch.export.save(program, path)
    return {}


def read(path: Path, *, device: str) -> Run:
    """Load the program onto ``device``. Its file may hold pickled parts: the caller has compared its hash."""
    program = torch.export.load(path)
    if torch.device(device).type != "cpu":
        from torch.export.passes import move_to_device_pass

        program = move_to_device_pass(program, device)
    return cast(Run, program.module(check_guards=False))


def stored_weight_bytes(path: Path) -> int:
    """Bytes of the archive's members under ``data/weights`` and ``data/constants``."""
    with zipfile.ZipFile(path) as archive:
        return sum(
            member.file_size
            for member in archive.infolist()
            if ("/data/weights/" in member.filename or "/data/constants/" in member.filename)
            and not member.filename.endswith(".json")
        )


def requirements(device: str) -> Requirements:
    """Any machine, with the torch that wrote it or a later one."""
    return Requirements(torch=torch.__version__.split("+")[0], torch_rule="at least")


def runs_on(built_for: str, device: str) -> bool:
    """Everywhere."""
    return True
