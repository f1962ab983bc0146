"""ALBERT as pure functions on tensors: embeddings, one transformer layer, and the loop that applies it N times.

    B batch  S sequence  E embedding_size  D hidden_size  N heads  H head size  F intermediate_size

Weights come in as tuples of tensors, attention as a function; nothing here knows a device, a dtype or a backend, so
whatever traces these functions sees one flat loop over the very same weight tensors.

Source: Lan et al. 2020, "ALBERT: A Lite BERT for Self-supervised Learning of Language Representations",
arXiv:1909.11942.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from albert_fast.attention import Attention

Activation = Callable[[Tensor], Tensor]

_gelu_tanh: Activation = partial(F.gelu, approximate="tanh")
ACTIVATIONS: dict[str, Activation] = {
    "gelu": F.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "linear": lambda x: x,
    "mish": F.mish,
    "relu": F.relu,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
}


class Affine(NamedTuple):
    """Weight and bias of a linear map ``[out, in]``, ``[out]``, or of a LayerNorm ``[size]``, ``[size]``."""

    weight: Tensor
    bias: Tensor


class LayerWeights(NamedTuple):
    """Everything one transformer layer owns."""

    query: Affine
    key: Affine
    value: Affine
    dense: Affine
    attention_norm: Affine
    ffn: Affine
    ffn_output: Affine
    output_norm: Affine


class EmbeddingWeights(NamedTuple):
    """The tables ``[vocab | positions | types, E]``, their LayerNorm, and the map from E to D."""

    word: Tensor
    position: Tensor
    token_type: Tensor
    norm: Affine
    mapping_in: Affine


@dataclass(frozen=True)
class LayerSettings:
    """What a layer needs to know beside its weights. Dropouts are 0.0 outside training."""

    num_heads: int
    layer_norm_eps: float
    activation: Activation
    attention: Attention
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0


class Encoded(NamedTuple):
    """``last`` is ``[B, S, D]``; the tuples are empty unless asked for. ``hidden_states`` starts with the input."""

    last: Tensor
    hidden_states: tuple[Tensor, ...]
    attentions: tuple[Tensor, ...]


def attention_bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a mask of 0 and 1 into a bias on attention scores.

    Args:
        mask: ``[B, S]`` (keys that may be seen) or ``[B, S, S]`` (query x key); any dtype, nonzero means seen.
        dtype: floating dtype of the scores.
    Returns:
        ``[B, 1, 1, S]`` or ``[B, 1, S, S]`` in ``dtype``: 0 where seen, half the dtype's minimum elsewhere. Half, so
        that score + bias stays finite in every dtype; the softmax of a row with no key to see is then finite too.
    """
    mask_BQS = mask[:, None, :] if mask.dim() == 2 else mask
    unseen_B1QS = (mask_BQS == 0)[:, None, :, :].to(dtype)
    return unseen_B1QS * (torch.finfo(dtype).min / 2)


def layer_norm(x: Tensor, norm: Affine, eps: float) -> Tensor:
    """LayerNorm over the last dimension; PyTorch's kernels compute it in float32 whatever the dtype of ``x``."""
    return F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, eps)


def dropout(x: Tensor, p: float) -> Tensor:
    """Dropout with probability ``p``; nothing at all, also not in a traced graph, when ``p`` is 0."""
    return F.dropout(x, p=p) if p > 0 else x


def embed(
    words_BSE: Tensor,
    token_type_ids: Tensor | None,
    position_ids: Tensor | None,
    weights: EmbeddingWeights,
    *,
    layer_norm_eps: float,
    hidden_dropout: float = 0.0,
) -> Tensor:
    """Word embeddings -> encoder input: add token type and position, LayerNorm, map E to D.

    Args:
        words_BSE: rows of the word table (or ``inputs_embeds``).
        token_type_ids, position_ids: ``[B, S]`` (positions also ``[1, S]``), or None for all 0 and for 0..S-1.
    Returns:
        ``[B, S, D]``.
    """
    S = words_BSE.shape[1]
    types = weights.token_type[0] if token_type_ids is None else F.embedding(token_type_ids, weights.token_type)
    positions = weights.position[:S] if position_ids is None else F.embedding(position_ids, weights.position)
    x_BSE = layer_norm(words_BSE + types + positions, weights.norm, layer_norm_eps)
    return F.linear(dropout(x_BSE, hidden_dropout), *weights.mapping_in)


def self_attention(
    x_BSD: Tensor, bias: Tensor | None, layer: LayerWeights, settings: LayerSettings
) -> tuple[Tensor, Tensor | None]:
    """Self-attention, output projection, residual, LayerNorm. Returns ``[B, S, D]`` and the probabilities."""
    B, S, D = x_BSD.shape
    N = settings.num_heads
    q, k, v = (F.linear(x_BSD, *w).view(B, S, N, D // N).transpose(1, 2) for w in (layer.query, layer.key, layer.value))
    context_BNSH, probabilities = settings.attention(q, k, v, bias, dropout_p=settings.attention_dropout)
    context_BSD = context_BNSH.transpose(1, 2).reshape(B, S, D)
    projected = dropout(F.linear(context_BSD, *layer.dense), settings.hidden_dropout)
    return layer_norm(x_BSD + projected, layer.attention_norm, settings.layer_norm_eps), probabilities


def feed_forward(x_BSD: Tensor, layer: LayerWeights, settings: LayerSettings) -> Tensor:
    """Two linear maps with the activation between them, residual, LayerNorm. ALBERT has no dropout here."""
    x_BSF = settings.activation(F.linear(x_BSD, *layer.ffn))
    return layer_norm(F.linear(x_BSF, *layer.ffn_output) + x_BSD, layer.output_norm, settings.layer_norm_eps)


def transformer_layer(
    x_BSD: Tensor, bias: Tensor | None, layer: LayerWeights, settings: LayerSettings
) -> tuple[Tensor, Tensor | None]:
    """One pass: self-attention, then feed-forward. Returns ``[B, S, D]`` and the attention probabilities."""
    x_BSD, probabilities = self_attention(x_BSD, bias, layer, settings)
    return feed_forward(x_BSD, layer, settings), probabilities


TransformerLayer = Callable[[Tensor, Tensor | None, LayerWeights, LayerSettings], tuple[Tensor, Tensor | None]]


def encode(
    x_BSD: Tensor,
    bias: Tensor | None,
    layers: Sequence[LayerWeights],
    schedule: Sequence[int],
    settings: LayerSettings,
    *,
    collect: bool = False,
    apply_layer: TransformerLayer = transformer_layer,
) -> Encoded:
    """Apply the shared layer, or layers, pass after pass.

    Args:
        x_BSD: encoder input, any floating dtype.
        bias: what ``attention_bias`` returns, or None when every token is seen.
        layers: the distinct layers; ALBERT's published models have exactly one.
        schedule: for each pass the index into ``layers`` (``AlbertConfig.schedule``).
        collect: also return the hidden state before each pass and after the last, and each pass's attentions.
        apply_layer: computes one pass; a compiler's hook to treat the layer as one region, compiled once.
    Source: Lan et al. 2020, section 3.1 (cross-layer parameter sharing).
    """
    hidden_states: list[Tensor] = [x_BSD] if collect else []
    attentions: list[Tensor] = []
    for pass_index in range(len(schedule)):
        layer = layers[schedule[pass_index]]
        x_BSD, probabilities = apply_layer(x_BSD, bias, layer, settings)
        if collect:
            hidden_states.append(x_BSD)
            if probabilities is not None:
                attentions.append(probabilities)
    return Encoded(x_BSD, tuple(hidden_states), tuple(attentions))


def pool(x_BSD: Tensor, pooler: Affine) -> Tensor:
    """The first token through a linear map and tanh: ``[B, D]``."""
    return torch.tanh(F.linear(x_BSD[:, 0], *pooler))


def at_positions(x_BSD: Tensor, positions: Tensor) -> Tensor:
    """The rows of ``x_BSD`` at ``positions``, indices into the ``B * S`` tokens: ``[asked, ...]``."""
    return x_BSD.flatten(0, 1).index_select(0, positions)


def masked_lm_logits(
    x_BSD: Tensor,
    dense: Affine,
    norm: Affine,
    decoder: Affine,
    *,
    activation: Activation,
    layer_norm_eps: float,
) -> Tensor:
    """Hidden states -> ``[..., vocab_size]`` scores; ``decoder.weight`` is the word table itself."""
    x_BSE = layer_norm(activation(F.linear(x_BSD, *dense)), norm, layer_norm_eps)
    return F.linear(x_BSE, *decoder)
