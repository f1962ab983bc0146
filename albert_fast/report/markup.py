"""HTML and SVG as strings that are safe by construction: text is escaped unless it is ``Markup`` already."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable

_UNWRITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_VOID = {"meta", "br"}
_DIGITS = 3


class Markup(str):
    """Text that is HTML: what ``tag`` returned, or a constant of ours. Never somebody else's."""

    __slots__ = ()


def escaped(text: str) -> Markup:
    """Text as an element holds it; characters that no page can hold become the replacement character."""
    return text if isinstance(text, Markup) else Markup(html.escape(_UNWRITABLE.sub("\ufffd", text), quote=True))


def joined(parts: Iterable[str], separator: str = "") -> Markup:
    """Several pieces as one, each escaped unless it is markup."""
    return Markup(separator.join(escaped(part) for part in parts))


def tag(name: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """An element.

    Args:
        name: of the element.
        children: what it holds; a plain string is escaped.
        attributes: ``class_`` is written ``class`` and ``stroke_width`` ``stroke-width``; None is left out. Numbers
            are rounded to a hundredth, which is finer than a screen shows.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(str(value)) if isinstance(value, str) else place(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{joined(children)}</{name}>")


def place(value: float) -> str:
    """A coordinate, as short as it can be written: ``12.5``, ``3``."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if value == value else "0"


def number(value: float | None, digits: int = _DIGITS) -> str:
    """A number with so many significant digits, for people: ``12,300``, ``0.0451``, ``2.3e-07``; a dash for None."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value == 0 or isinstance(value, int):
        return f"{value:,}" if isinstance(value, int) else "0"
    exponent = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if not -4 <= exponent <= 8:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{max(0, digits - 1 - exponent)}f}"


def trimmed(value: float, digits: int = _DIGITS) -> str:
    """``number`` without closing zeros, for the round values beside an axis: ``0.5``, ``2e-06``."""
    text, mark, exponent = number(value, digits).partition("e")
    return (text.rstrip("0").rstrip(".") if "." in text else text) + mark + exponent


def percent(share: float, decimals: int = 1) -> str:
    """A share as per cent: ``81.9 %``, with a space that no line breaks at."""
    return f"{100 * share:.{decimals}f}\N{NO-BREAK SPACE}%"


def cut(text: str, length: int) -> str:
    """The text, or its beginning and an ellipsis where it is longer."""
    return text if len(text) <= length else text[: length - 1] + "…"
