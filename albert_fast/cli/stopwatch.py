"""How long engines take, timed in turns so that whatever else the machine does hits them all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

WARM_UP_ROUNDS = 3


@dataclass(frozen=True)
class Latency:
    """Of one call, round by round, in milliseconds."""

    times_ms: tuple[float, ...]

    @property
    def p50_ms(self) -> float:
        """The median."""
        return statistics.median(self.times_ms)

    @property
    def p95_ms(self) -> float:
        """The 95th percentile."""
        if len(self.times_ms) == 1:
            return self.times_ms[0]
        return statistics.quantiles(self.times_ms, n=20, method="inclusive")[18]

    @property
    def rounds(self) -> int:
        """How often it was timed."""
        return len(self.times_ms)

    def speedup_over(self, other: Latency) -> float:
        """How many times faster than ``other`` of the same run: the median over rounds of the ratio within one."""
        return statistics.median(b / a for a, b in zip(self.times_ms, other.times_ms, strict=True))


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    seconds: float,
    settle_s: float = 0.0,
    tell: Callable[[int], None] | None = None,
) -> dict[str, Latency]:
    """Time each call once per round, the order turning from round to round.

    Args:
        calls: by name; each must have finished its work when it returns.
        rounds: at most so many, after ``WARM_UP_ROUNDS`` that do not count.
        seconds: no new round begins after so long; one to warm up and five are made in any case.
        settle_s: before each call so many seconds of rest and one call that does not count. Runtimes' threads go on
            spinning for a while when they are done: without rest they take the cores from whatever is timed next.
        tell: called with the number of each round.
    """
    began = time.perf_counter()
    for number in range(WARM_UP_ROUNDS):
        if number and time.perf_counter() - began > seconds:
            break
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
            if settle_s:
                time.sleep(settle_s)
                calls[name]()
            start = time.perf_counter()
            calls[name]()
            times[name].append((time.perf_counter() - start) * 1e3)
    return {name: Latency(tuple(values)) for name, values in times.items()}
