"""ALBERT as pure functions on TensorFlow tensors: what ``albert_fast.functional`` is for PyTorch, op for op.

    B batch  S sequence  T tokens, B x S  E embedding_size  D hidden_size  N heads  H head size  F intermediate_size

Between embeddings and output the tokens of all rows lie end to end, ``[T, D]``: a product of two matrices is what
TensorFlow, XLA and LiteRT know best. Weights come in as tuples of tensors, already in the dtype to compute in but for
LayerNorms, which stay in float32; whatever traces these functions sees one flat loop over the very same tensors.

Source: Lan et al. 2020, "ALBERT: A Lite BERT for Self-supervised Learning of Language Representations",
arXiv:1909.11942.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from albert_fast.tensorflow.runtime import tf

Tensor = Any
Activation = Callable[[Tensor], Tensor]
Dropout = Callable[[Tensor, float], Tensor]


def _gelu_tanh(x: Tensor) -> Tensor:
    return tf.nn.gelu(x, approximate=True)


ACTIVATIONS: dict[str, Activation] = {
    "gelu": lambda x: tf.nn.gelu(x, approximate=False),
    "gelu_new": _gelu_tanh,
    "gelu_fast": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "quick_gelu": lambda x: x * tf.sigmoid(1.702 * x),
    "linear": lambda x: x,
    "mish": lambda x: x * tf.tanh(tf.math.softplus(x)),
    "relu": tf.nn.relu,
    "relu6": tf.nn.relu6,
    "sigmoid": tf.sigmoid,
    "silu": tf.nn.silu,
    "swish": tf.nn.silu,
    "tanh": tf.tanh,
}


class Affine(NamedTuple):
    """Kernel ``[in, out]`` and bias ``[out]`` of a linear map, or gamma and beta of a LayerNorm, ``[size]`` each."""

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
    """What a layer needs to know beside its weights. Dropouts are 0.0 outside training, and ``drop`` is then unused."""

    num_heads: int
    layer_norm_eps: float
    activation: Activation
    drop: Dropout
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0


class Encoded(NamedTuple):
    """``last`` is ``[B, S, D]``; the tuples are empty unless asked for. ``hidden_states`` starts with the input."""

    last: Tensor
    hidden_states: tuple[Tensor, ...]
    attentions: tuple[Tensor, ...]


def sizes(x: Tensor) -> list[Any]:
    """The shape of ``x``: plain integers where they are known, scalar tensors where only the run will tell."""
    dynamic = tf.shape(x)
    return [dynamic[axis] if known is None else known for axis, known in enumerate(x.shape)]


def at_least_float32(x: Tensor) -> Tensor:
    """``x`` in float32; in float64 where it is in float64."""
    return x if x.dtype == tf.float64 else tf.cast(x, tf.float32)


def attention_bias(mask: Tensor, dtype: Any) -> Tensor:
    """Turn a mask of 0 and 1 into a bias on attention scores.

    Args:
        mask: ``[B, S]`` (keys that may be seen) or ``[B, S, S]`` (query x key); any dtype, nonzero means seen.
        dtype: what the scores are in when it is added: float32, or float64.
    Returns:
        ``[B, 1, 1, S]`` or ``[B, 1, S, S]`` in ``dtype``: 0 where seen, half the dtype's minimum elsewhere. Half, so
        that score + bias stays finite; the softmax of a row with no key to see is then finite too.
    """
    mask_BQS = mask[:, None, :] if mask.shape.rank == 2 else mask
    unseen_B1QS = tf.logical_not(tf.cast(mask_BQS, tf.bool))[:, None, :, :]
    return tf.cast(unseen_B1QS, dtype) * tf.constant(dtype.min / 2, dtype)


def linear(x_TI: Tensor, affine: Affine) -> Tensor:
    """``[T, in]`` -> ``[T, out]``."""
    return tf.nn.bias_add(tf.matmul(x_TI, affine.weight), affine.bias)


def layer_norm(x: Tensor, norm: Affine, eps: float) -> Tensor:
    """LayerNorm over the last dimension, computed in float32 at least, returned in the dtype of ``x``."""
    wide = at_least_float32(x)
    centred = wide - tf.reduce_mean(wide, axis=-1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), axis=-1, keepdims=True)
    normed = centred * tf.math.rsqrt(variance + eps)
    return tf.cast(normed * tf.cast(norm.weight, wide.dtype) + tf.cast(norm.bias, wide.dtype), x.dtype)


def look_up(table: Tensor, ids: Tensor, padding_id: int | None) -> Tensor:
    """Rows of the word table, ``[B, S, E]``; the row of ``padding_id`` learns nothing here, as in PyTorch."""
    words_BSE = tf.gather(table, ids)
    if padding_id is None:
        return words_BSE
    return tf.where((ids == padding_id)[..., None], tf.stop_gradient(words_BSE), words_BSE)


def embed(
    words_BSE: Tensor,
    token_type_ids: Tensor | None,
    position_ids: Tensor | None,
    weights: EmbeddingWeights,
    *,
    layer_norm_eps: float,
    dtype: Any,
    drop: Dropout,
    hidden_dropout: float = 0.0,
) -> Tensor:
    """Word embeddings -> encoder input: add token type and position, LayerNorm, map E to D.

    Args:
        words_BSE: rows of the word table (or ``inputs_embeds``).
        token_type_ids, position_ids: ``[B, S]`` (positions also ``[1, S]``), or None for all 0 and for 0..S-1.
        dtype: what to compute in from here on; the tables are summed in float32 at least.
    Returns:
        ``[T, D]`` in ``dtype``.
    """
    S, E = sizes(words_BSE)[1:]
    types = weights.token_type[0] if token_type_ids is None else tf.gather(weights.token_type, token_type_ids)
    positions = weights.position[:S] if position_ids is None else tf.gather(weights.position, position_ids)
    sum_BSE = at_least_float32(words_BSE) + at_least_float32(types) + at_least_float32(positions)
    x_TE = tf.cast(layer_norm(tf.reshape(sum_BSE, [-1, E]), weights.norm, layer_norm_eps), dtype)
    return linear(drop(x_TE, hidden_dropout) if hidden_dropout else x_TE, weights.mapping_in)


def self_attention(
    x_TD: Tensor, shape: Sequence[Any], bias: Tensor | None, layer: LayerWeights, settings: LayerSettings
) -> tuple[Tensor, Tensor]:
    """Self-attention, output projection, residual, LayerNorm; the softmax runs in float32 at least.

    Returns ``[T, D]`` and the probabilities ``[B, N, S, S]``.
    """
    (B, S), D, N = shape, x_TD.shape[-1], settings.num_heads
    q, k, v = (
        tf.transpose(tf.reshape(linear(x_TD, w), [B, S, N, D // N]), [0, 2, 1, 3])
        for w in (layer.query, layer.key, layer.value)
    )
    scores = at_least_float32(tf.matmul(q * (1.0 / math.sqrt(D // N)), k, transpose_b=True))
    if bias is not None:
        scores = scores + bias
    probabilities = tf.cast(tf.nn.softmax(scores, axis=-1), v.dtype)
    if settings.attention_dropout:
        probabilities = settings.drop(probabilities, settings.attention_dropout)
    context_TD = tf.reshape(tf.transpose(tf.matmul(probabilities, v), [0, 2, 1, 3]), [-1, D])
    projected = linear(context_TD, layer.dense)
    if settings.hidden_dropout:
        projected = settings.drop(projected, settings.hidden_dropout)
    return layer_norm(x_TD + projected, layer.attention_norm, settings.layer_norm_eps), probabilities


def feed_forward(x_TD: Tensor, layer: LayerWeights, settings: LayerSettings) -> Tensor:
    """Two linear maps with the activation between them, residual, LayerNorm. ALBERT has no dropout here."""
    x_TF = settings.activation(linear(x_TD, layer.ffn))
    return layer_norm(linear(x_TF, layer.ffn_output) + x_TD, layer.output_norm, settings.layer_norm_eps)


def encode(
    x_TD: Tensor,
    shape: Sequence[Any],
    bias: Tensor | None,
    layers: Sequence[LayerWeights],
    schedule: Sequence[int],
    settings: LayerSettings,
    *,
    collect: bool = False,
) -> Encoded:
    """Apply the shared layer, or layers, pass after pass.

    Args:
        x_TD: encoder input, any floating dtype.
        shape: ``(B, S)``, each an integer or a scalar tensor.
        bias: what ``attention_bias`` returns, or None when every token is seen.
        layers: the distinct layers; ALBERT's published models have exactly one.
        schedule: for each pass the index into ``layers`` (``AlbertConfig.schedule``).
        collect: also return the hidden state before each pass and after the last, and each pass's attentions.
    Source: Lan et al. 2020, section 3.1 (cross-layer parameter sharing).
    """
    D = x_TD.shape[-1]
    hidden_states: list[Tensor] = [tf.reshape(x_TD, [*shape, D])] if collect else []
    attentions: list[Tensor] = []
    for layer_index in schedule:
        x_TD, probabilities = self_attention(x_TD, shape, bias, layers[layer_index], settings)
        x_TD = feed_forward(x_TD, layers[layer_index], settings)
        if collect:
            hidden_states.append(tf.reshape(x_TD, [*shape, D]))
            attentions.append(probabilities)
    return Encoded(tf.reshape(x_TD, [*shape, D]), tuple(hidden_states), tuple(attentions))


def pool(x_BSD: Tensor, pooler: Affine) -> Tensor:
    """The first token through a linear map and tanh: ``[B, D]``."""
    return tf.tanh(linear(x_BSD[:, 0], pooler))


def masked_lm_logits(
    x_BSD: Tensor,
    dense: Affine,
    norm: Affine,
    decoder: Affine,
    *,
    activation: Activation,
    layer_norm_eps: float,
) -> Tensor:
    """Hidden states -> ``[B, S, vocab_size]`` scores; ``decoder.weight`` is the word table itself, ``[vocab, E]``."""
    B, S, D = sizes(x_BSD)
    x_TE = layer_norm(activation(linear(tf.reshape(x_BSD, [-1, D]), dense)), norm, layer_norm_eps)
    logits_TV = tf.nn.bias_add(tf.matmul(x_TE, decoder.weight, transpose_b=True), decoder.bias)
    return tf.reshape(logits_TV, [B, S, logits_TV.shape[-1]])
