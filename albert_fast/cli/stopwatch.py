"""How long engines take, timed in turns so that whatever else the machine does hits them all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

WARM_UP_ROUNDS = 3


@dataclass(frozen=True)
class Latency:
    """Of one call, over ``rounds`` rounds: median and 95th percentile."""

    p50_ms: float
    p95_ms: float
    rounds: int


def interleaved(
    calls: Mapping[str, Callable[[], object]], *, rounds: int, seconds: float, tell: Callable[[int], None] | None = None
) -> dict[str, Latency]:
    """Time each call once per round, the order turning from round to round.

    Args:
        calls: by name; each must have finished its work when it returns.
        rounds: at most so many, after ``WARM_UP_ROUNDS`` that do not count.
        seconds: no new round begins after so long; five are made in any case.
        tell: called with the number of each round.
    """
    for _ in range(WARM_UP_ROUNDS):
        for call in calls.values():
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    began = time.perf_counter()
    for number in range(rounds):
        if number >= 5 and time.perf_counter() - began > seconds:
            break
        if tell is not None:
            tell(number + 1)
        first = number % len(names)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            calls[name]()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: _latency(values) for name, values in times.items()}


def _latency(values_ms: list[float]) -> Latency:
    cuts = statistics.quantiles(values_ms, n=20, method="inclusive") if len(values_ms) > 1 else values_ms * 19
    return Latency(statistics.median(values_ms), cuts[18], len(values_ms))
