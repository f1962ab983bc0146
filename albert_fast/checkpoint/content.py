"""What a checkpoint is once it has been read: a config, tensors under their present names, and a digest."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from albert_fast.checkpoint import names
from albert_fast.config import AlbertConfig
from albert_fast.errors import CheckpointError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as read.

    Attributes:
        config: the sizes and settings that came with it.
        tensors: parameter name (encoder names start with ``albert.``) -> tensor in the dtype of the file, on the CPU.
        sha256: digest of the weights alone (names, dtypes, shapes, bytes); equal for equal weights in any file format.
        source: the row of ``SOURCES`` that read it, for example ``"safetensors"``.
        folder: where it was read from.
    """

    config: AlbertConfig
    tensors: dict[str, Tensor]
    sha256: str
    source: str
    folder: Path


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and little-endian bytes, sorted by name; independent of the file format."""
    sha256 = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha256.update(f"{name}\0{str(tensor.dtype).removeprefix('torch.')}\0{list(tensor.shape)}\0".encode())
        sha256.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors hold the same numbers (or are one memory)."""
    if a.shape != b.shape:
        return False
    return (a.data_ptr() == b.data_ptr() and a.stride() == b.stride()) or torch.equal(a, b)


def untie(tensors: Mapping[str, Tensor], *, tied: bool, origin: str) -> dict[str, Tensor]:
    """Drop what is stored twice: the masked-LM decoder that repeats the word embeddings, and its bias.

    Args:
        tied: ``config.tie_word_embeddings``. The bias is one in any case, as in ``transformers`` 4.
    Raises:
        CheckpointError: the config ties the decoder to the word embeddings, and the two differ.
    """
    kept = {name: tensor for name, tensor in tensors.items() if not names.BUFFERS.fullmatch(name)}
    for name, source in names.TIED.items():
        if name not in kept or (name == names.DECODER_WEIGHT and not tied):
            continue
        copy = kept.pop(name)
        if source in kept and not same(copy, kept[source]):
            if name == names.DECODER_WEIGHT:
                raise CheckpointError(
                    f"{origin}: {name} {list(copy.shape)} differs from {source} {list(kept[source].shape)}, but the "
                    "config says tie_word_embeddings, so one tensor was expected; set tie_word_embeddings to false in "
                    f"the config to keep both, or delete {name} from the checkpoint"
                )
            # transformers 4 and 5 both add decoder.bias when a file holds two different biases.
            logger.warning("%s: %s differs from %s; using %s, as transformers does", origin, name, source, name)
        kept[source] = kept[source] if name == names.DECODER_WEIGHT and source in kept else copy
    return kept
