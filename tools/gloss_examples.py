"""Glosses as token ids: the vocabulary, the examples, and the batches the embedded model is trained on."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from wordnet import Synset

from albert_fast.files import replacing

PAD, UNK, CLS, SEP, MASK = range(5)
USER_DEFINED_SYMBOLS = ("(", ")", '"', "-", ".", "–", "£", "€")
FIRST_ORDINARY_ID = 5
IGNORED = -100  # torch's ignore_index: no label here
MASKED_SHARE, REPLACED_BY_MASK, REPLACED_AT_RANDOM = 0.15, 0.8, 0.1


def clean(text: str) -> str:
    """What AlbertTokenizer does before SentencePiece: quotes, accents, case."""
    text = text.replace("``", '"').replace("''", '"')
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(c for c in decomposed if unicodedata.category(c)[0] != "M").lower()


def train_vocabulary(synsets: Sequence[Synset], path: Path, *, vocab_size: int) -> None:
    """Write a SentencePiece unigram model with ALBERT's options, from these synsets' glosses and lemmas alone.

    One thread: the sums of the EM steps, and so the pieces, are the same on every run.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(clean(text) for s in synsets for text in (s.gloss, *s.lemmas)),
            model_writer=file,
            model_type="unigram",
            vocab_size=vocab_size,
            character_coverage=0.99995,
            normalization_rule_name="nmt_nfkc",
            pad_id=PAD,
            unk_id=UNK,
            bos_id=-1,
            eos_id=-1,
            control_symbols=["[CLS]", "[SEP]", "[MASK]"],
            user_defined_symbols=list(USER_DEFINED_SYMBOLS),
            num_threads=1,
            minloglevel=2,
        )


@dataclass(frozen=True)
class Examples:
    """Synsets as ids without specials; every list has one entry a synset."""

    glosses: list[np.ndarray]
    lemmas: list[list[np.ndarray]]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.glosses)

    def row(self, index: int, lemma: int | None, max_length: int) -> tuple[list[int], int]:
        """``[CLS] gloss [SEP]`` or ``[CLS] lemma [SEP] gloss [SEP]``, and the length of the first part.

        The gloss is cut to fit ``max_length``.
        """
        first = [CLS] if lemma is None else [CLS, *self.lemmas[index][lemma], SEP]
        return [*first, *self.glosses[index][: max_length - len(first) - 1], SEP], len(first)


def encode_synsets(synsets: Sequence[Synset], encode) -> Examples:
    """``encode(list of texts) -> list of id lists`` applied to every gloss and lemma."""
    lemmas = iter(encode([lemma for s in synsets for lemma in s.lemmas]))
    return Examples(
        glosses=[np.array(ids, dtype=np.int32) for ids in encode([s.gloss for s in synsets])],
        lemmas=[[np.array(next(lemmas), dtype=np.int32) for _ in s.lemmas] for s in synsets],
        labels=np.array([s.label for s in synsets], dtype=np.int64),
    )


@dataclass(frozen=True)
class TrainingBatch:
    """int64 tensors: three of ``[B, S]``, each row's class ``[B]``, and the ids behind the masked places ``[B, S]``.

    ``labels`` and ``masked_labels`` hold ``IGNORED`` where there is nothing to learn.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    token_type_ids: torch.Tensor
    labels: torch.Tensor
    masked_labels: torch.Tensor


def collate(rows: Sequence[tuple[list[int], int]], labels: Sequence[int]) -> TrainingBatch:
    """Rows of ``(ids, length of the first part)`` as one padded batch; a first part of length 1 is no pair."""
    width = max(len(ids) for ids, _ in rows)
    input_ids = np.zeros((len(rows), width), dtype=np.int64)
    attention_mask, token_type_ids = np.zeros_like(input_ids), np.zeros_like(input_ids)
    for row, (ids, first) in enumerate(rows):
        input_ids[row, : len(ids)] = ids
        attention_mask[row, : len(ids)] = 1
        if first > 1:
            token_type_ids[row, first : len(ids)] = 1
    ids = torch.from_numpy(input_ids)
    return TrainingBatch(
        ids,
        torch.from_numpy(attention_mask),
        torch.from_numpy(token_type_ids),
        torch.tensor(labels, dtype=torch.int64),
        torch.full_like(ids, IGNORED),
    )


def mask_tokens(
    batch: TrainingBatch, rng: np.random.Generator, *, vocab_size: int, clean_share: float = 0.0
) -> TrainingBatch:
    """15 % of the ordinary tokens become targets: 80 % of them [MASK], 10 % a random piece, 10 % themselves.

    ``clean_share`` of the rows are left as they are and have no targets.
    """
    ids = batch.input_ids.numpy()
    targets = (ids >= FIRST_ORDINARY_ID) & (rng.random(ids.shape) < MASKED_SHARE)
    targets &= (rng.random(len(ids)) >= clean_share)[:, None]
    fate = rng.random(ids.shape)
    random_pieces = rng.integers(FIRST_ORDINARY_ID, vocab_size, ids.shape)
    masked = np.where(targets & (fate < REPLACED_BY_MASK), MASK, ids)
    at_random = targets & (fate >= REPLACED_BY_MASK) & (fate < REPLACED_BY_MASK + REPLACED_AT_RANDOM)
    masked = np.where(at_random, random_pieces, masked)
    return TrainingBatch(
        torch.from_numpy(masked),
        batch.attention_mask,
        batch.token_type_ids,
        batch.labels,
        torch.from_numpy(np.where(targets, ids, IGNORED)),
    )


def epoch_batches(
    examples: Examples, rng: np.random.Generator, *, tokens: int, pair_share: float, max_length: int
) -> list[list[tuple[int, int]]]:
    """One epoch as shuffled batches of ``(synset, lemma or -1)``, of similar length, about ``tokens`` tokens each."""
    chosen = [int(rng.integers(len(lemmas))) for lemmas in examples.lemmas]
    paired = rng.random(len(examples)) < pair_share
    lemma = np.where(paired, chosen, -1)
    length = np.array([len(gloss) + 2 for gloss in examples.glosses])
    length += np.array([len(examples.lemmas[i][chosen[i]]) + 1 if paired[i] else 0 for i in range(len(examples))])
    length = np.minimum(length, max_length)
    order = np.argsort(length + 3 * rng.random(len(examples)))
    batches: list[list[tuple[int, int]]] = [[]]
    widest = 0
    for index in order:
        widest = max(widest, int(length[index]))
        if batches[-1] and (len(batches[-1]) + 1) * widest > tokens:
            batches.append([])
            widest = int(length[index])
        batches[-1].append((int(index), int(lemma[index])))
    return [batches[i] for i in rng.permutation(len(batches))]


def long_batch(examples: Examples, rng: np.random.Generator, *, tokens: int, length: int) -> TrainingBatch:
    """Rows of exactly ``length`` tokens, glosses end to end, without a class: they train the far positions."""
    rows = []
    for _ in range(max(1, tokens // length)):
        ids: list[int] = [CLS]
        while len(ids) < length:
            ids.extend(examples.glosses[int(rng.integers(len(examples)))])
        rows.append(([*ids[: length - 1], SEP], 1))
    return collate(rows, [IGNORED] * len(rows))


def training_batches(
    examples: Examples,
    *,
    seed: int,
    first: int,
    tokens: int,
    pair_share: float,
    max_length: int,
    long_every: int,
    long_length: int,
) -> Iterator[TrainingBatch]:
    """Unmasked batches from number ``first`` on, for ever; the same whether a run was resumed or not."""
    step = 0
    for epoch in range(2**31):
        plan = epoch_batches(
            examples,
            np.random.default_rng([seed, epoch]),
            tokens=tokens,
            pair_share=pair_share,
            max_length=max_length,
        )
        while plan:
            long = long_every and step % long_every == long_every - 1
            batch = None if long else plan.pop()
            if step >= first:
                if batch is None:
                    rng = np.random.default_rng([seed, step, 1])
                    yield long_batch(examples, rng, tokens=tokens, length=long_length)
                else:
                    rows = [examples.row(i, None if lemma < 0 else lemma, max_length) for i, lemma in batch]
                    yield collate(rows, [int(examples.labels[i]) for i, _ in batch])
            step += 1
