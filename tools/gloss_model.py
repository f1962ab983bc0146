"""The model while it is trained: one encoder under both heads, its loss, and how well it does on held-out glosses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from gloss_examples import CLS, FIRST_ORDINARY_ID, IGNORED, SEP, Examples, TrainingBatch, collate, mask_tokens
from torch import Tensor, nn
from torch.nn import functional as F

from albert_fast import functional
from albert_fast.config import AlbertConfig
from albert_fast.heads import AlbertMLMHead
from albert_fast.model import AlbertModel, AlbertPreTrainedModel, affine


class GlossModel(AlbertPreTrainedModel):
    """Encoder, masked-LM head and classifier under the names that ``AlbertForMaskedLM`` and
    ``AlbertForSequenceClassification`` load; unlike theirs, its number of passes is an argument."""

    tied_weights = {
        "predictions.decoder.weight": "albert.embeddings.word_embeddings.weight",
        "predictions.decoder.bias": "predictions.bias",
    }

    def __init__(self, config: AlbertConfig, *, attn_implementation: str = "auto") -> None:
        super().__init__(config, attn_implementation=attn_implementation)
        self.albert = AlbertModel(config, attn_implementation=attn_implementation)
        self.predictions = AlbertMLMHead(config)
        self.dropout = nn.Dropout(config.classifier_dropout_prob or 0.0)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.init_weights()

    def hidden(self, batch: TrainingBatch, passes: int) -> Tensor:
        """``[B, S, D]`` after ``passes`` passes of the shared layer."""
        weights = self.albert.embedding_weights()
        words = F.embedding(batch.input_ids, weights.word, padding_idx=self.config.pad_token_id)
        x = functional.embed(words, batch.token_type_ids, None, weights, layer_norm_eps=self.config.layer_norm_eps)
        bias = None if batch.attention_mask.all() else functional.attention_bias(batch.attention_mask, x.dtype)
        layers = self.albert.encoder.layers()
        return functional.encode(x, bias, layers, (0,) * passes, self.albert.layer_settings()).last

    def class_logits(self, hidden: Tensor) -> Tensor:
        """``[B, S, D]`` -> ``[B, num_labels]``."""
        assert self.albert.pooler is not None
        return self.classifier(self.dropout(functional.pool(hidden, affine(self.albert.pooler))))


@dataclass(frozen=True)
class Losses:
    """Two scalars: the mean over masked tokens, and the sum over rows divided by the rows of an average batch."""

    masked_lm: Tensor
    classification: Tensor


def losses(model: GlossModel, batch: TrainingBatch, *, passes: int, rows: float, label_smoothing: float) -> Losses:
    """Both losses from one forward pass; logits over the vocabulary only where a token is masked.

    Dividing by ``rows``, not by the batch's own count, gives every gloss the same weight whatever its length.
    """
    hidden = model.hidden(batch, passes)
    targets = batch.masked_labels != IGNORED
    masked_lm = hidden.new_zeros(())
    if targets.any():
        masked_lm = F.cross_entropy(model.predictions(hidden[targets]), batch.masked_labels[targets])
    classification = hidden.new_zeros(())
    if (batch.labels != IGNORED).any():
        total = F.cross_entropy(
            model.class_logits(hidden), batch.labels, reduction="sum", label_smoothing=label_smoothing
        )
        classification = total / rows
    return Losses(masked_lm, classification)


def held_out_batches(examples: Examples, *, pairs: bool, max_length: int, rows: int = 32) -> list[TrainingBatch]:
    """Every example once, as a gloss alone or as (first lemma, gloss), batched by length."""
    made = [examples.row(i, 0 if pairs else None, max_length) for i in range(len(examples))]
    order = sorted(range(len(made)), key=lambda i: len(made[i][0]))
    chunks = [order[start : start + rows] for start in range(0, len(order), rows)]
    return [collate([made[i] for i in chunk], [int(examples.labels[i]) for i in chunk]) for chunk in chunks]


@torch.no_grad()
def correct(model: GlossModel, batches: Sequence[TrainingBatch], *, passes: int) -> int:
    """How many rows get their own class as the first."""
    model.eval()
    hits = 0
    for batch in batches:
        hits += int((model.class_logits(model.hidden(batch, passes)).argmax(-1) == batch.labels).sum())
    return hits


@dataclass(frozen=True)
class Perplexity:
    """At the same masked places of held-out text: the model's, and that of the training text's unigram counts."""

    model: float
    unigram: float
    places: int


@torch.no_grad()
def perplexity(
    model: GlossModel, batches: Sequence[TrainingBatch], unigram: np.ndarray, *, passes: int, seed: int
) -> Perplexity:
    """Masked as in training (15 %; 80/10/10) with a fixed seed.

    Args:
        unigram: ``[vocab_size]`` probabilities.
    """
    model.eval()
    rng = np.random.default_rng(seed)
    log_unigram = torch.from_numpy(np.log(unigram))
    model_nats = unigram_nats = 0.0
    places = 0
    for batch in batches:
        masked = mask_tokens(batch, rng, vocab_size=model.config.vocab_size)
        targets = masked.masked_labels != IGNORED
        if not targets.any():
            continue
        labels = masked.masked_labels[targets]
        logits = model.predictions(model.hidden(masked, passes)[targets])
        model_nats += float(F.cross_entropy(logits, labels, reduction="sum"))
        unigram_nats -= float(log_unigram[labels].sum())
        places += len(labels)
    return Perplexity(math.exp(model_nats / places), math.exp(unigram_nats / places), places)


def unigram_probabilities(examples: Examples, vocab_size: int) -> np.ndarray:
    """``[vocab_size]`` float64: how often each piece stands in the glosses, plus one, normalised."""
    counts = np.bincount(np.concatenate(examples.glosses), minlength=vocab_size).astype(np.float64)
    counts[FIRST_ORDINARY_ID:] += 1
    counts[[0, CLS, SEP]] += 1e-9
    counts += 1e-9
    return counts / counts.sum()
