"""Small quantized programs that several engines' tests share: of the models of ``engine_samples``, scales and all."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import torch
from engine_samples import PROFILE, batch_of, differ, small_config, small_program
from torch import Tensor
from torch.export import ExportedProgram

from albert_fast.batch import Batch
from albert_fast.capture import capture
from albert_fast.engine.formats import Run
from albert_fast.heads import HEADS
from albert_fast.precision import ErrorBudget, Quantization, Scales, prepare
from albert_fast.precision.calibration import collect

ALL_PARTS = ("encoder", "embeddings", "heads")
EXACT = 1e-4
BUDGET = ErrorBudget(8.0, 1.0, 0.9, 0.5)
"""For models whose random weights are larger than any trained model's; ``assert_same_numbers`` is the strict test."""


@cache
def exact_program(head: str = "pretraining", attention: str = "sdpa") -> ExportedProgram:
    if attention == "sdpa":
        return small_program(head)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return capture(HEADS[head].model_class(small_config(), attn_implementation=attention).eval(), PROFILE)


def batches(head: str = "pretraining") -> list[Batch]:
    pairs = [(1, 1), (1, 3), (2, 9), (4, 48)]
    shapes = pairs if HEADS[head].ids_rank == 2 else [(b, 2, s) for b, s in pairs]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [batch_of(*shape) for shape in shapes]


@cache
def scales_of(head: str = "pretraining", attention: str = "sdpa") -> Scales:
    return collect(exact_program(head, attention), batches(head)).scales("max")


@cache
def quantized(
    head: str = "pretraining",
    *,
    precision: str = "int8",
    attention: str = "sdpa",
    rest: str = "fp32",
    parts: tuple[str, ...] = ("encoder",),
    keep: tuple[str, ...] = (),
) -> ExportedProgram:
    """A quantized program; run it and lower it, change nothing."""
    quantization = Quantization(scales_of(head, attention), parts=parts, rest=rest, keep=keep)
    return prepare(exact_program(head, attention), precision, quantization=quantization)


@cache
def smoothed(
    head: str = "pretraining", *, rest: str = "fp32", parts: tuple[str, ...] = ("encoder",)
) -> ExportedProgram:
    """A quantized program in which every tensor of the encoder is smoothed, channel by channel."""
    found, program = scales_of(head), exact_program(head)
    widths = {tensor: 96 if tensor.endswith("ffn_output.input") else 64 for tensor in found.amax if "layers" in tensor}
    with torch.random.fork_rng():
        torch.manual_seed(11)
        factors = {tensor: tuple((0.4 * torch.randn(width)).exp().tolist()) for tensor, width in widths.items()}
    scales = collect(program, batches(head), smoothing=factors).scales("max")
    quantization = Quantization(dataclasses.replace(scales, smoothing=factors), parts=parts, rest=rest)
    return prepare(program, "int8", quantization=quantization)


def answers_of(program: ExportedProgram, batch: Batch) -> dict[str, Tensor]:
    """What PyTorch says to a batch, running the program op by op."""
    with torch.inference_mode():
        found: dict[str, Tensor] = program.module(check_guards=False)(*batch.tensors())
    return found


def assert_same_numbers(run: Run, head: str, *, attention: str = "sdpa", exact: float = EXACT, **changes: Any) -> None:
    """That an engine answers as PyTorch does, running the same quantized program.

    A number that lies between two levels may be rounded either way, which moves the answers of its batch about as far
    as quantization moves them at all.
    """
    program, whole = quantized(head, attention=attention, **changes), exact_program(head, attention)
    expected = [answers_of(program, batch) for batch in batches(head)]
    differences = [differ(run(*b.tensors()), e) for b, e in zip(batches(head), expected, strict=True)]
    moved = [differ(answers_of(whole, b), e) for b, e in zip(batches(head), expected, strict=True)]
    assert min(differences) <= exact
    assert max(differences) <= 2 * max(moved)
