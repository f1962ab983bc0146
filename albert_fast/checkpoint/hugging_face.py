"""Folders that ``transformers`` wrote: model.safetensors or pytorch_model.bin, one file or shards with an index."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from albert_fast.checkpoint import names, safety
from albert_fast.config import CONFIG_NAME, AlbertConfig
from albert_fast.errors import CheckpointError

SAFETENSORS, SAFETENSORS_INDEX = "model.safetensors", "model.safetensors.index.json"
BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


def has_safetensors(folder: Path) -> bool:
    """Whether the folder holds model.safetensors or its shard index."""
    return (folder / SAFETENSORS).is_file() or (folder / SAFETENSORS_INDEX).is_file()


def has_bin(folder: Path) -> bool:
    """Whether the folder holds pytorch_model.bin or its shard index."""
    return (folder / BIN).is_file() or (folder / BIN_INDEX).is_file()


def read_config(folder: Path) -> dict[str, Any]:
    """The content of ``config.json``.

    Raises:
        CheckpointError: no such file, not a JSON object, or the config of another architecture.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        raise CheckpointError(
            f"{folder} has weights but no {CONFIG_NAME}, expected both; put the config of these weights beside them"
        )
    values = safety.read_json(path)
    model_type, architectures = values.get("model_type"), values.get("architectures") or []
    foreign = (
        [str(a) for a in architectures if not str(a).startswith("Albert")] if isinstance(architectures, list) else []
    )
    if model_type not in (None, "albert") or (model_type is None and foreign):
        raise CheckpointError(
            f"{path} is of another architecture: model_type {model_type!r}, architectures {architectures!r}, "
            "expected model_type 'albert'; pass a folder that holds an ALBERT"
        )
    return values


def read_safetensors(folder: Path, config: AlbertConfig) -> dict[str, Tensor]:
    """All tensors of model.safetensors or its shards under their present names. The files are mapped, not copied."""
    return _read(folder, SAFETENSORS, SAFETENSORS_INDEX, _open_safetensors)


def read_bin(folder: Path, config: AlbertConfig) -> dict[str, Tensor]:
    """All tensors of pytorch_model.bin or its shards under their present names. No pickled code is run."""
    return _read(folder, BIN, BIN_INDEX, _open_bin)


def _read(folder: Path, single: str, index: str, open_file: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The one file, or every shard that the index names; then the renames."""
    path = folder / single
    if path.is_file():
        tensors = open_file(path)
    else:
        tensors = _read_shards(folder, folder / index, open_file)
    return names.collect((names.from_torch(name), name, tensor) for name, tensor in tensors.items())


def _read_shards(folder: Path, index: Path, open_file: Callable[[Path], dict[str, Tensor]]) -> dict[str, Tensor]:
    weight_map = safety.read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map, expected parameter names and their files; fetch it again")
    files = {name: safety.inside(folder, name, index) for name in sorted(set(map(str, weight_map.values())))}
    absent = [name for name, path in files.items() if not path.is_file()]
    if absent:
        raise CheckpointError(f"{index} names files that are not in {folder}: {', '.join(absent)}; fetch them as well")
    tensors: dict[str, Tensor] = {}
    problems = []
    for file, path in files.items():
        for name, tensor in open_file(path).items():
            if weight_map.get(name) == file:
                tensors[name] = tensor
            else:
                problems.append(f"{file} holds {name}, which the index places in {weight_map.get(name)}")
    problems += [f"{file} lacks {name}" for name, file in weight_map.items() if name not in tensors]
    if problems:
        raise CheckpointError(
            f"{index} and its files disagree: {'; '.join(problems)}. Fetch all files of one revision again"
        )
    return tensors


def _open_safetensors(path: Path) -> dict[str, Tensor]:
    shapes = safety.check_safetensors(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in shapes}
    except SafetensorError as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}. Fetch it again") from error


def _open_bin(path: Path) -> dict[str, Tensor]:
    """``torch.load`` with weights_only: tensors and containers, never code."""
    archive = zipfile.is_zipfile(path)
    if archive:
        safety.check_archive(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{path} holds more than tensors, or is damaged, and was not unpickled: {reason} Expected a state dict; "
            "convert it to model.safetensors where you trust it"
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError, OSError) as error:
        # What torch's readers raise for bytes that are no archive of torch.save.
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path} is cut off or no file of torch.save: {reason}. Fetch it again") from error
    if not isinstance(content, dict):
        raise CheckpointError(
            f"{path} holds a {type(content).__name__}, expected a state dict; save model.state_dict()"
        )
    foreign = [
        str(name) for name, value in content.items() if not isinstance(value, Tensor) or not isinstance(name, str)
    ]
    if foreign:
        raise CheckpointError(
            f"{path} holds more than parameters: {', '.join(foreign[:20])}. Expected a state dict of tensors alone; "
            "save only model.state_dict()"
        )
    # An expanded tensor claims more than it stores, and would take that much as soon as it is copied.
    rows = [(name, t.numel() * t.element_size(), t.untyped_storage().nbytes()) for name, t in content.items()]
    inflated = [
        f"{name} claims {claimed} bytes and stores {stored}" for name, claimed, stored in rows if claimed > stored
    ]
    if inflated:
        raise CheckpointError(f"{path}: {'; '.join(inflated)}. Expected tensors stored whole; do not trust it")
    return content
