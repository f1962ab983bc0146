"""The table of checkpoint formats, in order of preference, and ``load``, which walks it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from albert_fast.checkpoint import google_tf1, hub, hugging_face, keras_h5, names
from albert_fast.checkpoint.content import Checkpoint, digest, untie
from albert_fast.config import AlbertConfig
from albert_fast.errors import CheckpointError


@dataclass(frozen=True)
class Source:
    """One format in which checkpoints come.

    Attributes:
        files: what the format looks like, for messages and as patterns of what to download from a hub.
        recognise: whether a folder holds it.
        read_config: the folder's config as a dict of Hugging Face's fields.
        read_tensors: the folder's tensors under their present names.
        from_tf: whether TensorFlow wrote it.
        labels_from_head: whether its config is silent about the number of classes, so that the head's shape tells it.
    """

    name: str
    files: tuple[str, ...]
    recognise: Callable[[Path], bool]
    read_config: Callable[[Path], dict[str, Any]]
    read_tensors: Callable[[Path, AlbertConfig], dict[str, Tensor]]
    from_tf: bool = False
    labels_from_head: bool = False


SOURCES = (
    Source(
        "safetensors",
        ("model*.safetensors", "model.safetensors.index.json"),
        hugging_face.has_safetensors,
        hugging_face.read_config,
        hugging_face.read_safetensors,
    ),
    Source(
        "pytorch_model.bin",
        ("pytorch_model*.bin", "pytorch_model.bin.index.json"),
        hugging_face.has_bin,
        hugging_face.read_config,
        hugging_face.read_bin,
    ),
    Source(
        "tf1",
        ("*.index", "*.data-*"),
        google_tf1.recognise,
        google_tf1.read_config,
        google_tf1.read_tensors,
        from_tf=True,
        labels_from_head=True,
    ),
    Source(
        "tf_model.h5",
        ("tf_model.h5",),
        keras_h5.recognise,
        hugging_face.read_config,
        keras_h5.read_tensors,
        from_tf=True,
    ),
)
BESIDE = ("*config.json", "spiece.model", "30k-clean.model", "*tokenizer*.json", "special_tokens_map.json")


def load(
    path_or_name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    from_tf: bool = False,
    token: bool | str | None = None,
) -> Checkpoint:
    """Read a checkpoint from a folder, an embedded model or the hub, whichever format it is in.

    Args:
        path_or_name: a folder, ``"albert-fast/wordnet"``, or a hub name such as ``"albert/albert-base-v2"``.
        revision, cache_dir, local_files_only, token: for hub names, as in ``huggingface_hub``.
        from_tf: look only for what TensorFlow wrote (Google's TF1 checkpoints, tf_model.h5).
    Returns:
        The config, and the tensors in the file's dtypes under the names of a model with a head.
    Raises:
        CheckpointError: nothing there, damaged, hostile, another architecture; the message holds the next step.
        MissingDependencyError: the format or the hub needs a package that is not installed.
    """
    rows = [source for source in SOURCES if source.from_tf or not from_tf]
    path = Path(path_or_name)
    if path.is_dir():
        source, folder = _first(rows, path), path
    elif path.exists():
        raise CheckpointError(
            f"{path} is a file, expected the folder that holds a config and the weights; pass {path.parent}"
        )
    else:
        hub_options = {
            "revision": revision,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
            "token": token,
        }
        source, folder = _fetch(rows, os.fspath(path_or_name), hub_options)
    config = _config(source, folder)
    tensors = untie(source.read_tensors(folder, config), tied=config.tie_word_embeddings, origin=str(folder))
    _check_layers(config, tensors, folder)
    weight = tensors.get("classifier.weight")
    if source.labels_from_head and weight is not None and weight.dim() == 2:
        config = config.replace(num_labels=weight.shape[0])
    return Checkpoint(config, tensors, digest(tensors), source.name, folder)


def _first(rows: list[Source], folder: Path) -> Source:
    """The preferred format among those in the folder."""
    for source in rows:
        if source.recognise(folder):
            return source
    looked_for = "; ".join(f"{source.name} ({', '.join(source.files)})" for source in rows)
    found = sorted(entry.name for entry in folder.iterdir())[:20]
    raise CheckpointError(
        f"{folder} holds no checkpoint. Expected one of {looked_for}; found {', '.join(found) or 'nothing'}. "
        "Pass the folder that save_pretrained wrote or that Google's archive unpacked to"
    )


def _fetch(rows: list[Source], name: str, options: dict[str, Any]) -> tuple[Source, Path]:
    """Download format by format, in order of preference, so that only one format's files travel."""
    folder = Path()
    for source in rows:
        folder = hub.resolve(name, **options, allow_patterns=(*source.files, *BESIDE))
        if source.recognise(folder):
            return source, folder
    return _first(rows, folder), folder


def _config(source: Source, folder: Path) -> AlbertConfig:
    values = source.read_config(folder)
    try:
        return AlbertConfig.from_dict(values)
    except (ValueError, TypeError) as error:
        raise CheckpointError(
            f"the config in {folder}: {error}. Use the config that belongs to these weights"
        ) from error


def _check_layers(config: AlbertConfig, tensors: dict[str, Tensor], folder: Path) -> None:
    """Refuse a config with other layers than the weights have: a hostile one could ask for a million of them."""
    found = {match.groups() for name in tensors if (match := names.LAYER.match(name))}
    groups, layers = config.num_hidden_groups, config.inner_group_num
    if len(found) != groups * layers or any(int(g) >= groups or int(k) >= layers for g, k in found):
        have = ", ".join(f"group {g} layer {k}" for g, k in sorted(found)) or "no layers"
        raise CheckpointError(
            f"the config in {folder} says num_hidden_groups {groups} and inner_group_num {layers}, the weights have "
            f"{have}, expected {groups * layers} in all. Use the config that belongs to these weights"
        )
