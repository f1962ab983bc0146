"""The manifest: the JSON beside an engine file that says what the engine is, what it needs and how exact it is.

A manifest may come from anywhere, so reading one only parses JSON and checks types; nothing in it is executed. The
engine file itself does hold code: load only pairs from a source you trust. The hash in the manifest protects against
damage, not against somebody who replaces both files.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from albert_fast.batch import ShapeProfile, parse_profiles
from albert_fast.config import AlbertConfig
from albert_fast.engine import typed_json
from albert_fast.engine.measure import MeasuredError
from albert_fast.errors import EngineError

SCHEMA_VERSION = 2
MANIFEST_SUFFIX = ".manifest.json"
DIGEST_KEY = "manifest_sha256"
_MAX_BYTES = 16 * 2**20  # 100,000 labels take 4 MB


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What only the caller of ``build`` knows about the engine.

    Attributes:
        config: ``AlbertConfig.to_dict()``.
        head: name of the row in ``heads.HEADS``.
        attention: name of the attention implementation in the graph.
        precision: name of the row in ``precision.PRECISIONS``.
        profiles: the shapes the engine is built for; the program was captured for all of them together.
        checkpoint_sha256, checkpoint_source: of the weights; None where they come from a live model.
        labels: names of the classes, in order; empty for heads without classes.
        scales_digest: sha256 of the calibration's scales; None where the precision has none.
    """

    config: Mapping[str, Any]
    head: str
    attention: str
    precision: str
    profiles: tuple[ShapeProfile, ...]
    checkpoint_sha256: str | None = None
    checkpoint_source: str | None = None
    labels: tuple[str, ...] = ()
    scales_digest: str | None = None


@dataclass(frozen=True)
class Dimension:
    """``"batch"``, ``"choices"``, ``"length"``, or ``""`` for a fixed dimension; its smallest and its largest size."""

    name: str
    minimum: int
    maximum: int


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: its dtype (``"int64"``, ``"float32"``) and its dimensions."""

    name: str
    dtype: str
    dimensions: tuple[Dimension, ...] = ()


@dataclass(frozen=True)
class Package:
    """A distribution that the engine needs: ``"at least"`` the release it was built with, or the ``"same"``.

    ``name`` may be several, any of which will do: ``"onnxruntime or onnxruntime-gpu"``.
    """

    name: str
    version: str
    rule: str = "at least"


@dataclass(frozen=True)
class Companion:
    """A file that belongs to the engine file and lies beside it, as ONNX's external data does."""

    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Requirements:
    """What a machine must have; None and empty mean that it does not matter.

    Attributes:
        torch: release the file was written with, ``"2.13.0"``.
        torch_rule: ``"same minor"`` or ``"at least"``.
        system, architecture: ``"Linux"``, ``"x86_64"``.
        cpu_flags: instruction sets, as in /proc/cpuinfo.
        cpu_vendor: only where the code depends on it.
        cuda: major CUDA release of torch, ``"12"``.
        gpu_name: of the building GPU, for the reader; another of a fitting compute capability will do.
        compute_capabilities: ``("8.6", "8.9")``; ``compute_capability_rule`` says whether the GPU's must be one of
            them (``"any of"``) or ``"at least"`` the smallest.
        packages: distributions that run the file.
        op_library: whether the graph calls ops of libalbert_fast_ops.so.
    """

    torch: str
    torch_rule: str
    system: str | None = None
    architecture: str | None = None
    cpu_flags: tuple[str, ...] = ()
    cpu_vendor: str | None = None
    cuda: str | None = None
    gpu_name: str | None = None
    compute_capabilities: tuple[str, ...] = ()
    compute_capability_rule: str = "any of"
    packages: tuple[Package, ...] = ()
    op_library: bool = False


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything known about an engine file. Field by field what the JSON holds.

    Attributes:
        profile: as ``parse_profiles`` reads it: one, or several with commas between them.
        versions: torch, CUDA, compiler, Python and machine at the time of building, for the reader.
        requires: what ``load`` compares with the machine.
        file_sha256, file_bytes: of the engine file.
        companions: files that belong to it.
        weight_bytes: the program's distinct weights, each counted once.
        stored_weight_bytes: constants in the engine file, each counted as often as it is stored.
        error: measured against float32 eager on a fixed batch.
        measured_on: what gave the answers: ``"the engine file"`` as it is on disk, or, where the building machine could
            not run it, the words for what stood in for it.
        notes: what the format chose and measured while building.
    """

    schema_version: int
    project_version: str
    project_commit: str | None
    format: str
    device: str
    config: dict[str, Any]
    head: str
    attention: str
    precision: str
    scales_digest: str | None
    checkpoint_sha256: str | None
    checkpoint_source: str | None
    labels: tuple[str, ...]
    profile: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    file_sha256: str
    file_bytes: int
    companions: tuple[Companion, ...]
    weight_bytes: int
    stored_weight_bytes: int
    error: MeasuredError
    measured_on: str
    requires: Requirements
    versions: dict[str, str | None]
    notes: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The text of the manifest file."""
        fields = json.loads(json.dumps(dataclasses.asdict(self), allow_nan=False))
        return json.dumps({**fields, DIGEST_KEY: digest(fields)}, indent=2, ensure_ascii=False) + "\n"

    def shape_profiles(self) -> tuple[ShapeProfile, ...]:
        """The profiles as objects."""
        return parse_profiles(self.profile)

    def albert_config(self) -> AlbertConfig:
        """The config as an object."""
        return AlbertConfig.from_dict(self.config)

    @classmethod
    def from_json(cls, text: str, *, name: str = "the manifest") -> Manifest:
        """Read and check the text of a manifest file.

        Raises:
            EngineError: not JSON, another schema version, damaged, or fields missing, unknown or of a wrong type; all
                are listed.
        """
        try:
            value = typed_json.parse(text)
        except ValueError as error:
            raise EngineError(
                f"{name} is not valid JSON ({error}): it is damaged; copy it again or export anew"
            ) from error
        found = value.get("schema_version") if isinstance(value, dict) else None
        if isinstance(value, dict) and type(found) is int and found != SCHEMA_VERSION:
            raise EngineError(
                f"{name} has schema_version {found}, this albert-fast reads {SCHEMA_VERSION}; "
                "export the engine anew or install the albert-fast that wrote it"
            )
        if isinstance(value, dict) and value.pop(DIGEST_KEY, None) != digest(value):
            raise EngineError(
                f"{name} is damaged: its {DIGEST_KEY} is not that of its content; copy it again or export anew"
            )
        problems: list[str] = []
        manifest = typed_json.to_dataclass(cls, value, "manifest", problems)
        for read in (cls.shape_profiles, cls.albert_config):
            try:
                if manifest is not None:
                    read(manifest)
            except (ValueError, TypeError) as error:
                problems.append(str(error))
        if manifest is None or problems:
            more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
            raise EngineError(
                f"{name} is not an engine manifest: {'; '.join(problems[:8])}{more}. Copy it again or export anew"
            )
        return manifest


def digest(fields: Mapping[str, Any]) -> str:
    """The hex sha256 of a manifest's fields, however they are laid out: a flipped bit in a label must not go unseen."""
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def manifest_path(engine_file: Path) -> Path:
    """Where the manifest of ``engine_file`` lies: ``model.pt2`` -> ``model.pt2.manifest.json``."""
    return engine_file.with_name(engine_file.name + MANIFEST_SUFFIX)


def read_manifest(engine_file: Path) -> Manifest:
    """The manifest beside ``engine_file``.

    Raises:
        EngineError: missing, unreadable, far too large, or no manifest; the message says what to do.
    """
    path = manifest_path(engine_file)
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise EngineError(
            f"the manifest {path} is missing; an engine file is loaded only with it: copy both files, or export anew"
        ) from None
    except OSError as error:
        raise EngineError(
            f"the manifest {path} cannot be read: {error.strerror}; check the path and its rights"
        ) from None
    if len(data) > _MAX_BYTES:
        raise EngineError(f"the manifest {path} is larger than {_MAX_BYTES} bytes, so it is none; export anew")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise EngineError(
            f"the manifest {path} is not UTF-8 text ({error}): it is damaged; copy it again or export anew"
        ) from error
    return Manifest.from_json(text, name=f"the manifest {path}")
