"""Several Python threads that call one engine at once: what they get done together, and how long each of them waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

import torch

from albert_fast.cli.stopwatch import Latency


@dataclass(frozen=True)
class Traffic:
    """What several callers got done.

    Attributes:
        latency: of single calls, of all callers together.
        calls_per_s: of all callers together.
    """

    latency: Latency
    calls_per_s: float


def concurrent(call: Callable[[], object], *, callers: int, threads: int, seconds: float) -> Traffic:
    """Let every caller call again and again for a while, after one call each that does not count.

    Args:
        call: any thread may call it.
        callers: how many Python threads.
        threads: of PyTorch, for each caller. It is set within the caller, as OpenMP keeps it for each thread by itself.
        seconds: no call begins after so long; every caller makes at least one.
    Raises:
        Exception: what a call raised, in whichever caller.
    """
    began: list[float] = []
    together = threading.Barrier(callers, action=lambda: began.append(time.perf_counter()))

    def work() -> tuple[list[float], float]:
        ready = False
        try:
            torch.set_num_threads(threads)
            call()
            ready = True
        finally:
            if not ready:  # or the others would wait for this one for ever
                together.abort()
        together.wait()
        times: list[float] = []
        end = began[0]
        while not times or end < began[0] + seconds:
            start = time.perf_counter()
            call()
            end = time.perf_counter()
            times.append((end - start) * 1e3)
        return times, end

    with ThreadPoolExecutor(callers) as crowd:
        wait(futures := [crowd.submit(work) for _ in range(callers)])
    failures = [failure for future in futures if (failure := future.exception()) is not None]
    if failures:
        raise next((one for one in failures if not isinstance(one, threading.BrokenBarrierError)), failures[0])
    found = [future.result() for future in futures]
    latency = Latency(tuple(value for times, _ in found for value in times))
    return Traffic(latency, len(latency.times_ms) / (max(end for _, end in found) - began[0]))
