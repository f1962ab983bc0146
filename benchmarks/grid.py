"""The grid: every engine and peer at every shape of a model, each answer checked, then all timed in turns."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from engines import (
    BASELINE,
    COMPILE_FOR_A_SHAPE,
    MEASURED_PRECISIONS,
    Made,
    Subject,
    baseline,
    built,
    everything,
    peers,
    precision_of,
)
from peers import PEERS
from torch import Tensor

from albert_fast import Batch
from albert_fast.cli.ceiling import limit, matrix_products
from albert_fast.cli.stopwatch import Latency, interleaved
from albert_fast.cli.workload import Shape, gigaflop
from albert_fast.precision import PRECISIONS

SETTLE_S, BURST_S = 0.02, 0.04
"""See ``stopwatch.interleaved``."""
CEILING_S = 8.0
WORTH = 1.5
"""What is not so many times as fast as the baseline is left out at shapes where one call takes too long."""
Calls = Mapping[str, Callable[[Batch], Tensor]]


@dataclass(frozen=True)
class Grid:
    """How thoroughly to measure.

    Attributes:
        rounds, seconds, least: of ``stopwatch.interleaved``, at each shape.
        longest_s: of one call, for what is hardly faster than the baseline.
        full: whether a model's further shapes are taken instead of its own.
        without: beginnings of names that are not measured.
    """

    rounds: int
    seconds: float
    least: int
    longest_s: float
    full: bool = False
    without: tuple[str, ...] = ()

    def shapes(self, subject: Subject) -> tuple[Shape, ...]:
        """Those of a model."""
        return (self.full and subject.more) or subject.shapes


GRIDS = {
    "quick": Grid(30, 10.0, 5, 2.0),
    "full": Grid(20, 8.0, 2, 2.0, full=True, without=("eager", "inductor", "saved_model", "tflite", "TF class")),
}


@dataclass(frozen=True)
class Checked:
    """An answer's largest difference from the baseline's, and the seconds that a call takes."""

    difference: float
    call_s: float


def made_of(
    subject: Subject, model: Any, folder: Path, device: str, wanted: Callable[[str], bool] = everything
) -> dict[str, Made]:
    """The baseline, every engine and every peer whose name is wanted; files go to ``folder``."""
    found = {BASELINE: Made(baseline(model, device))}
    found |= {name: made for name, _, made in built(subject, model, folder, device, wanted)}
    return found | dict(peers(subject, model, folder, device, wanted))


def check(calls: Calls, batch: Batch, device: str, *, slow_s: float = float("inf")) -> dict[str, Checked]:
    """Compare each answer with the baseline's; a wrong one is not timed.

    Args:
        slow_s: what takes longer is called again where the first call at a shape compiles for it.
    """
    expected = calls[BASELINE](batch)
    found: dict[str, Checked] = {}
    for name, call in calls.items():
        answered, call_s = _clocked(call, batch)
        if call_s > slow_s and name in COMPILE_FOR_A_SHAPE:
            _, call_s = _clocked(call, batch)
        found[name] = Checked(float((answered - expected).abs().max()), call_s)
    budgets = {name: PRECISIONS[precision_of(name, device)].budget.max_abs for name in calls}
    wrong = {n: one.difference for n, one in found.items() if n not in PEERS and not one.difference <= budgets[n]}
    assert not wrong, f"beyond the precision's budget from {BASELINE} at {list(batch.input_ids.shape)}: {wrong}"
    return found


def measure(
    subject: Subject, device: str, grid: Grid, *, wanted: Callable[[str], bool], shapes: tuple[Shape, ...] = ()
) -> Iterator[dict[str, Any]]:
    """A row for every shape and engine of a model; one with ``left_out``, the reason, was not timed.

    Args:
        wanted: of an engine's or peer's name.
        shapes: instead of the grid's.
    """
    if grid.without:
        asked, wanted = wanted, lambda name: asked(name) and not name.startswith(grid.without)
    model = subject.model()
    ceiling = matrix_products(model.config, device, seconds=CEILING_S, precisions=MEASURED_PRECISIONS[device])
    print(f"{subject.name}: matrix products at {ceiling} GFLOP/s; building the engines", flush=True)
    with tempfile.TemporaryDirectory(prefix="engines-") as folder:
        made = made_of(subject, model, Path(folder), device, wanted)
        calls = {name: one.call for name, one in made.items()}
        for shape in shapes or grid.shapes(subject):
            batch = shape.inputs(model.config.vocab_size, pad_id=model.config.pad_token_id or 0).to(device)
            checked = check(calls, batch, device, slow_s=grid.longest_s)
            left_out = too_long(checked, grid.longest_s)
            chosen = {name: partial(call, batch) for name, call in calls.items() if name not in left_out}
            warm_up = 0 if sum(checked[name].call_s for name in chosen) > grid.seconds else 2  # the check was one
            timed = interleaved(
                chosen, rounds=grid.rounds, seconds=grid.seconds, least=grid.least, warm_up=warm_up,
                settle_s=SETTLE_S, burst_s=BURST_S,
            )  # fmt: skip
            tokens, gflop = sum(shape.lengths()), gigaflop(model.config, shape.lengths())
            for name in made:
                precision = precision_of(name, device)
                row = {
                    "model": subject.name, "engine": name, "precision": precision, "batch": shape.batch,
                    "length": shape.length, "mixed": shape.mixed, "real_tokens": tokens,
                }  # fmt: skip
                if name in left_out:
                    print(f"  {shape!s:12} {name:28} left out: {left_out[name]}", flush=True)
                    yield {**row, "left_out": left_out[name]}
                    continue
                print(f"  {shape!s:12} {name:28} {timed[name].p50_ms:9.2f} ms", flush=True)
                measured = figures(timed[name], timed[BASELINE], tokens, gflop, limit(ceiling, precision))
                yield {**row, **measured, "max_abs_difference": checked[name].difference, **once(made[name])}


def too_long(checked: Mapping[str, Checked], longest_s: float) -> dict[str, str]:
    """What is not timed at a shape, and why: slow, and hardly faster than the baseline."""
    slowest = checked[BASELINE].call_s
    return {
        name: f"a call takes {one.call_s:.1f} s, {slowest / one.call_s:.1f} times as fast as {BASELINE}"
        for name, one in checked.items()
        if name != BASELINE and one.call_s > longest_s and slowest / one.call_s < WORTH
    }


def figures(latency: Latency, slowest: Latency, tokens: int, gflop: float, most: float) -> dict[str, Any]:
    """What was measured at one shape.

    Args:
        slowest: the baseline's, of the same rounds.
        tokens, gflop: of the text alone; padding counts for nothing.
        most: the machine's limit, GFLOP/s.
    """
    rate = gflop / latency.p50_ms * 1e3
    return {
        "p50_ms": round(latency.p50_ms, 3), "p95_ms": round(latency.p95_ms, 3), "p99_ms": round(latency.p99_ms, 3),
        "rounds": latency.rounds, "calls": len(latency.times_ms), "speedup": round(latency.speedup_over(slowest), 3),
        "tokens_per_s": round(tokens / latency.p50_ms * 1e3), "gflop_per_s": round(rate, 1),
        "ceiling_gflop_per_s": most, "share_of_ceiling": round(rate / most, 3),
    }  # fmt: skip


def once(made: Made) -> dict[str, Any]:
    """What does not depend on the shape."""
    return {
        "build_s": None if made.build_s is None else round(made.build_s, 2),
        "load_ms": None if made.load_ms is None else round(made.load_ms, 1),
        "file_bytes": made.file_bytes,
    }


def _clocked(call: Callable[[Batch], Tensor], batch: Batch) -> tuple[Tensor, float]:
    began = time.perf_counter()
    return call(batch), time.perf_counter() - began
