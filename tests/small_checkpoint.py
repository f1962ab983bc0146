"""A checkpoint folder with a vocabulary of its own, small enough to export in seconds."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import sentencepiece
import torch

from albert_fast import AlbertConfig
from albert_fast.heads import HEADS
from albert_fast.tokenizer import AlbertTokenizer

SENTENCES = (
    "a small animal that is kept as a pet and eats what we eat",
    "the act of moving from one place to another in a slow or quick way",
    "someone who writes books, 1,000 of them (or more) for the people of a town",
    "in a manner that is not known; a plant with white or yellow flowers",
)
LABELS = {0: "noun", 1: "verb", 2: "adverb"}


def small_vocabulary() -> bytes:
    """A SentencePiece model with ALBERT's special pieces at ALBERT's ids."""
    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20), model_writer=stream, vocab_size=80, model_type="unigram",
        pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, control_symbols=["[CLS]", "[SEP]", "[MASK]"],
        hard_vocab_limit=False, minloglevel=2, num_threads=1,
    )  # fmt: skip
    return stream.getvalue()


def small_config(**changes: Any) -> AlbertConfig:
    """Four passes over one layer of 32; three classes."""
    values = dict(
        vocab_size=96, embedding_size=16, hidden_size=32, num_hidden_layers=4, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=40, initializer_range=0.3, id2label=LABELS,
    )  # fmt: skip
    return AlbertConfig(**{**values, **changes})


def write_small_checkpoint(folder: Path, head: str = "masked-lm", *, vocabulary: bool = True) -> Path:
    """A model with random weights from a fixed seed, and its tokenizer."""
    torch.manual_seed(7)
    config = small_config(id2label={0: "start", 1: "end"}) if head == "question-answering" else small_config()
    HEADS[head].model_class(config).eval().save_pretrained(folder)
    if vocabulary:
        (folder / "spiece.model").write_bytes(small_vocabulary())
        AlbertTokenizer.from_pretrained(str(folder)).save_pretrained(str(folder))
    return folder
