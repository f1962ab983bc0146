"""Engines that answer at asked positions alone, of the small models, and what they should say."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from engine_samples import OPTIONS, PROFILE, batch_of, device_of, eager_answers, facts, references, small_model
from torch import Tensor
from torch.export import ExportedProgram

from albert_fast.batch import Batch
from albert_fast.capture import capture
from albert_fast.engine import FORMATS, Engine, build, in_process, load
from albert_fast.heads import HEADS
from albert_fast.precision import PRECISIONS

ASKABLE = [name for name, head in HEADS.items() if head.asked]
_folder = tempfile.TemporaryDirectory(prefix="albert-fast-asked-")


@cache
def asked_program(head: str = "pretraining") -> ExportedProgram:
    return capture(small_model(head), PROFILE, asked=True)


def at_asked(head: str, batch: Batch, answers: dict[str, Tensor]) -> dict[str, Tensor]:
    """What of answers for every token a batch asks for: ``full[asked]``."""
    asked = batch.asked_or_text()
    return {name: value[asked] if name in HEADS[head].asked else value for name, value in answers.items()}


def asked_answers(head: str, batch: Batch) -> dict[str, Tensor]:
    return at_asked(head, batch, eager_answers(small_model(head), batch))


def asked_references(head: str) -> list[tuple[Batch, dict[str, Tensor]]]:
    return [(batch, at_asked(head, batch, answers)) for batch, answers in references(small_model(head))]


def build_asked(path: Path, *, format: str = "exported_program", head: str = "pretraining", **changes: Any) -> Path:
    arguments: dict[str, Any] = dict(
        format=format, facts=facts(small_model(head)), references=asked_references(head),
        budget=PRECISIONS["fp32"].budget, options=OPTIONS.get(format), device=device_of(format),
    )  # fmt: skip
    build(asked_program(head), path, **{**arguments, **changes})
    return path


@cache
def asked_file(format: str, head: str = "pretraining") -> Path:
    """An engine file; read it, change nothing."""
    return build_asked(Path(_folder.name) / f"{format}-{head}{FORMATS[format].suffix}", format=format, head=head)


@cache
def asked_engine(format: str, head: str = "pretraining") -> Engine:
    """An engine of any row that asks."""
    if FORMATS[format].kind == "file":
        return load(asked_file(format, head))
    return in_process(small_model(head), format=format, profile=PROFILE, device=device_of(format), asked=True)


def asking(batch: Batch, *places: tuple[int, int], share: float = 0.3) -> Batch:
    """The batch with these places asked for, or without any named a share of those where there is text."""
    ids, mask, types = batch.tensors()
    asked = (torch.rand(ids.shape) < share) & (mask != 0) if not places else torch.zeros(ids.shape, dtype=torch.bool)
    for row, column in places:
        asked[row, column] = True
    return Batch(ids, mask, types, asked)


def texts(*lengths: int, width: int) -> Batch:
    """One row for each length, padded on the right."""
    return Batch(batch_of(len(lengths), width).input_ids, (torch.arange(width) < torch.tensor(lengths)[:, None]).long())
