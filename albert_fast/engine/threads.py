"""How many threads an engine computes with: torch's own number, or one of its own; and how many callers at a time.

``torch.set_num_threads`` is no way to give an engine its own number. It sets OpenMP's for the Python thread that calls
it, but also the one that every new thread begins with, and MKL's for all threads: engines with different numbers would
change each other's. OpenMP and MKL both keep a number for each thread as well. Those are set here, and put back behind
each call, so nothing outside the call changes.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from albert_fast.engine.formats import Run
from albert_fast.errors import EngineError

MOST_CALLERS = 8
"""At most so many calls of one engine compute at the same time. Each costs some memory."""
_LIBRARIES = ("libtorch_cpu.so", "libtorch_cpu.dylib")


def check_num_threads(count: int | None, device: str = "cpu") -> None:
    """Refuse a number of threads that no engine on ``device`` can compute with.

    Raises:
        ValueError: it is no whole number, below 1 or above the number of processors, or the device is no CPU.
    """
    if count is None:
        return
    most = os.cpu_count() or 1
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= most:
        raise ValueError(
            f"num_threads is {count!r}, expected 1..{most}, as this machine has {most} processors, or None for as many "
            "as torch.set_num_threads says"
        )
    if torch.device(device).type != "cpu":
        raise ValueError(f"num_threads is of engines on the CPU, this one is for {device!r}; leave it out")


def callers_at_once() -> int:
    """How many callers may compute at the same time, each with as many threads as torch has now, on this machine."""
    return max(1, min(MOST_CALLERS, (os.cpu_count() or 1) // torch.get_num_threads()))


@contextmanager
def using(count: int | None) -> Iterator[None]:
    """Let the Python thread that calls compute with ``count`` threads; None leaves it as it is.

    Raises:
        EngineError: this torch does not compute with OpenMP.
    """
    if count is None:
        yield
        return
    set_openmp, set_mkl = _setters()
    before = torch.get_num_threads()  # also has torch set up this thread, which would otherwise undo ours later
    set_openmp(count)
    mkl_before = set_mkl(count)
    try:
        yield
    finally:
        set_openmp(before)
        set_mkl(mkl_before)


def limited(run: Run, count: int | None) -> Run:
    """``run`` with ``count`` threads in every call; itself for None."""
    if count is None:
        return run

    def call(*inputs: Tensor) -> Mapping[str, Tensor]:
        with using(count):
            return run(*inputs)

    return call


@cache
def _setters() -> tuple[Callable[[int], object], Callable[[int], int]]:
    """What sets OpenMP's and MKL's number for the calling thread; MKL's returns the one before, 0 for none."""
    folder = Path(torch.__file__).parent / "lib"
    paths = [folder / name for name in _LIBRARIES if (folder / name).is_file()]
    # PyDLL, which keeps Python's lock: these take less time than letting go of it
    library = ctypes.PyDLL(str(paths[0])) if paths else None  # looks into what torch itself is linked with, too
    if library is None or not hasattr(library, "omp_set_num_threads"):
        raise EngineError(
            f"num_threads needs a PyTorch that computes with OpenMP, and {torch.__version__} here does not; leave it "
            "out, and call torch.set_num_threads"
        )
    set_mkl = getattr(library, "MKL_Set_Num_Threads_Local", None)
    return library.omp_set_num_threads, set_mkl or (lambda count: 0)
