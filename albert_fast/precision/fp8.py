"""fp8: int8's graph on another grid, the 8-bit floating numbers E4M3 (``float8_e4m3fn``), of magnitudes up to 448.

    weight   float8 ``[out, in]``, one scale an output channel, one copy for all passes
    input    float8, one scale a tensor and pass: range / 448

Its steps grow with the number, so a range may be wide and small numbers keep their three bits. GPUs from Ada and Hopper
on multiply it. The pair is spelled in plain ops, division, clamp, cast and back, for ``quantized_decomposed`` rounds to
whole numbers first, and E4M3 has fractions.

Source: Micikevicius et al. 2022, "FP8 Formats for Deep Learning" (arXiv:2209.05433).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from albert_fast.precision.int8 import Call, Grid, on_grid
from albert_fast.precision.policy import aten
from albert_fast.precision.quantization import Quantization

DTYPE = torch.float8_e4m3fn
QMAX = torch.finfo(DTYPE).max


def prepare(
    program: ExportedProgram,
    dtype: torch.dtype,
    keep_float32: Sequence[str] = (),
    quantization: Quantization | None = None,
) -> ExportedProgram:
    """``int8.prepare`` with E4M3 in int8's place; the same scales, parts and rest.

    Args:
        dtype: ``torch.float8_e4m3fn``.
    Raises:
        ValueError: there is no quantization, or it does not fit this program; the message says why.
    """
    return on_grid(FP8, program, keep_float32, quantization)


def quantized_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A float32 weight ``[out, in]`` as E4M3 and its float32 scale of each output channel ``[out]``."""
    amax = weight.abs().amax(1)
    scale = torch.where(amax > 0, amax, torch.ones_like(amax)) / QMAX
    return (weight / scale[:, None]).clamp(-QMAX, QMAX).to(DTYPE), scale


def _pair(call: Call, value: Node, scale: float, dtype: torch.dtype) -> Node:
    scaled = call(aten.clamp.default, (call(aten.div.Tensor, (value, scale)), -QMAX, QMAX))
    quantized = call(aten.to.dtype, (scaled, DTYPE))
    exact = call(aten.mul.Tensor, (call(aten.to.dtype, (quantized, torch.float32)), scale))
    return exact if dtype == torch.float32 else call(aten.to.dtype, (exact, dtype))


def _whole(call: Call, weight: Node, scales: Node, dtype: torch.dtype) -> Node:
    column = call(aten.unsqueeze.default, (scales, 1))
    exact = call(aten.mul.Tensor, (call(aten.to.dtype, (weight, torch.float32)), column))
    return exact if dtype == torch.float32 else call(aten.to.dtype, (exact, dtype))


FP8 = Grid("fp8", DTYPE, QMAX, quantized_weight, _pair, _whole)
