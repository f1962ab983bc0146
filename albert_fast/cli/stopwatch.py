"""How long engines take, timed in turns so that whatever else the machine does hits them all alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

WARM_UP_ROUNDS = 3
LEAST_ROUNDS = 5
SLOW_MS = 200.0
"""A call of so long is timed without one that does not count before it: what it would set right is a few ms."""


@dataclass(frozen=True)
class Latency:
    """Of one call, in milliseconds.

    Attributes:
        times_ms: of every call that was timed.
        round_ms: the median of each round, where a round timed several calls; empty where each timed one.
    """

    times_ms: tuple[float, ...]
    round_ms: tuple[float, ...] = ()

    @property
    def p50_ms(self) -> float:
        """The median."""
        return statistics.median(self.times_ms)

    @property
    def p95_ms(self) -> float:
        """The 95th percentile."""
        return self._percentile(95)

    @property
    def p99_ms(self) -> float:
        """The 99th percentile; of fewer than a hundred calls it is about the slowest."""
        return self._percentile(99)

    @property
    def by_round(self) -> tuple[float, ...]:
        """One time for every round."""
        return self.round_ms or self.times_ms

    @property
    def rounds(self) -> int:
        """In how many rounds it was timed."""
        return len(self.by_round)

    def speedup_over(self, other: Latency) -> float:
        """How many times faster than ``other`` of the same run: the median over rounds of the ratio within one."""
        return statistics.median(b / a for a, b in zip(self.by_round, other.by_round, strict=True))

    def _percentile(self, percent: int) -> float:
        if len(self.times_ms) == 1:
            return self.times_ms[0]
        return statistics.quantiles(self.times_ms, n=100, method="inclusive")[percent - 1]


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    seconds: float,
    least: int = LEAST_ROUNDS,
    warm_up: int = WARM_UP_ROUNDS,
    settle_s: float = 0.0,
    burst_s: float = 0.0,
    tell: Callable[[int], None] | None = None,
) -> dict[str, Latency]:
    """Time each call once per round, or as often as fits into a short time, the order turning from round to round.

    Args:
        calls: by name; each must have finished its work when it returns.
        rounds: at most so many.
        seconds: no new round begins after so long, but ``least`` are made in any case.
        least: see there.
        warm_up: rounds before them that do not count; no second one begins after ``seconds``.
        settle_s: before each call so many seconds of rest and one call that does not count, unless a call takes
            ``SLOW_MS``. Runtimes' threads go on spinning for a while when they are done: without rest they take the
            cores from whatever is timed next.
        burst_s: a round calls again and again for so many seconds, at least once; short calls get more times, without
            more rests.
        tell: called with the number of each round.
    """
    began = time.perf_counter()
    for number in range(warm_up):
        if number and time.perf_counter() - began > seconds:
            break
        for call in calls.values():
            call()
    times: dict[str, list[list[float]]] = {name: [] for name in calls}
    names = list(calls)
    began = time.perf_counter()
    for number in range(rounds):
        if number >= least and time.perf_counter() - began > seconds:
            break
        if tell is not None:
            tell(number + 1)
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if settle_s:
                time.sleep(settle_s)
                if not times[name] or times[name][-1][-1] < SLOW_MS:
                    calls[name]()
            times[name].append(_timed(calls[name], burst_s))
    return {
        name: Latency(
            tuple(value for one in found for value in one),
            tuple(statistics.median(one) for one in found) if burst_s else (),
        )
        for name, found in times.items()
    }


def _timed(call: Callable[[], object], burst_s: float) -> list[float]:
    """Milliseconds of one call, and of those after it that begin within ``burst_s`` seconds."""
    times: list[float] = []
    began = start = time.perf_counter()
    while not times or start - began < burst_s:
        call()
        end = time.perf_counter()
        times.append((end - start) * 1e3)
        start = end
    return times
