"""Write a checkpoint that ``transformers`` loads back: model.safetensors and config.json, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from albert_fast.checkpoint import names
from albert_fast.checkpoint.content import same
from albert_fast.config import AlbertConfig
from albert_fast.errors import CheckpointError
from albert_fast.files import replacing

WEIGHTS_NAME = "model.safetensors"


def save(config: AlbertConfig, tensors: Mapping[str, Tensor], folder: str | os.PathLike[str]) -> Path:
    """Write ``model.safetensors`` and ``config.json``. Returns the folder.

    Each file is written beside its place, flushed to disk and renamed, so a reader sees the old or the new one.

    Args:
        tensors: a ``state_dict``, with or without the ``albert.`` prefix; names are written as they are. The tied
            masked-LM decoder is left out, as ``transformers`` leaves it out.
        folder: made if absent.
    Raises:
        CheckpointError: nothing to write, tensors without memory (device ``meta``), or a tied decoder that differs.
    """
    target = Path(folder)
    kept = _written(config, tensors)
    with replacing(target / WEIGHTS_NAME) as temporary:
        save_file(kept, temporary, metadata={"format": "pt"})
    config.save_pretrained(target)
    return target


def _written(config: AlbertConfig, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors to write: on the CPU, contiguous, each with memory of its own, tied ones once."""
    empty = [name for name, tensor in tensors.items() if tensor.is_meta]
    if empty or not tensors:
        raise CheckpointError(
            f"nothing to save for {', '.join(empty) or 'an empty state dict'}: expected tensors with values; load "
            "weights first"
        )
    dropped = set()
    for name, source in names.TIED.items() if config.tie_word_embeddings else ():
        source = source if source in tensors else source.removeprefix(names.PREFIX)
        if name not in tensors or source not in tensors:
            continue
        if not same(tensors[name], tensors[source]):
            raise CheckpointError(
                f"{name} differs from {source}, but config.tie_word_embeddings is on, so transformers would load one "
                "tensor for both; tie them again or switch tie_word_embeddings off"
            )
        dropped.add(name)
    kept: dict[str, Tensor] = {}
    memory: set[int] = set()
    for name, tensor in tensors.items():
        if name in dropped or names.BUFFERS.fullmatch(name):
            continue
        value = tensor.detach().cpu().contiguous()
        start = value.untyped_storage().data_ptr()
        kept[name] = value.clone() if start in memory else value
        memory.add(start)
    return kept
