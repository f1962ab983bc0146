"""Progress on stderr: a line per stage, with a running clock where a terminal can show one."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from types import TracebackType
from typing import Self, TextIO

_FRAMES = "|/-\\"
_REDRAW_S = 0.2


class Progress:
    """A context manager that is called with the name of each stage as it begins.

    On a terminal the present stage is redrawn with its seconds and gets ``ok`` when the next begins, or ``failed``.
    Elsewhere each stage is one plain line, written as it begins.

    Args:
        stream: None means stderr.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._began = time.perf_counter()
        self._stage: str | None = None
        self._stage_began = self._began
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._clock: threading.Thread | None = None

    def __call__(self, stage: str) -> None:
        """Begin a stage, which ends the one before."""
        with self._lock:
            self._end("ok")
            self._stage, self._stage_began = stage, time.perf_counter()
            if self._terminal:
                self._draw(0)
            else:
                self._write(f"[{self._stage_began - self._began:6.1f} s] {stage}\n")

    def step(self, stage: str) -> None:
        """Change the words of the present stage without ending it: ``"timing 3/40"``. Shown on a terminal only."""
        with self._lock:
            self._stage = stage

    def __enter__(self) -> Self:
        if self._terminal:
            self._clock = threading.Thread(target=self._tick, daemon=True)
            self._clock.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._clock is not None:
            self._clock.join()
        with self._lock:
            self._end("ok" if kind is None else "failed")
            if not self._terminal and kind is None:
                self._write(f"[{time.perf_counter() - self._began:6.1f} s] done\n")

    def _end(self, how: str) -> None:
        if self._terminal and self._stage is not None:
            self._write(f"\r\x1b[2K  {how:<6} {self._seconds():6.1f} s  {self._stage}\n")
        self._stage = None

    def _tick(self) -> None:
        frame = 0
        while not self._stop.wait(_REDRAW_S):
            frame += 1
            with self._lock:
                if self._stage is not None:
                    self._draw(frame)

    def _draw(self, frame: int) -> None:
        line = f"  {_FRAMES[frame % len(_FRAMES)]:<6} {self._seconds():6.1f} s  {self._stage}"
        # A line that wraps could not be drawn over.
        self._write("\r\x1b[2K" + line[: shutil.get_terminal_size().columns - 1])

    def _seconds(self) -> float:
        return time.perf_counter() - self._stage_began

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
