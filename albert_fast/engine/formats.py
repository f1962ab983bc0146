"""What a row of the table of engine formats says, and what the module behind it offers; the rows are in ``table``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from torch import Tensor, nn
from torch.export import ExportedProgram

from albert_fast.batch import ShapeProfile
from albert_fast.engine.manifest import Requirements
from albert_fast.engine.shapes import Cutting

Run = Callable[..., Mapping[str, Tensor]]
"""``(input_ids, attention_mask, token_type_ids)``, and ``positions`` where it answers at asked ones alone; int64 on the
engine's device -> outputs by name."""
ENGINE_FILE = "the engine file"
"""What the error in a manifest is measured on, where the machine that built the engine could run it."""


@dataclass(frozen=True)
class Gap:
    """An empty cell of the table format x precision x device.

    Attributes:
        dtype: of the graph's weights, ``"float16"``; ``"*"`` is any.
        device: ``"cpu"``, ``"cuda"``; ``"*"`` is any.
        reason: a sentence that says why, and what to do instead.
    """

    dtype: str
    device: str
    reason: str


@dataclass(frozen=True)
class Format:
    """One row of ``table.FORMATS``.

    Attributes:
        kind: ``"file"``: ``build`` writes it and ``load`` reads it; ``"in-process"``: made from a live model.
        suffix: of the engine file; empty for in-process rows.
        module: dotted name of the module that implements it: a ``FileFormat`` or an ``InProcessFormat``.
        devices: device types it runs on; the first is the one that is meant where none is named.
        extra: of this project that installs what it needs; None where nothing is needed.
        imports: top-level packages that it imports.
        options: name of each option that ``write`` takes, and what it does.
        many_profiles: whether one file may hold several profiles.
        builds_without_device: whether a machine without the device can write the file.
        code_bytes: what the file may hold beside the weights, for each profile.
        embeds_manifest: whether the file itself carries the manifest as well.
        describes: whether a file without its manifest still tells what it is; its module is a ``DescribingFormat``.
        gaps: which dtypes and devices it cannot serve.
        rest: the precision, by device, that suits what a quantized graph leaves unquantized.
        attentions: the attention implementations it takes a graph with; empty where any will do.
        keeps_sites: whether it takes a quantized graph with passes or tensors of the encoder left unquantized.
        op_library: whether it needs ``libalbert_fast_ops.so``.
        asks: whether it takes a graph, or a model, that answers at asked positions alone.
        skips_padding: whether it computes no padding by itself; per-token outputs then mean nothing there, and neither
            does anything about a text without a token.
        cutting: what cutting a batch of mixed lengths costs on the CPU, so that an engine computes little padding;
            per-token outputs then mean nothing there. None: batches that fit a profile run as they are.
        uncut: notes of files whose batches are not cut all the same.
        one_pool: whether its runtime has one pool of threads for the whole process; its module is a ``PooledFormat``.
    """

    name: str
    kind: Literal["file", "in-process"]
    suffix: str
    module: str
    devices: tuple[str, ...]
    summary: str
    extra: str | None = None
    imports: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    many_profiles: bool = False
    builds_without_device: bool = False
    code_bytes: int = 2_000_000
    embeds_manifest: bool = False
    describes: bool = False
    gaps: tuple[Gap, ...] = ()
    rest: Mapping[str, str] = field(default_factory=lambda: {"cpu": "fp32", "cuda": "fp16"})
    attentions: tuple[str, ...] = ()
    keeps_sites: bool = True
    op_library: bool = False
    asks: bool = False
    skips_padding: bool = False
    cutting: Cutting | None = None
    uncut: Mapping[str, Any] = field(default_factory=dict)
    one_pool: bool = False

    def gap(self, dtype: str, device: str) -> str | None:
        """Why this format has nothing for a graph of ``dtype`` on ``device``; None where it has."""
        kind = device.partition(":")[0]
        if kind not in self.devices:
            return f"{self.name} runs on {', '.join(self.devices)}, not on {kind}"
        fitting = (gap.reason for gap in self.gaps if gap.dtype in (dtype, "*") and gap.device in (kind, "*"))
        return next(fitting, None)

    def cutting_on(self, device: str, notes: Mapping[str, Any]) -> Cutting | None:
        """What cutting a batch costs an engine on ``device`` whose manifest has these notes; None: it cuts none."""
        if device.partition(":")[0] != "cpu" or any(notes.get(name) == value for name, value in self.uncut.items()):
            return None
        return self.cutting

    def missing(self) -> str | None:
        """What is not installed of what the format needs, and the command that installs it; None where all is there."""
        if self.op_library:
            from albert_fast import ops

            if not ops.is_available():
                return f"{self.name} needs the op library: {ops.BUILD_COMMAND}"
        absent = [name for name in self.imports if find_spec(name) is None]
        if not absent:
            return None
        return f"{self.name} needs {', '.join(absent)}: pip install 'albert-fast[{self.extra}]'"


@dataclass(frozen=True)
class Written:
    """What ``write`` returns.

    Attributes:
        notes: for the manifest: what the format chose and measured while building; JSON's types only.
        stand_in: runs the same graph on the CPU, where the file cannot be run as it is, for want of its device or of
            its weights; None where it can, or where there is no such thing.
        measured_on: what the stand-in is, in words: ``"its ONNX graph, by ONNX Runtime on CPU"``.
        extra_bytes: what options asked to be in the file beside weights and kernels; the size limit grows by it.
    """

    notes: dict[str, Any] = field(default_factory=dict)
    stand_in: Run | None = None
    measured_on: str = ENGINE_FILE
    extra_bytes: int = 0


class FileFormat(Protocol):
    """What the module of a ``"file"`` row offers."""

    def write(
        self,
        program: ExportedProgram,
        path: Path,
        *,
        device: str,
        profiles: tuple[ShapeProfile, ...],
        options: Mapping[str, Any],
        tell: Callable[[str], None],
    ) -> Written:
        """Write the engine file; what belongs to it lies beside it, called ``<file name>.<something>``.

        Args:
            options: only names of the row's ``options``; wrong values raise ``ValueError`` before any work.
            tell: called with a few words before a step that takes long.
        """
        ...

    def read(self, path: Path, *, device: str, profiles: tuple[ShapeProfile, ...], notes: Mapping[str, Any]) -> Run:
        """Load the engine file. The caller has checked its hash and this machine.

        A runtime with threads of its own takes as many as ``torch.get_num_threads()`` says here.
        """
        ...

    def stored_weight_bytes(self, path: Path, notes: Mapping[str, Any]) -> int:
        """Bytes of all constants in the file, each counted as often as it is stored."""
        ...

    def requirements(self, device: str, options: Mapping[str, Any]) -> Requirements:
        """What a machine must have to run a file that is built here for ``device``."""
        ...

    def runs_on(self, built_for: str, device: str) -> bool:
        """Whether a file built for one device type may be loaded onto another."""
        ...


class EmbeddingFormat(FileFormat, Protocol):
    """What the module of a row with ``embeds_manifest`` offers beside."""

    def embed(self, path: Path, text: str) -> None:
        """Put the manifest, without the file's own hash and size, into the file."""
        ...


class DescribingFormat(FileFormat, Protocol):
    """What the module of a row with ``describes`` offers beside."""

    def describe(self, path: Path) -> dict[str, Any] | None:
        """What the file tells without its manifest, JSON's types only; None where it is not of this format.

        ``manifest`` holds the fields of a manifest that the file carries, or None where it carries none.

        Raises:
            MissingDependencyError: what reads the file is not installed.
            EngineError: the file cannot be read.
        """
        ...


class PooledFormat(FileFormat, Protocol):
    """What the module of a row with ``one_pool`` offers beside."""

    def pool_threads(self) -> int:
        """How many threads the process's one pool has; a file has been loaded."""
        ...


class InProcessFormat(Protocol):
    """What the module of an ``"in-process"`` row offers."""

    def make(self, model: nn.Module, *, outputs: tuple[str, ...], profile: ShapeProfile, asked: bool = False) -> Run:
        """Turn a model in ``eval`` mode, already on its device, into a callable.

        Args:
            asked: whether it is called with positions; only of a row that ``asks``, others need not take it.
        """
        ...
