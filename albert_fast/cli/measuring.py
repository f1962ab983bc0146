"""Engine files, timed: each is loaded, its answers are compared, and only then it is called against the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from albert_fast.batch import Batch
from albert_fast.cli.callers import Traffic, concurrent
from albert_fast.cli.ceiling import limit, matrix_products
from albert_fast.cli.conditions import conditions
from albert_fast.cli.progress import Progress
from albert_fast.cli.stopwatch import Latency, interleaved
from albert_fast.cli.workload import Shape, gigaflop
from albert_fast.engine import Engine, load
from albert_fast.engine.manifest import Manifest
from albert_fast.errors import EngineError
from albert_fast.precision import PRECISIONS

ROUNDS = 200
SETTLE_S, BURST_S = 0.02, 0.05
"""See ``stopwatch.interleaved``."""
TURNS = 3
"""With several callers each engine has so many turns at a shape; the middle one counts."""
CEILING_S = 3.0
FIRST_LENGTH = 16
"""Of the text that an engine answers right after loading."""


@dataclass(frozen=True)
class Subject:
    """An engine file that is loaded: ``load_ms`` from before loading to its first answer."""

    name: str
    engine: Engine
    manifest: Manifest
    load_ms: float


def load_subject(path: str, device: str | None) -> Subject:
    """Load an engine file and let it answer once.

    Raises:
        ValueError: there is no such file or device.
        EngineError: it does not load here.
    """
    if not Path(path).is_file():
        raise ValueError(f"no engine file at {path}; make one with albert-fast export")
    began = time.perf_counter()
    engine = load(path, device=device)
    answers(engine, inputs(engine, Shape(1, min(FIRST_LENGTH, engine.profile.max_length))))
    load_ms = (time.perf_counter() - began) * 1e3
    assert engine.manifest is not None, "load has read it"
    return Subject(path, engine, engine.manifest, load_ms)


def inputs(engine: Engine, shape: Shape) -> Batch:
    """Random ids for an engine; for multiple choice as few choices a row as it takes, all alike."""
    batch = shape.inputs(engine.config.vocab_size, pad_id=engine.config.pad_token_id or 0)
    if engine.ids_rank == 2:
        return batch
    ids, mask, types = (part.unsqueeze(1).expand(-1, _choices(engine), -1) for part in batch.tensors())
    return Batch(ids, mask, types)


def answers(engine: Engine, batch: Batch) -> dict[str, Tensor]:
    """What it answers, once the device has it."""
    found = engine(batch)
    if torch.device(engine.device).type == "cuda":
        torch.cuda.synchronize()
    return found


def measure(
    subjects: Sequence[Subject],
    shapes: Sequence[Shape],
    *,
    callers: int,
    seconds: float,
    ceiling: bool,
    progress: Progress,
) -> dict[str, Any]:
    """The document: what the figures depend on, and one row for every shape and engine.

    Args:
        callers: Python threads that call at once, each with as many threads of PyTorch's as it has now.
        seconds: of timing, for each shape and engine.
        ceiling: whether to time the machine's matrix products first.
    Raises:
        EngineError: an engine answers with numbers that are not finite. It is not timed.
        ValueError: a shape is longer than an engine's profile.
    """
    first = subjects[0]
    baseline = first.name if len(subjects) > 1 else None
    here, limits = conditions(first.engine.device), {}
    if ceiling:
        progress("time the machine's matrix products")
        precisions = tuple(dict.fromkeys(["fp32", *(one.manifest.precision for one in subjects)]))
        limits = matrix_products(first.engine.config, first.engine.device, seconds=CEILING_S, precisions=precisions)
    rows: list[dict[str, Any]] = []
    for shape in shapes:
        progress(f"time {shape}")
        batches = {one.name: inputs(one.engine, shape) for one in subjects}
        differences = check(subjects, batches)
        calls = {one.name: partial(answers, one.engine, batches[one.name]) for one in subjects}
        timed = _timed(calls, callers, seconds)
        for one in subjects:
            texts = shape.lengths() * _choices(one.engine)
            rows.append({
                "engine": one.name, "format": one.manifest.format, "precision": one.manifest.precision,
                "batch": shape.batch, "length": shape.length, "mixed": shape.mixed, "real_tokens": sum(texts),
                "callers": callers, **_times(timed[one.name]), **_speedup(timed, one.name, baseline),
                **_rates(timed[one.name], texts, one, limits), **differences[one.name],
                "load_ms": round(one.load_ms, 1), "file_bytes": one.manifest.file_bytes,
            })  # fmt: skip
    return {"what": "engine files, random ids", "baseline": baseline, **here, "callers": callers, "rows": rows}


def check(subjects: Sequence[Subject], batches: Mapping[str, Batch]) -> dict[str, dict[str, Any]]:
    """How far each engine's answers are from the first's, where both are of one model and head.

    Returns:
        By name: ``max_abs_difference`` (None for another model) and ``within_budget``, whether that is at most what
        the two precisions allow together. Only outputs at text count. int8 may be beyond on random ids, which are no
        text: ``albert-fast verify`` compares on texts.
    Raises:
        EngineError: an answer at text is not finite.
    """
    first, found = subjects[0], {}
    expected = _at_text(first, batches[first.name])
    for one in subjects:
        answered = _at_text(one, batches[one.name])
        strange = [name for name, value in answered.items() if not bool(value.isfinite().all())]
        if strange:
            raise EngineError(
                f"{one.name} answers {', '.join(strange)} with numbers that are not finite, for ids of shape "
                f"{list(batches[one.name].input_ids.shape)}, so it is not timed; export it anew, or verify it"
            )
        difference, within = None, None
        if _model(one) == _model(first):
            difference = max(float((value - expected[name]).abs().max()) for name, value in answered.items())
            within = difference <= sum(PRECISIONS[each.manifest.precision].budget.max_abs for each in (one, first))
        found[one.name] = {"max_abs_difference": difference, "within_budget": within}
    return found


def _at_text(one: Subject, batch: Batch) -> dict[str, Tensor]:
    """Its answers; of those for every token only the ones where there is text."""
    mask = batch.tensors()[1].bool()
    dimensions = {spec.name: [d.name for d in spec.dimensions] for spec in one.engine.outputs}
    return {
        name: value.cpu()[mask] if "length" in dimensions[name] else value.cpu()
        for name, value in answers(one.engine, batch).items()
    }


def _model(one: Subject) -> tuple[object, ...]:
    return one.manifest.checkpoint_sha256, one.manifest.head


def _choices(engine: Engine) -> int:
    """How many times an engine reads each text: once, but for multiple choice."""
    if engine.ids_rank == 2 or engine.manifest is None:
        return 1
    return next(d.minimum for d in engine.manifest.inputs[0].dimensions if d.name == "choices")


def _timed(
    calls: Mapping[str, Callable[[], object]], callers: int, seconds: float
) -> Mapping[str, Latency] | Mapping[str, Traffic]:
    """In turns; with several callers the turn of middle throughput of each."""
    if callers == 1:
        return interleaved(calls, rounds=ROUNDS, seconds=seconds * len(calls), settle_s=SETTLE_S, burst_s=BURST_S)
    threads = torch.get_num_threads()
    turns: dict[str, list[Traffic]] = {name: [] for name in calls}
    for _ in range(TURNS):
        for name, call in calls.items():
            time.sleep(SETTLE_S)
            turns[name].append(concurrent(call, callers=callers, threads=threads, seconds=seconds / TURNS))
    return {name: sorted(found, key=lambda one: one.calls_per_s)[TURNS // 2] for name, found in turns.items()}


def _times(timed: Latency | Traffic) -> dict[str, Any]:
    latency = timed.latency if isinstance(timed, Traffic) else timed
    return {
        "p50_ms": round(latency.p50_ms, 3), "p95_ms": round(latency.p95_ms, 3), "p99_ms": round(latency.p99_ms, 3),
        "calls": len(latency.times_ms), "calls_per_s": round(_calls_per_s(timed), 2),
    }  # fmt: skip


def _speedup(timed: Mapping[str, Latency] | Mapping[str, Traffic], name: str, baseline: str | None) -> dict[str, float]:
    """Beside the first engine: the median over rounds; with several callers the ratio of what they got done."""
    if baseline is None:
        return {}
    one, first = timed[name], timed[baseline]
    if isinstance(one, Latency) and isinstance(first, Latency):
        return {"speedup": round(one.speedup_over(first), 3)}
    return {"speedup": round(_calls_per_s(one) / _calls_per_s(first), 3)}


def _rates(
    timed: Latency | Traffic, texts: Sequence[int], one: Subject, limits: dict[str, dict[str, float]]
) -> dict[str, Any]:
    """What a second brings, of text alone: padding is no work that anybody asked for."""
    rate = _calls_per_s(timed)
    done = gigaflop(one.engine.config, texts) * rate
    most = limit(limits, one.manifest.precision) if limits else None
    return {
        "tokens_per_s": round(sum(texts) * rate), "gflop_per_s": round(done, 1), "ceiling_gflop_per_s": most,
        "share_of_ceiling": round(done / most, 3) if most else None,
    }  # fmt: skip


def _calls_per_s(timed: Latency | Traffic) -> float:
    return timed.calls_per_s if isinstance(timed, Traffic) else 1e3 / timed.p50_ms
