"""Line charts, bar charts and heat maps as inline SVG: 360 units wide, so that text keeps its size on a phone.

Colours are classes of ``style.py``. Lines differ in marker and dash too, cells of a heat map hold their number, every
point has its value as a tooltip, and every figure its numbers in a table.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from albert_fast.report.axes import Axis, Scale, scale
from albert_fast.report.markup import Markup, cut, number, place, tag
from albert_fast.report.tables import Cell, figure, picture, table

WIDTH = 360
COLORS = 8
_NARROW, _WIDE = frozenset("ijlt.,:;'|!()[] "), frozenset("mw%+ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_LONGEST = 26  # letters of a name beside a picture; its tooltip and the table have all of it
_ROW, _HEIGHT = 22, 236
_FEW = 4
_MARKERS = (
    "M-3.2,0a3.2,3.2 0 1,0 6.4,0a3.2,3.2 0 1,0 -6.4,0Z",
    "M-3,-3H3V3H-3Z",
    "M0,-4L3.8,3H-3.8Z",
    "M0,-4.2L4.2,0L0,4.2L-4.2,0Z",
    "M0,4L3.8,-3H-3.8Z",
    "M-1.2,-4H1.2V-1.2H4V1.2H1.2V4H-1.2V1.2H-4V-1.2H-1.2Z",
)
_DASHES = {"solid": None, "dashed": "6 4", "dotted": "1.5 3.5"}


@dataclass(frozen=True)
class Line:
    """A named line of ``(x, y)`` points; points that are not finite are left out.

    Attributes:
        color: 0..7, and with it the marker; the line's place in the chart unless given.
        dash: ``"solid"``, ``"dashed"`` or ``"dotted"``.
        marked: whether its points have markers and tooltips; a limit has none.
        band: another ``y`` for each point; what lies between is shaded.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    color: int | None = None
    dash: str = "solid"
    marked: bool = True
    band: tuple[float, ...] = ()


@dataclass(frozen=True)
class Bar:
    """A named value, and where it may lie between; ``text`` stands in the place of the value."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    text: str = ""
    color: int = 0


@dataclass(frozen=True)
class Grid:
    """Values of a heat map, ``values[row][column]``; None where there is none."""

    row_label: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    axis: Axis = field(default_factory=lambda: Axis("value"))


def line_chart(title: str, lines: Sequence[Line], *, x: Axis, y: Axis, note: str = "") -> Markup:
    """Lines over a common axis, with a legend.

    Args:
        title: what is shown.
        lines: those without points are left out.
        x, y: the axes; a logarithmic one shows values above 0 only.
        note: what else a reader must know.
    """
    bottom = _HEIGHT - 38
    chosen = [(line, [p for p in line.points if _shown(p, x, y)]) for line in lines]
    drawn = [(line, points) for line, points in chosen if points]
    ys = [value for line, points in drawn for value in (*(p[1] for p in points), *line.band)]
    vertical = scale(y, ys, bottom, 20)
    ticks = [(value, y.tick(value)) for value in vertical.ticks()]
    left = 14 + max([_width(text) for _, text in ticks], default=6)
    across = scale(x, (p[0] for _, points in drawn for p in points), left, WIDTH - 10)
    parts = [tag("text", y.title, x=2, y=11, class_="label")]
    free = math.inf
    for value, text in ticks:
        height = vertical.place(value)
        parts.append(tag("path", d=f"M{place(left)},{place(height)}H{WIDTH - 10}", class_="grid"))
        if height + 6 < free:  # what would touch the value below is left out
            parts.append(tag("text", text, x=left - 5, y=height + 4, class_="tick", text_anchor="end"))
            free = height - 6
    parts += _bottom(across, bottom, x)
    for index, (line, points) in enumerate(drawn):
        parts.append(_line(line, points, index, across, vertical))
    description = f"{y.title} by {x.title}. " + " ".join(_in_words(line, points, y) for line, points in drawn)
    legend = [_legend_entry(line, index, len(drawn)) for index, (line, _) in enumerate(drawn)]
    numbers = table(title, [x.title, *(line.name for line, _ in drawn)], _by_x([line for line, _ in drawn], x, y))
    return figure(title, picture(title, description, WIDTH, _HEIGHT, parts), numbers, legend=legend, note=note)


def bar_chart(title: str, bars: Sequence[Bar], *, axis: Axis, note: str = "") -> Markup:
    """Horizontal bars from 0, or dots where the axis does not begin there, each with its value written behind it."""
    texts = [bar.text or axis.text(bar.value) for bar in bars]
    names = [cut(bar.name, _LONGEST) for bar in bars]
    left = 8 + max(map(_width, names), default=0)
    right = WIDTH - 10 - max(map(_width, texts), default=0)
    ends = [v for bar in bars for v in (bar.value, bar.low, bar.high) if v is not None]
    across = scale(axis, ends, left, right)
    height = _ROW * len(bars) + 40
    parts: list[Markup] = []
    for value in across.ticks(4):
        x = across.place(value)
        parts.append(tag("path", d=f"M{place(x)},2V{height - 36}", class_="grid"))
        parts.append(tag("text", axis.tick(value), x=x, y=height - 22, class_="tick", text_anchor="middle"))
    parts.append(tag("text", axis.title, x=(left + right) / 2, y=height - 6, class_="label", text_anchor="middle"))
    for index, (bar, name, text) in enumerate(zip(bars, names, texts, strict=True)):
        parts.append(_bar(bar, name, text, _ROW * index + 13, across))
    columns = ["", axis.title] + (["from", "to"] if any(bar.low is not None for bar in bars) else [])
    rows = [[bar.name, number(bar.value, axis.digits), bar.low, bar.high][: len(columns)] for bar in bars]
    spoken = f"{axis.title}: " + ", ".join(f"{bar.name} {text}" for bar, text in zip(bars, texts, strict=True)) + "."
    return figure(title, picture(title, spoken, WIDTH, height, parts), table(title, columns, rows), note=note)


def heat_map(title: str, grid: Grid, *, note: str = "") -> Markup:
    """Cells whose shade says how large their number is, and which hold it; the darkest is the largest."""
    known = [v for row in grid.values for v in row if v is not None and math.isfinite(v)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    left = 10 + max(_width(cut(name, _LONGEST)) for name in (grid.row_label, *grid.rows))
    width = (WIDTH - 2 - left) / len(grid.columns)
    heads = [_wrapped(name, width - 2) for name in grid.columns]
    top = 10 + 13 * max(len(lines) for lines in heads)
    parts = [tag("text", grid.row_label, x=2, y=top - 6, class_="label")]
    for column, lines in enumerate(heads):
        for above, text in enumerate(reversed(lines)):
            x, y = left + width * (column + 0.5), top - 6 - 13 * above
            parts.append(tag("text", text, x=x, y=y, class_="tick", text_anchor="middle"))
    for index, (name, values) in enumerate(zip(grid.rows, grid.values, strict=True)):
        y = top + _ROW * index
        parts.append(tag("text", cut(name, _LONGEST), x=left - 6, y=y + 15, class_="tick", text_anchor="end"))
        for column, value in enumerate(values):
            words = f"{name}, {grid.columns[column]}: {grid.axis.text(value)}"
            share = 0.0 if value is None else (value - low) / ((high - low) or 1.0)
            parts.append(_heat_cell(value, share, left + width * column, y, width, words))
    subject = grid.axis.title[:1].upper() + grid.axis.title[1:]
    spoken = f"{subject}: from {number(low)} to {number(high)}; the darker, the larger."
    rows = [[name, *values] for name, values in zip(grid.rows, grid.values, strict=True)]
    numbers = table(title, [grid.row_label, *grid.columns], rows)
    svg = picture(title, spoken, WIDTH, top + _ROW * len(grid.rows) + 2, parts)
    return figure(title, svg, numbers, note=f"{spoken} {note}".strip())


def _line(line: Line, points: list[tuple[float, float]], index: int, across: Scale, up: Scale) -> Markup:
    """A line's band, its path and its markers, in one group."""
    color = _color(line, index)
    placed = [(across.place(x), up.place(y)) for x, y in points]
    parts = []
    if line.band:
        other = {x: y for (x, _), y in zip(line.points, line.band, strict=True)}
        back = [(across.place(x), up.place(other[x])) for x, _ in reversed(points)]
        parts.append(tag("path", d=f"{_path([*placed, *back])}Z", class_="band"))
    parts.append(tag("path", d=_path(placed), class_="line", stroke_dasharray=_DASHES[line.dash]))
    if line.marked:
        for (x, y), (px, py) in zip(points, placed, strict=True):
            words = f"{line.name}: {up.axis.text(y)} at {across.axis.label} {across.axis.text(x)}"
            shape = {"d": _MARKERS[color % len(_MARKERS)], "transform": f"translate({place(px)} {place(py)})"}
            parts.append(tag("path", tag("title", words), class_="mark", **shape))
    return tag("g", *parts, class_=f"c{color} s s{index}")


def _legend_entry(line: Line, index: int, count: int) -> Markup:
    """A line's colour, dash and marker beside its name; pointing at it dims the other lines where there are many."""
    color = _color(line, index)
    parts = [tag("path", d="M1,6H27", class_="line", stroke_dasharray=_DASHES[line.dash])]
    if line.marked:
        parts.append(tag("path", d=_MARKERS[color % len(_MARKERS)], transform="translate(14 6)", class_="mark"))
    swatch = tag("svg", *parts, viewBox="0 0 28 12", class_=f"swatch c{color}", aria_hidden="true")
    return tag("li", swatch, line.name, class_=f"k{index}", tabindex="0" if count > _FEW else None)


def _bottom(across: Scale, y: float, axis: Axis) -> list[Markup]:
    """The axis below: a line, its values, its title."""
    parts = [tag("path", d=f"M{place(across.start)},{place(y)}H{place(across.end)}", class_="axis")]
    free = -math.inf
    for value in across.ticks(6):
        x, text = across.place(value), axis.tick(value)
        half = _width(text) / 2
        if x - half > free:  # what would run into its neighbour is left out
            parts.append(tag("text", text, x=x, y=y + 15, class_="tick", text_anchor="middle"))
            free = x + half + 4
    middle = (across.start + across.end) / 2
    return [*parts, tag("text", axis.title, x=middle, y=y + 31, class_="label", text_anchor="middle")]


def _bar(bar: Bar, name: str, text: str, y: float, across: Scale) -> Markup:
    """One bar or dot with its whiskers, its name before and its value behind it."""
    start, end = across.start, across.place(bar.value)
    parts = [tag("title", f"{bar.name}: {text}"), tag("text", name, x=start - 6, y=y + 4, text_anchor="end")]
    if across.axis.from_zero:
        parts.append(tag("path", d=f"M{place(start)},{place(y - 7)}H{place(end)}V{place(y + 7)}H{place(start)}Z"))
    else:
        parts.append(tag("path", d=_MARKERS[0], transform=f"translate({place(end)} {place(y)})"))
    if bar.low is not None and bar.high is not None:
        low, high = across.place(bar.low), across.place(bar.high)
        ends = f"M{place(low)},{place(y - 4)}V{place(y + 4)}M{place(high)},{place(y - 4)}V{place(y + 4)}"
        parts.append(tag("path", d=f"M{place(low)},{place(y)}H{place(high)}{ends}", class_="whisker"))
        end = max(end, high)
    parts.append(tag("text", text, x=end + 6, y=y + 4))
    return tag("g", *parts, class_=f"bar c{bar.color % COLORS}")


def _heat_cell(value: float | None, share: float, x: float, y: float, width: float, words: str) -> Markup:
    """A square in one of ten shades, its number where there is room for it."""
    text = number(value, 2)
    parts = [tag("title", words), tag("rect", x=x, y=y, width=width - 1.5, height=_ROW - 1.5, rx=2)]
    if _width(text) <= width:
        parts.append(tag("text", text, x=x + width / 2, y=y + 15, text_anchor="middle"))
    shade = "none" if value is None or not math.isfinite(value) else str(min(9, int(share * 10)))
    return tag("g", *parts, class_=f"h h{shade}")


def _shown(point: tuple[float, float], x: Axis, y: Axis) -> bool:
    return all(math.isfinite(v) and (v > 0 or not axis.log) for v, axis in zip(point, (x, y), strict=True))


def _color(line: Line, index: int) -> int:
    return (index if line.color is None else line.color) % COLORS


def _path(points: list[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{place(x)},{place(y)}" for x, y in points)


def _in_words(line: Line, points: list[tuple[float, float]], y: Axis) -> str:
    """A line as a sentence, for who cannot see it."""
    values = [value for _, value in points]
    if len(set(values)) == 1:
        return f"{line.name}: {y.text(values[0])} throughout."
    return (
        f"{line.name}: from {y.text(values[0])} to {y.text(values[-1])}, between {y.text(min(values))} "
        f"and {y.text(max(values))}."
    )


def _by_x(lines: list[Line], x: Axis, y: Axis) -> list[list[Cell]]:
    """The points of all lines as rows of a table, one for each ``x``; also those that the picture has no place for."""
    values = [dict(line.points) for line in lines]
    everywhere = sorted({position for one in values for position in one})
    return [[x.tick(position), *(number(one.get(position), y.digits) for one in values)] for position in everywhere]


def _width(text: str) -> float:
    """How wide a text is at the charts' size in a wide font; in others it is less."""
    return sum(4.2 if letter in _NARROW else 8.2 if letter in _WIDE else 6.8 for letter in text)


def _wrapped(name: str, width: float) -> list[str]:
    """A name in lines of this width, broken behind dots, underscores, hyphens and spaces; at most three."""
    lines = [""]
    for piece in re.findall(r"[^._\- ]*[._\- ]?", name):
        if lines[-1] and _width(lines[-1] + piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return [cut(line.strip(), max(int(width / 6), 1)) for line in lines[:3]]
