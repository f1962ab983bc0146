"""A stream of CUDA work beside the caller's: ordered after what the caller has queued, before what it queues next."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor


class Gpu:
    """One CUDA device and the stream on which an engine works there.

    TensorRT synchronizes on the default stream, and a CUDA graph cannot be recorded on it. So the engine has a stream
    of its own. What the caller gives and gets is allocated on its stream, outside ``after_caller``, so that memory it
    frees is given out again only after the engine has done with it; what only the engine sees, inside.
    """

    def __init__(self, device: str) -> None:
        wanted = torch.device(device)
        index = torch.cuda.current_device() if wanted.index is None else wanted.index
        self.device = torch.device("cuda", index)
        self._stream = torch.cuda.Stream(self.device)

    def selected(self) -> AbstractContextManager[Any]:
        """Make this the current device of the thread."""
        return torch.cuda.device(self.device)

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A new tensor on the device."""
        return torch.empty(shape, dtype=dtype, device=self.device)

    @contextmanager
    def after_caller(self) -> Iterator[int]:
        """Work on the engine's stream; gives its handle. The caller's stream waits for what is queued there."""
        caller = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(caller)
        try:
            with torch.cuda.stream(self._stream):
                yield int(self._stream.cuda_stream)
        finally:
            caller.wait_stream(self._stream)

    def record(self, launch: Callable[[], None]) -> Callable[[], None]:
        """Record what ``launch`` queues as a CUDA graph; gives what replays it. Call within ``after_caller``.

        ``thread_local``: other threads may go on allocating meanwhile. One that draws random numbers on this device in
        these milliseconds gets an error from torch.
        """
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            launch()
        finally:
            graph.capture_end()
        return graph.replay

    def synchronize(self) -> None:
        """Wait until the engine's stream has nothing left to do."""
        self._stream.synchronize()
