"""What the INT8 accuracy benchmark measures on: a model under a head, in the forms that tools start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from transformers_model import Call, LogitsOnly, export_onnx, quiet

from albert_fast import AlbertTokenizer, Batch, ShapeProfile
from albert_fast.capture import capture
from albert_fast.engine import Facts, build
from albert_fast.heads import HEADS
from albert_fast.precision import PRECISIONS, prepare
from albert_fast.precision.calibration import Statistics, collect
from albert_fast.recipe.references import answers, reference_batches

ROWS, LENGTH = 32, 128
"""Rows a batch, and the longest row in tokens: what is longer is cut."""
PROFILE = ShapeProfile.parse(f"1x1:8x64:{ROWS}x{LENGTH}")


@dataclass(frozen=True)
class Made:
    """A variant of one subject: how it runs, the bytes of what is stored of it, and what is worth a note."""

    run: Call
    stored_bytes: int
    notes: Mapping[str, Any] = field(default_factory=dict)


class Subject:
    """One model under one head, and what several variants need of it, each made once.

    Args:
        folder: the checkpoint.
        head: row of ``albert_fast.heads.HEADS``.
        calibration: text that no result is measured on.
        scratch: an empty folder for this subject's files.
    """

    def __init__(self, folder: Path, head: str, calibration: list[Batch], scratch: Path) -> None:
        self.folder, self.head, self.calibration, self.scratch = folder, head, calibration, scratch

    @cached_property
    def theirs(self) -> LogitsOnly:
        """transformers' own model in float32, in ``eval`` mode."""
        import transformers

        with quiet():
            cls = getattr(transformers, HEADS[self.head].model_class.__name__)
            return LogitsOnly(cls.from_pretrained(self.folder, dtype=torch.float32)).eval()

    @cached_property
    def ours(self) -> Any:
        """This project's model in float32, in ``eval`` mode."""
        return HEADS[self.head].model_class.from_pretrained(self.folder)

    @cached_property
    def program(self) -> ExportedProgram:
        """Ours, captured in float32."""
        return capture(self.ours, PROFILE)

    @cached_property
    def statistics(self) -> Statistics:
        """What the calibration text shows of the captured program."""
        return collect(self.program, self.calibration)

    @cached_property
    def exported(self) -> Path:
        """The ONNX file that ``torch.onnx.export`` makes of transformers' model."""
        return export_onnx(self.theirs, self.scratch / "transformers.onnx")

    @cached_property
    def engine(self) -> Path:
        """This project's ONNX engine file in float32."""
        path, config = self.scratch / "albert-fast.onnx", self.ours.config
        facts = Facts(
            config=config.to_dict(), head=self.head, attention="sdpa", precision="fp32", profiles=(PROFILE,)
        )  # fmt: skip
        references = answers(self.ours, reference_batches(config, self.head, PROFILE))
        budget = PRECISIONS["fp32"].budget
        build(prepare(self.program, "fp32"), path, format="onnx", facts=facts, references=references, budget=budget)
        return path


def batches_of(texts: list[str], tokenizer: AlbertTokenizer) -> tuple[list[Batch], list[list[int]]]:
    """Texts in batches of ``ROWS``, like lengths together, and which texts are in each batch."""
    lengths = [len(ids) for ids in tokenizer(texts, truncation=True, max_length=LENGTH)["input_ids"]]
    order = sorted(range(len(texts)), key=lambda i: (lengths[i], i))
    chunks = [order[start : start + ROWS] for start in range(0, len(order), ROWS)]
    batches = []
    for chunk in chunks:
        encoded = tokenizer(
            [texts[i] for i in chunk], padding=True, truncation=True, max_length=LENGTH, return_tensors="pt"
        )
        batches.append(Batch(encoded["input_ids"], encoded["attention_mask"], encoded["token_type_ids"]))
    return batches, chunks
