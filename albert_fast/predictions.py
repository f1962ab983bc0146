"""What makes scores of hidden states: the masked-LM head over the vocabulary, and that of sentence order."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from albert_fast import functional
from albert_fast.batch import check_positions
from albert_fast.config import AlbertConfig
from albert_fast.model import affine

TIED_DECODER = {
    "predictions.decoder.weight": "albert.embeddings.word_embeddings.weight",
    "predictions.decoder.bias": "predictions.bias",
}


class AlbertMLMHead(nn.Module):
    """Hidden states -> scores over the vocabulary; the decoder's weight is the word table."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.activation = functional.ACTIVATIONS[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.embedding_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.dense = nn.Linear(config.hidden_size, config.embedding_size)
        self.decoder = nn.Linear(config.embedding_size, config.vocab_size)

    def forward(self, hidden_states: Tensor, positions: Tensor | None = None) -> Tensor:
        """Score the vocabulary for every hidden state, or for some.

        Args:
            hidden_states: ``[B, S, hidden_size]``; without ``positions`` any leading dimensions will do.
            positions: ``[asked]`` int64, indices into the ``B * S`` tokens, as ``Batch.positions`` returns them.
        Returns:
            ``[B, S, vocab_size]``, or ``[asked, vocab_size]`` in the order of ``positions``.
        Raises:
            ValueError: the positions are of another dtype or shape, or there is no such token.
        """
        if positions is not None:
            if not torch.compiler.is_compiling():
                check_positions(positions, hidden_states.shape[0] * hidden_states.shape[1])
            hidden_states = functional.at_positions(hidden_states, positions)
        return functional.masked_lm_logits(
            hidden_states, affine(self.dense), affine(self.LayerNorm), affine(self.decoder),
            activation=self.activation, layer_norm_eps=self.LayerNorm.eps,
        )  # fmt: skip


class AlbertSOPHead(nn.Module):
    """Pooled output -> scores for "in order" and "swapped"."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.classifier_dropout_prob or 0.0)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, pooled_output: Tensor) -> Tensor:
        """``[B, hidden_size]`` -> ``[B, num_labels]``."""
        logits: Tensor = self.classifier(self.dropout(pooled_output))
        return logits
