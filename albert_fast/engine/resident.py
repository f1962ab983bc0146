"""What a loaded engine file holds in memory beside what it computes with."""

from __future__ import annotations

import ctypes
from pathlib import Path

_PAGE_OUT = 21
"""``MADV_PAGEOUT`` of <linux/mman.h>, since Linux 5.4; Python's mmap module has no name for it."""


def page_out(part: str) -> int:
    """Give back the memory of mapped files' read-only stretches: what is touched again is read from the file again.

    It is advice and changes no content, relocated pages among them. Elsewhere than on Linux nothing happens.

    Args:
        part: of the path of the files that are meant.
    Returns:
        How many stretches the system took the advice for.
    """
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return 0
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    taken = 0
    for line in lines:
        addresses, access, *_ = line.split(maxsplit=5)
        if access == "r--p" and part in line:
            start, end = (int(address, 16) for address in addresses.split("-"))
            taken += advise(start, end - start, _PAGE_OUT) == 0
    return taken
