"""Aligned columns for a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, align: str, indent: int = 2) -> str:
    """Rows under a header, with a rule between them.

    Args:
        align: one letter per column: ``l`` left, ``r`` right.
    Returns:
        Lines joined by newlines, without one at the end.
    """
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    if any(len(row) != len(align) for row in cells):
        raise ValueError(f"every row needs {len(align)} cells, found {sorted({len(row) for row in cells})}")
    widths = [max(_width(row[column]) for row in cells) for column in range(len(align))]
    lines = [
        "  ".join(_padded(cell, width, side) for cell, width, side in zip(row, widths, align, strict=True)).rstrip()
        for row in cells
    ]
    rule = "  ".join("-" * width for width in widths)
    return "\n".join(" " * indent + line for line in (lines[0], rule, *lines[1:]))


def facts(pairs: Sequence[tuple[str, str]], *, indent: int = 2) -> str:
    """Names and values in two columns."""
    width = max((_width(name) for name, _ in pairs), default=0)
    return "\n".join(" " * indent + _padded(name, width, "l") + "  " + value for name, value in pairs)


def _width(text: str) -> int:
    """Columns that text takes: wide East Asian characters take two, combining marks none."""
    return sum(
        0 if unicodedata.combining(character) else 1 + (unicodedata.east_asian_width(character) in "WF")
        for character in text
    )


def _padded(text: str, width: int, side: str) -> str:
    space = " " * (width - _width(text))
    return space + text if side == "r" else text + space
