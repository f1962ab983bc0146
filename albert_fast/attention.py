"""Attention: a table of implementations with one signature; whoever runs the layer passes one in.

B batch  N heads  S sequence  H head size
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Attention(Protocol):
    """``(query, key, value, bias) -> (context, probabilities)``, all ``[B, N, S, H]``.

    ``bias`` is added to the scores: ``[B, 1, 1, S]`` or ``[B, 1, S, S]``, or None. ``probabilities`` is
    ``[B, N, S, S]`` where the implementation has them and None where it never holds them in memory.
    """

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *, dropout_p: float
    ) -> tuple[Tensor, Tensor | None]: ...


def eager_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *, dropout_p: float
) -> tuple[Tensor, Tensor | None]:
    """The definition, step by step, softmax in float32 at least. The only one that returns probabilities."""
    scores = torch.matmul(query, key.transpose(2, 3)) * (1.0 / math.sqrt(query.size(-1)))
    if bias is not None:
        scores = scores + bias
    at_least_float32 = torch.promote_types(query.dtype, torch.float32)
    probabilities = F.softmax(scores, dim=-1, dtype=at_least_float32).to(query.dtype)
    probabilities = F.dropout(probabilities, p=dropout_p, training=dropout_p > 0)
    return torch.matmul(probabilities, value), probabilities


def sdpa_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *, dropout_p: float
) -> tuple[Tensor, Tensor | None]:
    """``torch.nn.functional.scaled_dot_product_attention``: one op that every backend knows and fuses."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout_p), None


ATTENTION: dict[str, Attention] = {"eager": eager_attention, "sdpa": sdpa_attention}
"""Implementations by name. ``"auto"`` is not a row: it chooses sdpa, or eager where probabilities are asked for."""


def resolve_attention(name: str, *, need_probabilities: bool) -> Attention:
    """The implementation called ``name``.

    Raises:
        ValueError: unknown name, or probabilities asked of an implementation that never holds them.
    """
    if name == "auto":
        name = "eager" if need_probabilities else "sdpa"
    if name not in ATTENTION:
        raise ValueError(f"attn_implementation is {name!r}, expected 'auto' or one of {', '.join(ATTENTION)}")
    if need_probabilities and name != "eager":
        raise ValueError(
            f"output_attentions needs attn_implementation='eager' or 'auto'; {name!r} holds no probabilities in memory"
        )
    return ATTENTION[name]
