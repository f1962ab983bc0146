"""Every precision on real text: the embedded classifier decides about held-out glosses as it does in float32."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.export import ExportedProgram

import albert_fast
from albert_fast import AlbertForSequenceClassification, AlbertTokenizer
from albert_fast.batch import Batch, ShapeProfile
from albert_fast.capture import capture
from albert_fast.precision import Quantization, prepare
from albert_fast.precision.ranges import overflowing

NAME = "albert-fast/wordnet"
pytestmark = pytest.mark.slow

HELD_OUT = Path(__file__).parent / "data/wordnet_heldout.tsv"
TEXTS = {"bf16": 900, "fp16": 300, "int8": 900}
"""The first so many of 3,587; float16 has no fast matrix product on most CPUs."""
AGREEMENT = {"bf16": 0.99, "fp16": 0.99, "int8": 0.98}
CALIBRATION = Path(albert_fast.__file__).parent / "embedded/wordnet/calibration.txt"


@cache
def program() -> ExportedProgram:
    model = AlbertForSequenceClassification.from_pretrained(NAME, attn_implementation="sdpa").eval()
    return capture(model, ShapeProfile(1, 8, 64, 1, 32, 128))


@cache
def texts_and_labels() -> tuple[list[Batch], Tensor]:
    """The largest of TEXTS in batches of 60, each 300 by length, and the number of each text's class."""
    tokenizer = AlbertTokenizer.from_pretrained(NAME)
    classes = AlbertForSequenceClassification.from_pretrained(NAME).config.label2id
    lines = HELD_OUT.read_text(encoding="utf-8").splitlines()[: max(TEXTS.values())]
    rows = [line.split("\t") for line in lines]
    smallest = min(TEXTS.values())
    blocks = [rows[start : start + smallest] for start in range(0, len(rows), smallest)]
    rows = [row for block in blocks for row in sorted(block, key=lambda row: len(row[2]))]
    batches = []
    for start in range(0, len(rows), 60):
        glosses = [gloss for _, _, gloss in rows[start : start + 60]]
        encoded = tokenizer(glosses, padding=True, truncation=True, max_length=128, return_tensors="pt")
        batches.append(Batch(encoded["input_ids"], encoded["attention_mask"], encoded["token_type_ids"]))
    return batches, torch.tensor([classes[lexname] for lexname, _, _ in rows])


@cache
def quantization() -> Quantization:
    texts = CALIBRATION.read_text(encoding="utf-8").splitlines()[:256]
    return Quantization(albert_fast.calibrate(NAME, texts, head="sequence-classification", attention="sdpa"))


@cache
def decisions(name: str, texts: int) -> Tensor:
    """The class that a precision gives to each of the first texts."""
    run = prepare(program(), name, quantization=quantization() if name == "int8" else None)
    run = run.module(check_guards=False).forward
    with torch.inference_mode():
        return torch.cat([run(*b.tensors())["logits"].argmax(-1) for b in texts_and_labels()[0][: texts // 60]])


@pytest.mark.parametrize("name", TEXTS)
def test_nearly_all_texts_get_the_class_that_float32_gives_them(name: str) -> None:
    texts = TEXTS[name]
    agreement = (decisions(name, texts) == decisions("fp32", max(TEXTS.values()))[:texts]).double().mean()
    assert agreement >= AGREEMENT[name]


@pytest.mark.parametrize("name", TEXTS)
def test_accuracy_is_within_half_a_point_of_float32(name: str) -> None:
    texts = TEXTS[name]
    labels = texts_and_labels()[1][:texts]
    found, expected = decisions(name, texts), decisions("fp32", max(TEXTS.values()))[:texts]
    accuracy, reference = (100 * (d == labels).double().mean() for d in (found, expected))
    assert reference > 75
    assert abs(accuracy - reference) <= 0.5


def test_nothing_in_the_embedded_model_overflows_float16() -> None:
    assert overflowing(program(), texts_and_labels()[0][:5:4]) == {}
