"""The fixed batches on which every engine is measured, and float32 eager's answers to them.

They hold what engines get wrong: pairs, padded rows, one row alone, the shortest and the longest shape of the profile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from albert_fast.batch import Batch, ShapeProfile
from albert_fast.capture import NUM_CHOICES
from albert_fast.config import AlbertConfig
from albert_fast.heads import HEADS, head_of

if TYPE_CHECKING:
    from albert_fast.pretrained import AlbertPreTrainedModel

SENTENCES: Sequence[tuple[str, str | None]] = (
    ("a small [MASK] that is kept as a pet", None),
    ("In 1889 the tower, 300 m high, was finished; 9,9 million people [MASK] it.", "Where does it stand?"),
    ("Who wrote it?", "The author of this [MASK] is not known (perhaps two people)."),
    ("", None),
)
_ROWS, _LENGTH = 4, 24


def reference_batches(config: AlbertConfig, head: str, profile: ShapeProfile, tokenizer: Any = None) -> list[Batch]:
    """Batches within a profile, the same in every run.

    Args:
        head: a row of ``HEADS``; where it takes choices, every text has ``NUM_CHOICES`` of them.
        tokenizer: adds a batch of real sentences; without one there are random ids only.
    Returns:
        int64 batches ``[batch, length]`` (multiple choice: ``[batch, choices, length]``), each shape once.
    """
    low, high = profile.min_batch, profile.max_batch
    rows = max(low, min(_ROWS, high))
    middle = max(profile.min_length, min(_LENGTH, profile.max_length))
    shapes = dict.fromkeys([(rows, middle), (low, profile.min_length), (low, profile.max_length)])
    generator = torch.Generator().manual_seed(2020)
    choices = NUM_CHOICES if HEADS[head].ids_rank == 3 else 1
    batches = [_random(config, batch * choices, length, generator) for batch, length in shapes]
    if tokenizer is not None:
        batches.append(_text(config, tokenizer, rows * choices, profile))
    return [_with_choices(batch, choices) for batch in batches] if HEADS[head].ids_rank == 3 else batches


def answers(
    model: AlbertPreTrainedModel, batches: Sequence[Batch], *, asked: bool = False
) -> list[tuple[Batch, dict[str, Tensor]]]:
    """Every batch with what the model says to it: the outputs of its head's row, by name.

    Args:
        model: in ``eval`` mode and float32, with ``attn_implementation="eager"``: what all engines are compared with.
        asked: whether those in ``asked`` of the head's row are wanted at asked positions alone, wherever there is text
            in batches that do not say: ``[asked, ...]``, taken out of what the model says to every token.
    """
    head = HEADS[head_of(model)]
    pairs = []
    for batch in batches:
        with torch.inference_mode():
            output = model(*batch.to(model.device).tensors(), return_dict=True)
        found = {name: output[name] for name in head.outputs if output[name] is not None}
        if asked:
            found |= {name: found[name][batch.asked_or_text().to(model.device)] for name in head.asked}
        pairs.append((batch, found))
    return pairs


def _random(config: AlbertConfig, rows: int, length: int, generator: torch.Generator) -> Batch:
    """Random ids; every row but the first is shorter than the one before, every other one is a pair."""
    pad = config.pad_token_id or 0
    ids = torch.randint(0, config.vocab_size, (rows, length), generator=generator)
    lengths = torch.tensor([max(1, length - length * row // rows) for row in range(rows)])
    place = torch.arange(length).expand(rows, length)
    mask = (place < lengths[:, None]).long()
    second = (place >= lengths[:, None] // 2) & (torch.arange(rows)[:, None] % 2 == 1)
    types = second.long() * mask if config.type_vocab_size > 1 else torch.zeros_like(ids)
    return Batch(torch.where(mask.bool(), ids, pad), mask, types)


def _text(config: AlbertConfig, tokenizer: Any, rows: int, profile: ShapeProfile) -> Batch:
    texts = [SENTENCES[row % len(SENTENCES)] for row in range(rows)]
    encoded = [
        tokenizer(
            text, pair, truncation="longest_first", max_length=profile.max_length, return_token_type_ids=True,
            return_attention_mask=False,
        )
        for text, pair in texts
    ]  # fmt: skip
    longest = max(len(one["input_ids"]) for one in encoded)
    padded = tokenizer.pad(
        {name: [one[name] for one in encoded] for name in ("input_ids", "token_type_ids")},
        padding="max_length",
        max_length=max(longest, profile.min_length),
        return_tensors="pt",
    )
    highest = int(padded["input_ids"].max())
    if highest >= config.vocab_size:
        raise ValueError(
            f"the tokenizer gives the id {highest}, the model has vocab_size {config.vocab_size}; they do not belong "
            "together: check the files in the checkpoint's folder"
        )
    types = padded["token_type_ids"].clamp(max=config.type_vocab_size - 1)
    return Batch(padded["input_ids"], padded["attention_mask"], types)


def _with_choices(batch: Batch, choices: int) -> Batch:
    ids, mask, types = (tensor.view(-1, choices, tensor.shape[-1]) for tensor in batch.tensors())
    return Batch(ids, mask, types)
