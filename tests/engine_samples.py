"""Small models and engines that several tests share: six passes of one layer, built once per run of the tests."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.export import ExportedProgram

from albert_fast.batch import Batch, ShapeProfile
from albert_fast.capture import capture
from albert_fast.config import AlbertConfig
from albert_fast.engine import FORMATS, Engine, Facts, Format, Manifest, build, in_process, load, read_manifest
from albert_fast.engine.comparing import at_text
from albert_fast.heads import HEADS, head_of
from albert_fast.precision import PRECISIONS

PROFILE = ShapeProfile(1, 2, 4, 1, 8, 48)
BUDGET = PRECISIONS["fp32"].budget
OPTIONS: dict[str, dict[str, Any]] = {"aotinductor": {"linear": "packed"}}
"""The packed form is the one where something can go wrong; the plain one is built by the test of ALBERT-base."""


def _parameter(row: Format, *, needs_device: bool) -> Any:
    """A row as a test's parameter: skipped in words where its package is missing, marked where it needs a GPU."""
    missing = row.missing()
    marks = [pytest.mark.skipif(missing is not None, reason=missing or "")]
    if needs_device and "cpu" not in row.devices:
        marks.append(pytest.mark.gpu)
    return pytest.param(row.name, marks=marks)


RUNNABLE = [_parameter(row, needs_device=True) for row in FORMATS.values()]
"""Every row, for tests that run its engine."""
RUNNABLE_FILES = [_parameter(row, needs_device=True) for row in FORMATS.values() if row.kind == "file"]
WRITABLE = [
    _parameter(row, needs_device=not row.builds_without_device) for row in FORMATS.values() if row.kind == "file"
]
"""Every row with a file, for tests that write it and look at it."""
IN_PROCESS = [_parameter(row, needs_device=True) for row in FORMATS.values() if row.kind == "in-process"]

Answers = Mapping[str, Tensor]
_folder = tempfile.TemporaryDirectory(prefix="albert-fast-engines-")


def small_config(**changes: Any) -> AlbertConfig:
    values: dict[str, Any] = dict(
        vocab_size=97, embedding_size=16, hidden_size=64, num_hidden_layers=6, num_attention_heads=4,
        intermediate_size=96, max_position_embeddings=48, initializer_range=0.3,
    )  # fmt: skip
    return AlbertConfig(**{**values, **changes})


@cache
def small_model(head: str = "pretraining") -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return HEADS[head].model_class(small_config()).eval()


@cache
def small_program(head: str = "pretraining") -> ExportedProgram:
    return capture(small_model(head), PROFILE)


def facts(model: Any, profile: ShapeProfile = PROFILE) -> Facts:
    return Facts(
        config=model.config.to_dict(), head=head_of(model), attention="sdpa", precision="fp32", profiles=(profile,),
        checkpoint_sha256="0" * 64, checkpoint_source="a test", labels=("no", "yes"),
    )  # fmt: skip


def batch_of(*shape: int, padding: str = "right", vocab_size: int = 97) -> Batch:
    """Pairs of texts, rows of different length; the last row of several is padding only."""
    ids, length = torch.randint(5, vocab_size, shape), shape[-1]
    mask, types = torch.ones_like(ids), torch.zeros_like(ids)
    types[..., length // 2 :] = 1
    if length > 1:
        hidden = slice(0, length // 3) if padding == "left" else slice(length - length // 3, length)
        mask[0, ..., hidden] = 0
    if shape[0] > 1:
        mask[-1] = 0
    return Batch(ids, mask, types)


def eager_answers(model: Any, batch: Batch) -> dict[str, Tensor]:
    with torch.inference_mode():
        output = model(*batch.tensors())
    return {name: output[name] for name in HEADS[head_of(model)].outputs}


def references(model: Any) -> list[tuple[Batch, dict[str, Tensor]]]:
    shapes = [(2, 9), (1, 5)] if HEADS[head_of(model)].ids_rank == 2 else [(2, 3, 9)]
    return [(batch, eager_answers(model, batch)) for batch in (batch_of(*shape) for shape in shapes)]


def device_of(format: str) -> str:
    """The device that tests run a format on: the CPU where it can."""
    devices = FORMATS[format].devices
    return "cpu" if "cpu" in devices else devices[0]


def build_small(path: Path, *, format: str = "exported_program", head: str = "pretraining", **changes: Any) -> Manifest:
    model = small_model(head)
    arguments: dict[str, Any] = dict(
        format=format, facts=facts(model), references=references(model), budget=BUDGET, options=OPTIONS.get(format),
        device=device_of(format) if format in FORMATS else "cpu",
    )  # fmt: skip
    return build(small_program(head), path, **{**arguments, **changes})


@cache
def engine_file(format: str, head: str = "pretraining") -> Path:
    """An engine file of the small model; read it, or copy it before changing it."""
    path = Path(_folder.name) / f"{format}-{head}{FORMATS[format].suffix}"
    build_small(path, format=format, head=head)
    return path


@cache
def engine_of(format: str) -> Engine:
    """An engine of any row, over the small model with two outputs."""
    if FORMATS[format].kind == "file":
        return load(engine_file(format))
    return in_process(small_model(), format=format, profile=PROFILE, device=device_of(format))


def differ(answers: Answers, expected: Answers) -> float:
    assert list(answers) == list(expected)
    return max(float((answers[name].cpu() - expected[name].cpu()).abs().max()) for name in expected)


def differ_from_eager(engine: Engine, batch: Batch, answers: Answers | None = None) -> float:
    """An engine's largest difference from its small model: where it skips or cuts padding, in what is text."""
    found, expected = engine(batch) if answers is None else answers, eager_answers(small_model(engine.head), batch)
    skips = FORMATS[engine.format].skips_padding
    if skips or engine.cutting is not None:
        found, expected = at_text(found, expected, batch.tensors()[1], engine.outputs, empty_texts=not skips)
    return differ(found, expected)


def read_note(format: str, name: str) -> Any:
    return read_manifest(engine_file(format)).notes[name]
