"""What TensorRT says while it works: kept for the errors and figures in it, or passed to ``logging``; and its progress.

TensorRT takes one logger for a whole process, so there is one for each module, and whoever works listens to it for a
while. Messages come from the thread that works; those of other threads belong to the build, which may start threads.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

ERROR, WARNING = 1, 2
_LEVELS = {0: logging.ERROR, ERROR: logging.ERROR, WARNING: logging.WARNING}
_log = logging.getLogger(__name__)


@dataclass
class Record:
    """Messages that were heard, oldest first: ``(severity, text)``; severity 0 and 1 are errors, 2 are warnings."""

    messages: list[tuple[int, str]] = field(default_factory=list)

    def errors(self) -> list[str]:
        """What went wrong, each in one line, the causes before what follows from them."""
        lines = [one_line(text) for severity, text in self.messages if severity <= ERROR]
        told = [line for line in lines if line and not _SAYS_NOTHING.search(line)]
        return list(dict.fromkeys(told or lines))

    def starting(self, words: str) -> list[str]:
        """Texts that start with ``words``."""
        return [text for _, text in self.messages if text.startswith(words)]


class Listeners:
    """Who hears what the logger of one module says."""

    def __init__(self) -> None:
        self._by_thread: dict[int, Record] = {}
        self._build: Record | None = None
        self._building = threading.Lock()

    def hear(self, severity: int, text: str) -> None:
        """Called by TensorRT from any thread. It must not raise: what is raised here is lost."""
        record = self._by_thread.get(threading.get_ident()) or self._build
        if record is not None:
            record.messages.append((severity, text))
        elif severity in _LEVELS:
            _log.log(_LEVELS[severity], "%s", one_line(text))

    @contextmanager
    def this_thread(self) -> Iterator[Record]:
        """Listen to what this thread's calls say."""
        thread = threading.get_ident()
        before, record = self._by_thread.get(thread), Record()
        self._by_thread[thread] = record
        try:
            yield record
        finally:
            if before is None:
                del self._by_thread[thread]
            else:
                self._by_thread[thread] = before

    @contextmanager
    def build(self) -> Iterator[Record]:
        """Listen to all threads that nobody else listens to. One build at a time; another one waits."""
        with self._building:
            self._build = Record()
            try:
                yield self._build
            finally:
                self._build = None


@cache
def listeners(module: Any) -> Listeners:
    """The listeners of a module's logger."""
    return Listeners()


@cache
def logger(module: Any) -> Any:
    """The one ``ILogger`` of a module. It lives as long as the process: TensorRT objects keep a pointer to it."""

    class Logger(module.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            module.ILogger.__init__(self)

        def log(self, severity: Any, msg: str) -> None:
            listeners(module).hear(int(severity), msg)

    return Logger()


def one_line(text: str) -> str:
    """A message without line breaks, source positions, error codes and the name of the function that complains."""
    flat = " ".join(text.split())
    for pattern in _DECORATION:
        flat = pattern.sub("", flat)
    flat = flat.strip()
    return flat[1:-1] if flat.startswith("(") and flat.endswith(")") and flat.count("(") == 1 else flat


_DECORATION = (
    re.compile(r"^\[?\w+\.cpp:+\w*:*\d*\]? ?"),  # [checkMacros.cpp::catchCudaError::250], ModelImporter.cpp:140:
    re.compile(r"^: "),
    re.compile(r"^\w+::\w+: (?=Error Code)"),  # IBuilder::buildSerializedNetwork:
    re.compile(r"^Error Code \d+: (API Usage Error|Internal Error)? ?(?=\()"),
    re.compile(r" In [\w() ]+ at /\S*?:\d+(?=\)?$)"),
)
_SAYS_NOTHING = re.compile(
    r"catchCudaError|^While parsing node|^--- (Begin|End) node|^Node name:|^input: |^ERROR: \w+\.cpp|"
    r"Parameter check failed, condition: profile->isValid"
)


def progress_monitor(module: Any, say: Callable[[str], None]) -> Any:
    """An ``IProgressMonitor`` that says in a few words how far a build is, and stops it when ``stop`` is set.

    Args:
        say: called from the thread that builds; must not raise. Nested phases are told when they start, so that a
            build of seconds says a few words and one of minutes says what it is at.
    """

    class Monitor(module.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            self.stop = threading.Event()
            self._outer: dict[str, list[int]] = {}  # phases without a parent: steps done, steps in all

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self._outer[phase_name] = [0, int(num_steps)]
            elif parent_phase in self._outer:
                done, steps = self._outer[parent_phase]
                say(f"{parent_phase.lower()}, step {min(done + 1, steps)} of {steps}: {phase_name.lower()}")

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self._outer:
                self._outer[phase_name][0] = int(step) + 1
            return not self.stop.is_set()

        def phase_finish(self, phase_name: str) -> None:
            self._outer.pop(phase_name, None)

    return Monitor()
