"""A model that already lives in memory as a ``transformers`` module, taken over without copying its weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from albert_fast.checkpoint import match, names, with_prefix
from albert_fast.checkpoint.content import same
from albert_fast.config import AlbertConfig
from albert_fast.errors import CheckpointError
from albert_fast.heads import HEADS
from albert_fast.model import AlbertModel
from albert_fast.pretrained import AlbertPreTrainedModel


def from_transformers(live_model: nn.Module, *, dtype: torch.dtype | None = None) -> Any:
    """The model of this library that computes what a ``transformers`` ALBERT computes, over the same parameters.

    The parameters are shared, not copied: training one trains the other, and memory is taken once. Works with
    ``transformers`` 4 and 5 and imports neither. Subclasses count as the ALBERT class that they derive from.

    Args:
        live_model: an ``AlbertModel`` (with or without pooler) or one of the six ``AlbertFor...`` of ``transformers``.
        dtype: cast the weights, which then are copies; None shares them in the dtype and on the device they have.
    Returns:
        The class of the same name here, in ``live_model``'s train or eval mode.
    Raises:
        ValueError: not an ALBERT of ``transformers``, or a config that makes no ALBERT.
        CheckpointError: parameters without memory, of other shapes, missing or added; all of them are listed.
    """
    model_class = _class_of(live_model)
    config = AlbertConfig.from_dict(live_model.config.to_dict())  # type: ignore[union-attr, operator]
    options = {"add_pooling_layer": live_model.pooler is not None} if model_class is AlbertModel else {}
    with torch.device("meta"):
        model: AlbertPreTrainedModel = model_class(config, **options)
    found = with_prefix(live_model.state_dict(keep_vars=True))
    prefix = names.PREFIX if model_class is AlbertModel else ""
    expected = {prefix + name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    origin = f"the live {type(live_model).__name__}"
    taken = match(found, expected, origin=origin)
    _check(taken, config, origin)
    if names.DECODER_BIAS in taken:
        taken["predictions.bias"] = taken[names.DECODER_BIAS]  # the one that transformers adds
    shared: dict[int, Tensor] = {}
    for name, tensor in taken.items():
        value = tensor if dtype is None else shared.setdefault(id(tensor), _cast(tensor, dtype))
        parent, _, attribute = name.removeprefix(prefix).rpartition(".")
        setattr(model.get_submodule(parent), attribute, value)
    model.tie_weights()
    return model.train(live_model.training)


def _class_of(live_model: nn.Module) -> type[Any]:
    """The class here that bears the name of the model's class or of the nearest class that it derives from."""
    known = {head.model_class.__name__: head.model_class for head in HEADS.values()}
    if isinstance(live_model, AlbertPreTrainedModel):
        raise ValueError(f"{type(live_model).__name__} is of this library already; use it as it is")
    found = [base for base in type(live_model).__mro__ if base.__name__ in known]
    if not found or not hasattr(live_model, "config"):
        raise ValueError(
            f"live_model is a {type(live_model).__module__}.{type(live_model).__qualname__}, expected an ALBERT of "
            f"transformers ({', '.join(known)}); pass the ALBERT inside it"
        )
    return known[found[0].__name__]


def _check(taken: dict[str, Tensor], config: AlbertConfig, origin: str) -> None:
    """Refuse parameters that cannot be shared as they are."""
    empty = [name for name, tensor in taken.items() if tensor.is_meta]
    if empty:
        raise CheckpointError(
            f"{origin} has parameters without memory (device meta): {', '.join(empty)}; load its weights first"
        )
    decoder, word = taken.get(names.DECODER_WEIGHT), taken.get(names.WORD_EMBEDDINGS)
    if config.tie_word_embeddings and decoder is not None and word is not None and not same(decoder, word):
        raise CheckpointError(
            f"{origin}: {names.DECODER_WEIGHT} differs from {names.WORD_EMBEDDINGS}, but its config says "
            "tie_word_embeddings; call its tie_weights(), or set config.tie_word_embeddings to False to keep both"
        )


def _cast(tensor: Tensor, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(tensor.detach().to(dtype), requires_grad=tensor.requires_grad)
