"""Axes: from values to places on the paper, and the few round values that are written beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from albert_fast.report.markup import number, trimmed

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Axis:
    """What an axis shows.

    Attributes:
        label: what is measured; ``unit`` stands behind it and behind every value.
        log: equal ratios take equal space. Values that are not above 0 have no place on it.
        from_zero: a linear axis begins at 0, as bars need it.
        values: the values to write, where they are known, such as lengths that were measured.
        names: what to write for each of ``values`` instead of its number.
        digits: significant digits of a value in tooltips and tables.
    """

    label: str
    unit: str = ""
    log: bool = False
    from_zero: bool = False
    values: tuple[float, ...] = ()
    names: tuple[str, ...] = ()
    digits: int = 3

    def text(self, value: float | None) -> str:
        """A value with its unit."""
        if value is None:
            return number(None)
        written = self.tick(value) if value in self.values else number(value, self.digits)
        return f"{written}\N{NO-BREAK SPACE}{self.unit}" if self.unit else written

    def tick(self, value: float) -> str:
        """A value as it stands beside the axis: its name, or its number as short as can be."""
        return dict(zip(self.values, self.names, strict=False)).get(value) or trimmed(value, max(3, self.digits))

    @property
    def title(self) -> str:
        """The label with its unit."""
        return f"{self.label}, {self.unit}" if self.unit else self.label


@dataclass(frozen=True)
class Scale:
    """An axis with ends: ``low`` lies at ``start`` on the paper, ``high`` at ``end``."""

    axis: Axis
    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        """Where a value lies; what is beyond an end, or has no logarithm, lies on that end."""
        low, high = self.low, self.high
        if self.axis.log:
            value, low, high = (math.log(max(v, self.low)) for v in (value, low, high))
        share = (value - low) / (high - low)
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """About so many round values within the ends."""
        if self.axis.values:
            return [value for value in self.axis.values if self.low <= value <= self.high]
        return _decades(self.low, self.high, count) if self.axis.log else _round_steps(self.low, self.high, count)


def scale(axis: Axis, values: Iterable[float], start: float, end: float) -> Scale:
    """A scale on which all finite values have a place, with a little air above and, if it may, below."""
    found = [v for v in (*values, *axis.values) if math.isfinite(v) and (v > 0 or not axis.log)]
    low, high = (min(found), max(found)) if found else (1.0, 1.0)
    if axis.log:
        air = max((high / low) ** 0.04, 1.02)
        return Scale(axis, low / air, high * air, start, end)
    if axis.from_zero:
        low = min(low, 0.0)
    air = 0.06 * ((high - low) or abs(high) or 1.0)
    below = 0.0 if axis.from_zero and low == 0.0 else air
    return Scale(axis, low - below, high + air, start, end)


def _round_steps(low: float, high: float, count: int) -> list[float]:
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * s for s in _STEPS if power * s >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{step * i:.12g}") for i in range(first, last + 1)]


def _decades(low: float, high: float, count: int) -> list[float]:
    """1, 2 and 5 of every decade, or 1 and 3, or only the powers of ten, whichever does not crowd the axis."""
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for parts in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 2, 3, 4, 5, 6, 7, 8, 9)):
        finer = [float(f"{part}e{e}") for e in exponents for part in parts]
        finer = [value for value in finer if low <= value <= high]
        if found and len(finer) > count + 2:
            break
        found = finer or found
    every = max(1, math.ceil(len(found) / (count + 2)))
    return found[::every] if len(found) > 2 else _round_steps(low, high, count)
