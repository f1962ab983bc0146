"""load and inspect: an engine file and its manifest, compared with each other and with this machine.

Engine files hold code: load only those from a source you trust.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from albert_fast.batch import ShapeProfile
from albert_fast.config import AlbertConfig
from albert_fast.engine import files, machine, threads
from albert_fast.engine.engine import Engine
from albert_fast.engine.formats import DescribingFormat, Format, PooledFormat, Run
from albert_fast.engine.manifest import Manifest, TensorSpec, manifest_path, read_manifest
from albert_fast.engine.shapes import Cutting
from albert_fast.engine.table import FORMATS, file_format
from albert_fast.errors import EngineError


def load(path: str | Path, *, device: str | None = None, num_threads: int | None = None) -> Engine:
    """Load an engine file that ``build`` wrote.

    The manifest is read and checked first, then the file's size and hash, then this machine; only then is the file
    itself loaded. It holds code, so it must come from a source you trust.

    Args:
        path: of the engine file; its manifest lies beside it.
        device: ``"cpu"`` or ``"cuda"``; None: what it was built for. Some formats go to either, compiled code does not.
        num_threads: how many threads each call computes with, on the CPU, whatever torch's number is and whichever
            thread calls. None: as many as torch has, see docs/usage.md.
    Raises:
        EngineError: missing or damaged file or manifest, or an engine that does not fit this machine; every difference
            is listed. Or TensorFlow, which has one pool of threads for all engines, has started with another number.
        ValueError: there is no such device here, or ``num_threads`` is no number for this machine.
    """
    threads.check_num_threads(num_threads, device or "cpu")
    path = Path(path)
    if device is not None:
        machine.require_device(device)
    manifest = read_manifest(path)
    row = _row(manifest, path)
    implementation = file_format(row)
    device = device or manifest.device
    threads.check_num_threads(num_threads, device)
    damage = _damage(path, manifest)
    if damage:
        raise EngineError(f"{damage}; copy the engine file and its manifest again, or export anew")
    found = machine.differences(manifest.requires)
    if not implementation.runs_on(manifest.device, device):
        found.append(f"it was built for device {manifest.device!r}, device={device!r} was asked for")
    found += _missing_device(device, manifest)
    if found:
        raise EngineError(
            f"{path} does not fit: {'; '.join(found)}. Export it anew here, or use the format exported_program"
        )
    with threads.using(num_threads):
        run = implementation.read(path, device=device, profiles=manifest.shape_profiles(), notes=manifest.notes)
    if num_threads is not None and row.one_pool:
        _check_pool(cast(PooledFormat, implementation).pool_threads(), num_threads, row.name)
    return make_engine(
        threads.limited(run, num_threads),
        facts_config=manifest.config, head=manifest.head, format=manifest.format, device=device,
        profiles=manifest.shape_profiles(), outputs=manifest.outputs, inputs=manifest.inputs, manifest=manifest,
        cutting=row.cutting_on(device, manifest.notes), num_threads=num_threads,
    )  # fmt: skip


def inspect(path: str | Path) -> dict[str, Any]:
    """What an engine file is and whether it would load here, without loading it.

    Returns:
        The manifest's fields, and ``path``, ``manifest_path``, ``undamaged``, ``damage`` (words or None),
        ``fits_machine``, ``differences`` (a list of words), ``weights_held_once``, ``size_ratio`` (file to distinct
        weights) and ``size_limit_bytes``.
    Raises:
        EngineError: the manifest is missing or damaged.
    """
    from albert_fast.engine.builder import EXTRA_BYTES, held_once, size_limit

    path = Path(path)
    manifest = read_manifest(path)
    row = _row(manifest, path)
    damage = _damage(path, manifest)
    stored = manifest.stored_weight_bytes if damage else file_format(row).stored_weight_bytes(path, manifest.notes)
    differences = machine.differences(manifest.requires) + _missing_device(manifest.device, manifest)
    profiles, extra_bytes = len(manifest.shape_profiles()), manifest.notes.get(EXTRA_BYTES, 0)
    return {
        **dataclasses.asdict(manifest),
        "path": str(path),
        "manifest_path": str(manifest_path(path)),
        "undamaged": damage is None,
        "damage": damage,
        "fits_machine": not differences,
        "differences": differences,
        "weights_held_once": held_once(stored, manifest.weight_bytes),
        "size_ratio": round(manifest.file_bytes / max(manifest.weight_bytes, 1), 3),
        "size_limit_bytes": size_limit(manifest.weight_bytes, row, profiles=profiles, extra_bytes=extra_bytes),
    }


def describable(path: str | Path) -> bool:
    """Whether files that are called like this one tell what they are without their manifest, see ``describe``."""
    return bool(_describing(Path(path)))


def describe(path: str | Path) -> dict[str, Any]:
    """What an engine file tells of itself, for one whose manifest is missing; it is not loaded, and cannot be.

    Returns:
        ``path``, ``manifest_path``, ``bytes``, ``format`` (None where it is no file of ours), ``manifest`` (the fields
        of a manifest that the file itself carries, without its own hash and size, or None) and what its format finds.
    Raises:
        EngineError: the file cannot be read, or files of its kind tell nothing without their manifest.
        MissingDependencyError: what reads the file is not installed.
    """
    path = Path(path)
    rows = _describing(path)
    if not rows:
        raise EngineError(
            f"the manifest {manifest_path(path)} is missing, and {path} says nothing without it; copy both files, or "
            "export anew"
        )
    try:
        whole = {"path": str(path), "manifest_path": str(manifest_path(path)), "bytes": path.stat().st_size}
        for row in rows:
            found = cast(DescribingFormat, file_format(row)).describe(path)
            if found is not None:
                return {**whole, "format": row.name, **found}
    except OSError as error:
        raise EngineError(f"the engine file {path} cannot be read ({error.strerror}); check its path") from None
    return {**whole, "format": None, "manifest": None}


def make_engine(
    run: Run,
    *,
    facts_config: Mapping[str, Any],
    head: str,
    format: str,
    device: str,
    profiles: tuple[ShapeProfile, ...],
    outputs: tuple[TensorSpec, ...],
    inputs: tuple[TensorSpec, ...],
    manifest: Manifest | None = None,
    cutting: Cutting | None = None,
    num_threads: int | None = None,
) -> Engine:
    """An ``Engine`` over what a file format has read."""
    dimensions = {d.name: d for d in inputs[0].dimensions}
    return Engine(
        run,
        config=AlbertConfig.from_dict(dict(facts_config)),
        head=head,
        format=format,
        device=device,
        profiles=profiles,
        outputs=outputs,
        ids_rank=len(inputs[0].dimensions),
        max_choices=dimensions["choices"].maximum if "choices" in dimensions else None,
        manifest=manifest,
        cutting=cutting,
        num_threads=num_threads,
    )


def _describing(path: Path) -> list[Format]:
    return [row for row in FORMATS.values() if row.describes and row.suffix == path.suffix]


def _missing_device(device: str, manifest: Manifest) -> list[str]:
    if machine.has_device(device) or manifest.requires.compute_capabilities:  # those are compared, and told, by machine
        return []
    return [f"it runs on {device}, and torch {torch.__version__} finds no such device here"]


def _check_pool(found: int, asked: int, format: str) -> None:
    if found != asked:
        raise EngineError(
            f"num_threads={asked} was asked for, but the runtime of {format} has one pool of threads for the whole "
            f"process, and it has started with {found}; load the first such engine with num_threads={asked}, or start "
            "another process"
        )


def _row(manifest: Manifest, path: Path) -> Format:
    row = FORMATS.get(manifest.format)
    if row is None or row.kind != "file":
        known = ", ".join(name for name, row in FORMATS.items() if row.kind == "file")
        raise EngineError(
            f"the manifest of {path} says format {manifest.format!r}, this albert-fast knows {known}; "
            "install the albert-fast that wrote it, or export anew"
        )
    return row


def _damage(path: Path, manifest: Manifest) -> str | None:
    """What is wrong with the file itself or a companion, in words, or None."""
    expected = [(path, manifest.file_bytes, manifest.file_sha256, "engine file")]
    expected += [(path.with_name(one.name), one.bytes, one.sha256, "companion file") for one in manifest.companions]
    for file, size, sha256, what in expected:
        try:
            found_size = file.stat().st_size
            if found_size != size:
                return f"the {what} {file} has {found_size} bytes, expected {size}: it is incomplete or another"
            found = files.sha256_of(file)
        except OSError as error:
            return f"the {what} {file} cannot be read ({error.strerror})"
        if found != sha256:
            return f"the {what} {file} has sha256 {found[:16]}..., expected {sha256[:16]}...: it is damaged"
    return None
