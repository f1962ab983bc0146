"""The table of engine formats. A row is plain data; its module is imported when the row is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from torch import Tensor, nn
from torch.export import ExportedProgram

from albert_fast.batch import ShapeProfile
from albert_fast.engine.manifest import Requirements

Run = Callable[[Tensor, Tensor, Tensor], Mapping[str, Tensor]]
"""``(input_ids, attention_mask, token_type_ids)``, int64 on the engine's device -> outputs by name."""


@dataclass(frozen=True)
class Format:
    """One row of ``FORMATS``.

    Attributes:
        kind: ``"file"``: ``build`` writes it and ``load`` reads it; ``"in-process"``: made from a live model.
        suffix: of the engine file; empty for in-process rows.
        module: dotted name of the module that implements it: a ``FileFormat`` or an ``InProcessFormat``.
        devices: device types it runs on.
    """

    name: str
    kind: Literal["file", "in-process"]
    suffix: str
    module: str
    devices: tuple[str, ...]
    summary: str


class FileFormat(Protocol):
    """What the module of a ``"file"`` row offers."""

    def write(
        self, program: ExportedProgram, path: Path, *, device: str, profile: ShapeProfile, options: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Write the engine file and return notes for the manifest. Unknown options raise ``ValueError``."""
        ...

    def read(self, path: Path, *, device: str) -> Run:
        """Load the engine file. The caller has checked its hash and this machine."""
        ...

    def stored_weight_bytes(self, path: Path) -> int:
        """Bytes of all constants in the file, each counted as often as it is stored."""
        ...

    def requirements(self, device: str) -> Requirements:
        """What a machine must have to run a file that is built here for ``device``."""
        ...

    def runs_on(self, built_for: str, device: str) -> bool:
        """Whether a file built for one device type may be loaded onto another."""
        ...


class InProcessFormat(Protocol):
    """What the module of an ``"in-process"`` row offers."""

    def make(self, model: nn.Module, *, outputs: tuple[str, ...], profile: ShapeProfile) -> Run:
        """Turn a model in ``eval`` mode, already on its device, into a callable."""
        ...


_ROWS = (
    Format(
        "exported_program",
        "file",
        ".pt2",
        "albert_fast.engine.exported_program",
        ("cpu", "cuda"),
        "the captured graph itself, run by PyTorch's own kernels; moves between machines",
    ),
    Format(
        "aotinductor",
        "file",
        ".pt2",
        "albert_fast.engine.aotinductor",
        ("cpu", "cuda"),
        "compiled ahead of time by Inductor for this very kind of CPU or GPU",
    ),
    Format("eager", "in-process", "", "albert_fast.engine.eager", ("cpu", "cuda"), "the model as it is, uncompiled"),
    Format(
        "inductor",
        "in-process",
        "",
        "albert_fast.engine.inductor",
        ("cpu", "cuda"),
        "compiled in this process by torch.compile, the shared layer once",
    ),
)
FORMATS: Mapping[str, Format] = {row.name: row for row in _ROWS}
"""Engine formats by name. ``[name for name, row in FORMATS.items() if row.kind == "file"]`` can be exported."""


def find_format(name: str, *, kind: Literal["file", "in-process"]) -> Format:
    """The row called ``name``.

    Raises:
        ValueError: no such row, or one of the other kind; the message lists the names that fit.
    """
    fitting = [row.name for row in FORMATS.values() if row.kind == kind]
    if name not in FORMATS:
        raise ValueError(f"format is {name!r}, expected one of {', '.join(fitting)}")
    row = FORMATS[name]
    if row.kind != kind:
        made_by = {"file": "is written to a file by build", "in-process": "lives in one process, made by in_process"}
        raise ValueError(f"format {name!r} {made_by[row.kind]}; expected one of {', '.join(fitting)}")
    return row


def file_format(row: Format) -> FileFormat:
    """The implementation of a ``"file"`` row."""
    return cast(FileFormat, import_module(row.module))


def in_process_format(row: Format) -> InProcessFormat:
    """The implementation of an ``"in-process"`` row."""
    return cast(InProcessFormat, import_module(row.module))
