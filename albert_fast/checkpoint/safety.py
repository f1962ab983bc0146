"""Look before reading: JSON, safetensors and pickle archives are measured against the file's true size first.

A hostile file may claim any size. Here every claim is checked against the bytes that are there, before memory is taken.
"""

from __future__ import annotations

import json
import math
import os
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from albert_fast.errors import CheckpointError

MAX_JSON_BYTES = 16 * 1024 * 1024
MAX_HEADER_BYTES = 16 * 1024 * 1024

# safetensors dtype -> bytes per element. Quantized and 8-bit float dtypes are no ALBERT weights.
DTYPE_BYTES = {
    "BOOL": 1, "U8": 1, "I8": 1, "I16": 2, "I32": 4, "I64": 8, "F16": 2, "BF16": 2, "F32": 4, "F64": 8,
}  # fmt: skip


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the name {next(n for n in names if names.count(n) > 1)!r} stands twice in one object")
    return values


def parse_json(text: bytes, origin: str) -> dict[str, Any]:
    """A JSON object without repeated names.

    Raises:
        CheckpointError: not UTF-8, not JSON, nested too deep, a repeated name, or not an object.
    """
    try:
        values = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{origin} is not usable JSON: {error}. Expected one JSON object; fetch it again"
        ) from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{origin} holds a JSON {type(values).__name__}, expected an object; fetch it again")
    return values


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of at most 16 MiB. Raises CheckpointError as ``parse_json`` does."""
    size = path.stat().st_size
    if size > MAX_JSON_BYTES:
        raise CheckpointError(
            f"{path} has {size} bytes, expected a JSON file of at most {MAX_JSON_BYTES}; it is no config"
        )
    return parse_json(path.read_bytes(), str(path))


def inside(folder: Path, name: object, origin: Path) -> Path:
    """The path of a file that an index names.

    Raises:
        CheckpointError: the name is no plain file name; an index may not point out of its own folder.
    """
    if not isinstance(name, str) or not name or name in (".", "..") or {"/", "\\", "\0"} & set(name):
        raise CheckpointError(
            f"{origin} points to {name!r}, expected the plain name of a file in {folder}; do not trust it"
        )
    return folder / name


def _span(name: str, entry: Any, data_bytes: int) -> tuple[int, int] | str:
    """Begin and end of one tensor in the data section, or the sentence that says what is wrong with it."""
    if not isinstance(entry, dict):
        return f"{name}: its entry is no object"
    dtype, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        return f"{name}: dtype {dtype!r}, expected one of {', '.join(DTYPE_BYTES)}"
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 8:
        return f"{name}: shape {str(shape)[:80]}, expected at most 8 sizes of 0 or more"
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int for n in offsets):
        return f"{name}: data_offsets {str(offsets)[:80]}, expected two integers"
    begin, end = offsets
    if not 0 <= begin <= end <= data_bytes:
        return f"{name}: bytes {begin} to {end}, the file has {data_bytes} bytes of data"
    if end - begin != math.prod(shape) * DTYPE_BYTES[dtype]:
        return f"{name}: {end - begin} bytes for {dtype} {shape}, expected {math.prod(shape) * DTYPE_BYTES[dtype]}"
    return begin, end


def check_safetensors(path: Path) -> dict[str, tuple[int, ...]]:
    """Read a safetensors header and compare every claim in it with the file. Returns name -> shape; reads no tensor.

    Raises:
        CheckpointError: truncated, header too large, unknown dtypes, sizes that contradict shapes, offsets outside the
            data, overlaps or holes; all problems of the tensors are listed.
    """
    file_bytes = path.stat().st_size
    with path.open("rb") as file:
        first = file.read(8)
        header_bytes = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if len(first) < 8 or header_bytes > file_bytes - 8:
            raise CheckpointError(
                f"{path} is no safetensors file or is cut off: {file_bytes} bytes, expected at least "
                f"{8 + max(header_bytes, 2)}; fetch it again"
            )
        if header_bytes > MAX_HEADER_BYTES:
            raise CheckpointError(
                f"{path} claims a header of {header_bytes} bytes, expected at most {MAX_HEADER_BYTES}; do not trust it"
            )
        header = parse_json(file.read(header_bytes), f"the header of {path}")
    header.pop("__metadata__", None)
    spans, problems = [], []
    for name, entry in header.items():
        span = _span(name, entry, file_bytes - 8 - header_bytes)
        if isinstance(span, str):
            problems.append(span)
        else:
            spans.append((*span, name))
    problems += _gaps(spans, file_bytes - 8 - header_bytes) if not problems else []
    if problems:
        raise CheckpointError(
            f"{path} is damaged or hostile; nothing of it was read: {'; '.join(problems)}. Fetch it again or do not "
            "trust it"
        )
    return {name: tuple(entry["shape"]) for name, entry in header.items()}


def _gaps(spans: list[tuple[int, int, str]], data_bytes: int) -> list[str]:
    """Overlaps and holes: the tensors must tile the data section exactly."""
    problems, reached = [], 0
    for begin, end, name in sorted(spans):
        if begin != reached:
            what = "overlaps the tensor before it" if begin < reached else "leaves a hole before it"
            problems.append(f"{name}: starts at byte {begin}, expected {reached}: it {what}")
        reached = max(reached, end)
    if reached != data_bytes and not problems:
        problems.append(f"the tensors end at byte {reached}, the file has {data_bytes} bytes of data")
    return problems


def check_archive(path: Path) -> None:
    """Refuse a zip archive (``pytorch_model.bin``) that unpacks to more than the file holds.

    Raises:
        CheckpointError: compressed entries, entries larger than the file in sum, or a damaged archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise CheckpointError(
            f"{path} is cut off or damaged: {error}. Expected a file of torch.save; fetch it again"
        ) from error
    packed = [entry.filename for entry in entries if entry.compress_type != zipfile.ZIP_STORED]
    total, size = sum(entry.file_size for entry in entries), os.path.getsize(path)
    if packed or total > size:
        raise CheckpointError(
            f"{path} unpacks to {total} bytes from {size} ({len(packed)} compressed entries), expected an uncompressed "
            "file of torch.save; do not trust it"
        )


def check_held(claims: Iterable[tuple[str, tuple[int, ...], int]], path: Path, *, held_bytes: int) -> None:
    """Compare the sizes that a file claims with the bytes that it holds.

    Args:
        claims: rows of (name, shape, bytes per element).
        held_bytes: the size of the file, or of its data files in sum.
    Raises:
        CheckpointError: the tensors claim more bytes than there are; the largest is named.
    """
    sizes = sorted(((math.prod(shape) * width, name, shape) for name, shape, width in claims), reverse=True)
    total = sum(size for size, _, _ in sizes)
    if total > held_bytes:
        size, name, shape = sizes[0]
        raise CheckpointError(
            f"{path} claims {total} bytes of tensors and holds {held_bytes}; the largest is {name} {list(shape)} with "
            f"{size}. It is cut off or hostile: fetch it again or do not trust it"
        )
