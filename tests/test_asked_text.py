"""Asked positions in every format and precision, on real text, with the embedded model's weights in two passes."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from albert_fast import AlbertForMaskedLM, AlbertTokenizer, Batch, ShapeProfile
from albert_fast.capture import capture
from albert_fast.engine import FORMATS, Facts, build, load
from albert_fast.engine.measure import exceeded, measure
from albert_fast.precision import PRECISIONS, Quantization, prepare
from albert_fast.precision.calibration import collect
from albert_fast.recipe.exporting import with_attention
from albert_fast.recipe.references import answers

NAME = "albert-fast/wordnet"
PROFILE = ShapeProfile(1, 4, 8, 1, 16, 48)
CELLS = [
    ("exported_program", "fp32"), ("exported_program", "bf16"), ("aotinductor", "int8"), ("native", "fp32"),
    ("native", "bf16"), ("native", "int8"), ("onnx", "fp32"), ("onnx", "int8"),
]  # fmt: skip
"""Every format that can be asked, and every precision; aotinductor in one, for it compiles for long."""
TEXTS = [line.split("\t")[2] for line in (Path(__file__).parent / "data/wordnet_heldout.tsv").read_text().splitlines()]


@cache
def tokenizer() -> AlbertTokenizer:
    return AlbertTokenizer.from_pretrained(NAME)


@cache
def model() -> Any:
    whole = AlbertForMaskedLM.from_pretrained(NAME)
    shallow = AlbertForMaskedLM(whole.config.replace(num_hidden_layers=2), attn_implementation="eager").eval()
    shallow.load_state_dict(whole.state_dict())
    return shallow


def batch_of_texts(start: int, count: int) -> Batch:
    encoded = tokenizer()(
        TEXTS[start : start + count], padding=True, truncation=True, max_length=48, return_tensors="pt"
    )
    return Batch(encoded["input_ids"], encoded["attention_mask"], encoded["token_type_ids"])


def masked(batch: Batch) -> Batch:
    """Every seventh token of text masked and asked for, as in pretraining."""
    ids, mask, types = batch.tensors()
    asked = (torch.arange(ids.numel()).view_as(ids) % 7 == 3) & (mask != 0)
    return Batch(ids.masked_fill(asked, tokenizer().mask_token_id), mask, types, asked)


@cache
def scales() -> Any:
    return collect(capture(model(), PROFILE), [batch_of_texts(start, 8) for start in range(0, 64, 8)]).scales("max")


def engine_file(path: Path, format: str, precision: str) -> Path:
    parts, rest = ("encoder", "embeddings", "heads"), {"native": "bf16", "aotinductor": "bf16"}.get(format, "fp32")
    quantization = Quantization(scales(), parts, rest) if precision == "int8" else None
    program = prepare(
        capture(with_attention(model(), "sdpa"), PROFILE, asked=True), precision, quantization=quantization
    )
    facts = Facts(
        config=model().config.to_dict(), head="masked-lm", attention="sdpa", precision=precision, profiles=(PROFILE,)
    )
    references = answers(model(), [batch_of_texts(100, 4), masked(batch_of_texts(104, 3))], asked=True)
    build(program, path, format=format, facts=facts, references=references, budget=PRECISIONS[precision].budget)
    return path


@pytest.mark.parametrize(("format", "precision"), CELLS)
def test_masked_words_of_real_text_get_the_scores_of_the_whole_model(
    format: str, precision: str, tmp_path: Path
) -> None:
    row, missing = FORMATS[format], FORMATS[format].missing()
    if missing is not None:
        pytest.skip(missing)
    engine = load(engine_file(tmp_path / f"engine{row.suffix}", format, precision))
    batches = [masked(batch_of_texts(start, count)) for start, count in ((0, 8), (8, 1), (9, 23))]  # 23 rows: in pieces
    found = [engine(batch) for batch in batches]
    expected: list[dict[str, Tensor]] = []
    for batch in batches:
        with torch.inference_mode():
            expected.append({"logits": model()(*batch.tensors()).logits[batch.asked]})
    budget = PRECISIONS[precision].budget
    assert exceeded(measure(found, expected, tie=budget.mean_abs), budget) == []
