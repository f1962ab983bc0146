"""Precision as a property of the graph: which there are, what each does to a program, how far each may stray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

import torch
from torch.export import ExportedProgram

from albert_fast.precision.histogram import METHODS
from albert_fast.precision.quantization import RESTS, Quantization
from albert_fast.precision.scales import Scales
from albert_fast.precision.sites import PARTS

__all__ = [
    "METHODS", "PARTS", "PRECISIONS", "RESTS", "ErrorBudget", "Precision", "Quantization", "Scales", "precision",
    "prepare",
]  # fmt: skip


@dataclass(frozen=True)
class ErrorBudget:
    """How far an engine's outputs may be from float32 eager on the export's fixed batches, padded places included.

    Attributes:
        max_abs, mean_abs: largest and mean absolute difference over all output numbers.
        cosine: smallest cosine similarity of an output tensor, flattened.
        argmax_agreement: share of rows (last dimension) whose largest element is the same one, or one that float32
            holds within ``mean_abs`` of the largest.
    """

    max_abs: float
    mean_abs: float
    cosine: float
    argmax_agreement: float


@dataclass(frozen=True)
class Precision:
    """One row of ``PRECISIONS``.

    Attributes:
        dtype: of the weights in the graph, and so of the engine file's size rule.
        budget: what export refuses to exceed.
        prepare: ``"module:function"`` of ``(program, dtype, keep_float32)`` that turns the captured float32 program
            into the typed one; resolved on use.
        quantizes: whether it needs a ``Quantization``; ``prepare`` then takes it as its fourth argument.
    """

    name: str
    dtype: torch.dtype
    budget: ErrorBudget
    prepare: str
    quantizes: bool = False


PRECISIONS: Mapping[str, Precision] = {
    # Compiled float32 strays from eager by the order of additions alone: 2e-6 in benchmarks/results/engines.json, ten
    # times that for masked-LM logits. The argmax may flip between near-equal scores of a 30,000-word vocabulary.
    "fp32": Precision(
        "fp32", torch.float32, ErrorBudget(2e-4, 2e-5, 0.99999, 0.99), "albert_fast.precision.fp32:prepare"
    ),
    # Two to three times the worst of this: eager and sdpa programs run by PyTorch on CPU, on the batches of
    # recipe.references, the embedded model (base, masked-lm, sequence-classification, with text) and random ALBERT-base
    # weights (every head, two seeds, length 128): 0.0146, 0.0014, 0.999992, 0.984. The masked LM's logits reach 23.
    "fp16": Precision(
        "fp16", torch.float16, ErrorBudget(0.04, 0.004, 0.9999, 0.95), "albert_fast.precision.half:prepare"
    ),
    # As above with three seeds and length 512: 0.182, 0.0157, 0.9983, and 0.948 but for a span head without training,
    # where one of four rows has two places that float32 too holds for nearly equal: 0.75.
    "bf16": Precision(
        "bf16", torch.bfloat16, ErrorBudget(0.5, 0.045, 0.995, 0.75), "albert_fast.precision.half:prepare"
    ),
    # The worst on the same batches, the embedded model as classifier and masked LM, ranges by max and percentile, every
    # rest, encoder alone and with embeddings and heads: 1.40, 0.161, 0.987, 0.997. Half of the batches hold random ids,
    # which are no text; benchmarks/results/int8_accuracy.json holds what int8 does to decisions about text.
    "int8": Precision(
        "int8", torch.int8, ErrorBudget(2.5, 0.35, 0.97, 0.8), "albert_fast.precision.int8:prepare", quantizes=True
    ),
    # As above, rest fp32 and fp16: 1.93, 0.20, 0.977, 0.975. E4M3 has three bits behind the first, int8 up to six.
    "fp8": Precision(
        "fp8",
        torch.float8_e4m3fn,
        ErrorBudget(4.0, 0.5, 0.95, 0.8),
        "albert_fast.precision.fp8:prepare",
        quantizes=True,
    ),
}


def precision(name: str) -> Precision:
    """The row called ``name``.

    Raises:
        ValueError: there is no such precision; the message lists those there are.
    """
    if name not in PRECISIONS:
        raise ValueError(f"precision is {name!r}, expected one of {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def prepare(
    program: ExportedProgram,
    name: str,
    *,
    keep_float32: Sequence[str] = (),
    quantization: Quantization | None = None,
) -> ExportedProgram:
    """Turn a captured float32 program into the program of a precision: dtypes and Q/DQ in the graph itself.

    Args:
        program: as captured, in float32; it is not changed.
        name: row of ``PRECISIONS``.
        keep_float32: names or patterns of tensors that the precision must not round, see ``plan.decide``.
        quantization: what to quantize and with which scales, for the rows that quantize.
    Returns:
        A program of the same inputs, shapes and output names; every output is float32, whatever the precision.
    Raises:
        ValueError: there is no such precision, or it cannot be applied to this program; the message says why.
    """
    row = precision(name)
    if quantization is not None and not row.quantizes:
        quantizing = ", ".join(one.name for one in PRECISIONS.values() if one.quantizes)
        raise ValueError(f"{name} does not quantize, so it takes no scales; {quantizing} does")
    module, _, function = row.prepare.partition(":")
    arguments = (program, row.dtype, keep_float32, *((quantization,) if row.quantizes else ()))
    prepared: ExportedProgram = getattr(import_module(module), function)(*arguments)
    return prepared
