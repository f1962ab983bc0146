"""A trained ALBERT made wider without a change to what it computes, and then without its symmetry.

Every hidden vector ``x`` becomes ``copies`` times ``x``, end to end. LayerNorm's mean and variance stay the same, each
head becomes ``copies`` heads of the old size, and each weight a block of ``copies x copies`` shares whose sum along the
fan-in is the old weight. Unequal shares compute the same and have other gradients.

Source: Chen, Goodfellow and Shlens 2016, "Net2Net: Accelerating Learning via Knowledge Transfer", arXiv:1511.05641,
section 2.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from gloss_model import GlossModel
from torch import Tensor

from albert_fast.config import AlbertConfig

SCALED_FIELDS = ("hidden_size", "num_attention_heads", "intermediate_size")
FREE_FIELDS = ("initializer_range", "architectures", "dtype", "torch_dtype", "label2id")
"""Fields that may differ: they do not change what a model with given weights computes."""


def widened(tensor: Tensor, shape: torch.Size, *, spread: float, generator: torch.Generator) -> Tensor:
    """``tensor`` tiled to ``shape``; along the fan-in, dimension 1, the copies share the old weight among them.

    Args:
        tensor: ``[out, in]``, or ``[size]`` of a bias or a LayerNorm.
        shape: whole multiples of the tensor's.
        spread: standard deviation of a copy's share before the shares are moved to their sum of 1, as a part of the
            equal share; 0 makes all equal.
    """
    copies = [new // old for new, old in zip(shape, tensor.shape, strict=True)]
    tiled = tensor.repeat(copies)
    if tensor.ndim < 2 or copies[1] == 1:
        return tiled
    noise = torch.randn(shape[0], copies[1], tensor.shape[1], generator=generator)
    shares = (1 + spread * (noise - noise.mean(1, keepdim=True))) / copies[1]
    return tiled * shares.view(shape)


def widened_tensors(
    tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], *, spread: float, generator: torch.Generator
) -> dict[str, Tensor]:
    """Every tensor of ``shapes`` from its namesake. Embedding tables keep their shape, and so their values."""
    return {name: widened(tensors[name], shape, spread=spread, generator=generator) for name, shape in shapes.items()}


def check_widening(source: AlbertConfig, target: AlbertConfig, folder: Path) -> None:
    """ValueError unless ``target`` is ``source`` with its widths times one whole number; names every difference."""
    copies, rest = divmod(target.hidden_size, source.hidden_size)
    if rest or copies < 1:
        raise ValueError(
            f"hidden_size {target.hidden_size} is no multiple of {source.hidden_size}, that of {folder}; "
            f"give --hidden-size {2 * source.hidden_size} or {3 * source.hidden_size}"
        )
    wide = source.replace(**{name: copies * getattr(source, name) for name in SCALED_FIELDS}).to_dict()
    found = {name: value for name, value in target.to_dict().items() if name not in FREE_FIELDS}
    different = [f"{name} {wide.get(name)!r} -> {value!r}" for name, value in found.items() if wide.get(name) != value]
    if different:
        raise ValueError(f"{folder}, made {copies} times as wide, has another config: {', '.join(different)}")


def widen_into(model: GlossModel, folder: str | Path, *, spread: float, noise: float, seed: int) -> None:
    """Fill ``model`` with the weights of the narrower model in ``folder``.

    Args:
        folder: as ``embedded_folder.write_embedded`` writes it: both heads in one file.
        spread: of the shares, see ``widened``; the model computes what the narrow one computes.
        noise: standard deviation of what is then added to every matrix but the embedding tables, as a part of the
            matrix's root mean square; with it the copies of a vector are copies no more.
    Raises:
        ValueError: the model is not the narrow one made a whole number of times as wide.
    """
    folder = Path(folder)
    config = AlbertConfig.from_pretrained(folder)
    check_widening(config, model.config, folder)
    generator = torch.Generator().manual_seed(seed)
    narrow = GlossModel.from_pretrained(folder).state_dict()
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    tensors = widened_tensors(narrow, shapes, spread=spread, generator=generator)
    for name, tensor in tensors.items():
        if noise and tensor.ndim == 2 and tensor.shape != narrow[name].shape:
            tensor += noise * tensor.square().mean().sqrt() * torch.randn(tensor.shape, generator=generator)
    model.load_state_dict(tensors)
