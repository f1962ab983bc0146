"""``packed_attention`` beside PyTorch's ``scaled_dot_product_attention``, by dtype and shape, in turns in one process.

    python benchmarks/attention.py -o benchmarks/results/attention.json

Heads are those of ALBERT-base. PyTorch is given query, key and value as views of the same packed rows, as a model has
them; it has no int8. Each answer is compared with the op's reference before it is timed.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from engines import conditions
from torch import Tensor

from albert_fast import ops
from albert_fast.cli.stopwatch import interleaved
from albert_fast.cli.workload import Shape

NUM_HEADS, HEAD_SIZE = 12, 64
SHAPES = "1x16,1x128,8x128,1x384,1x512,8x128 mixed"
ALLOWED = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.int8: 1.0}
"""Largest differences from the reference: of int8 a step."""
INT8_SCALES = (0.03, 0.03, 0.03, 0.02)
OP, PYTORCH = "packed_attention", "scaled_dot_product_attention"


def calls_of(dtype: torch.dtype, shape: Shape) -> dict[str, Callable[[], Tensor]]:
    """What is timed, by name; each returns ``[tokens, hidden_size]``, PyTorch's padding included."""
    lengths, scale = shape.lengths(), HEAD_SIZE**-0.5
    generator = torch.Generator().manual_seed(shape.batch * 1000 + shape.length)
    padded = torch.randn(shape.batch, shape.length, 3 * NUM_HEADS * HEAD_SIZE, generator=generator)
    mask = torch.arange(shape.length) < torch.tensor(lengths)[:, None]
    scales = INT8_SCALES if dtype == torch.int8 else ()
    padded = (padded / INT8_SCALES[0]).round().clamp(-127, 127).to(dtype) if scales else padded.to(dtype)
    qkv, starts = padded[mask], torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    arguments = (qkv, starts, max(lengths), NUM_HEADS, scale, scales)
    calls: dict[str, Callable[[], Tensor]] = {OP: lambda: ops.packed_attention(*arguments)}
    if not scales:
        query, key, value = padded.unflatten(-1, (3, NUM_HEADS, HEAD_SIZE)).permute(2, 0, 3, 1, 4)
        bias = None if mask.all() else torch.where(mask, 0.0, -1e30)[:, None, None].to(dtype)

        def pytorch() -> Tensor:
            context = torch.nn.functional.scaled_dot_product_attention(query, key, value, bias, scale=scale)
            return context.transpose(1, 2).flatten(2)

        calls[PYTORCH] = pytorch
    expected = ops.packed_attention_reference(*arguments).float()
    for name, call in calls.items():
        found = call() if name == OP else call()[mask]
        difference = float((found.float() - expected).abs().max())
        if not difference <= ALLOWED[dtype]:
            raise SystemExit(f"{name} at {shape} in {dtype} is {difference} from the reference")
    return calls


def measure(shapes: list[Shape], seconds: float) -> list[dict[str, Any]]:
    """A row for every dtype, shape and implementation."""
    rows = []
    for dtype in ALLOWED:
        for shape in shapes:
            calls = calls_of(dtype, shape)
            found = interleaved(calls, rounds=50, seconds=seconds, settle_s=0.02, burst_s=0.02)
            for name, latency in found.items():
                ratio = None if PYTORCH not in found else round(latency.speedup_over(found[PYTORCH]), 3)
                rows.append(
                    {
                        "implementation": name,
                        "dtype": str(dtype).removeprefix("torch."),
                        "shape": str(shape),
                        "p50_ms": round(latency.p50_ms, 4),
                        "p95_ms": round(latency.p95_ms, 4),
                        "speedup": ratio,
                    }
                )
            print(f"{dtype} {shape}: " + ", ".join(f"{n} {one.p50_ms:.3f} ms" for n, one in found.items()), flush=True)
    return rows


def main() -> None:
    """Write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--shapes", default=SHAPES, help=f"batch x length, separated by commas ({SHAPES})")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each dtype and shape")
    arguments = parser.parse_args()
    ops.require_ops()
    before, shapes = conditions("cpu"), [Shape.parse(text) for text in arguments.shapes.split(",")]
    with torch.inference_mode():
        rows = measure(shapes, arguments.seconds)
    what = f"attention of {NUM_HEADS} heads of {HEAD_SIZE}, random numbers; speedup over {PYTORCH}, padding and all"
    document = {"what": what, **before, "kernel": ops.cpu_kernel(), "rows": rows}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
