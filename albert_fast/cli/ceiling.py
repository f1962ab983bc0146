"""How fast this machine multiplies matrices of a model's own shape: the limit that engines' rates stand beside."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from albert_fast.cli.stopwatch import interleaved
from albert_fast.config import AlbertConfig

ROWS = 1024
"""Tokens of a product: enough for the full rate."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def matrix_products(
    config: AlbertConfig, device: str, *, seconds: float, precisions: tuple[str, ...] = ("fp32", "bf16", "int8")
) -> dict[str, dict[str, float]]:
    """The rate of the feed-forward network's first map, GFLOP/s, by precision and kernel, timed in turns.

    Kernels: ``"plain"``, PyTorch's own, and on a CPU ``"packed"``, the weight packed for oneDNN. int8 is from and to
    unsigned bytes, as between the two maps of the network, and only where oneDNN is.

    Args:
        seconds: no new round of timing begins after so long.
        precisions: others are left out.
    """
    hidden, wide = config.hidden_size, config.intermediate_size
    x, weight, bias = torch.randn(ROWS, hidden), torch.randn(wide, hidden), torch.randn(wide)
    packs = torch.device(device).type == "cpu" and torch.backends.mkldnn.is_available()
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for name in precisions:
        if name in DTYPES:
            one = [tensor.to(device, DTYPES[name]) for tensor in (x, weight, bias)]
            calls[name, "plain"] = partial(_plain, *one)
            if packs and name != "fp16":  # which CPUs hardly multiply
                calls[name, "packed"] = partial(_packed, one[0], _ops.mkldnn._reorder_linear_weight(one[1]), one[2])
        elif name == "int8" and packs:
            calls[name, "packed"] = _int8(hidden, wide, bias)
    with torch.inference_mode():
        timed = interleaved({" ".join(key): call for key, call in calls.items()}, rounds=40, seconds=seconds)
    found: dict[str, dict[str, float]] = {}
    for name, kernel in calls:
        p50_ms = timed[f"{name} {kernel}"].p50_ms
        found.setdefault(name, {})[kernel] = round(2 * ROWS * hidden * wide / 1e6 / p50_ms, 1)
    return found


def limit(found: dict[str, dict[str, float]], precision: str) -> float:
    """The best rate for a precision, GFLOP/s; float32's for one that was not measured."""
    return max(found.get(precision, found["fp32"]).values())


_ops: Any = torch.ops


def _plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    result = torch.nn.functional.linear(x, weight, bias)
    if result.is_cuda:
        torch.cuda.synchronize()
    return result


def _packed(x: Tensor, packed: Tensor, bias: Tensor) -> Tensor:
    result: Tensor = _ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return result


def _int8(hidden: int, wide: int, bias: Tensor) -> Callable[[], object]:
    x = torch.randint(0, 255, (ROWS, hidden), dtype=torch.uint8)
    weight = torch.randint(-127, 128, (wide, hidden), dtype=torch.int8)
    packed = _ops.onednn.qlinear_prepack(weight, [ROWS, hidden])
    scales, zeros = torch.full((wide,), 1e-3), torch.zeros(wide, dtype=torch.int32)
    return partial(
        _ops.onednn.qlinear_pointwise, x, 1e-2, 128, packed, scales, zeros, bias, 0.1, 128, torch.uint8, "none", [], ""
    )
