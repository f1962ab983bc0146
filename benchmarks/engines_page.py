"""The page benchmarks/results/engines.html: the figures of engines.json as charts, one model after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from engine_tables import shape_of

from albert_fast.cli.workload import Shape
from albert_fast.report.axes import Axis
from albert_fast.report.charts import Bar, Grid, Line, bar_chart, heat_map, line_chart
from albert_fast.report.markup import Markup, number
from albert_fast.report.page import Section, page
from albert_fast.report.tables import Cell, card, table

Row = dict[str, Any]
MOST_COLUMNS = 8
"""Of a heat map beside engines' names."""
MILLISECONDS = Axis("p50 latency", "ms", from_zero=True)
ONCE = {
    "file_bytes": ("File size", "MB", 1e-6),
    "build_s": ("Build time", "s", 1.0),
    "load_ms": ("Load time", "ms", 1.0),
}
"""What is measured once an engine: key in a row, title, unit, and the factor to it. Shown where a row has it."""


def engines_page(document: dict[str, Any], conditions: str) -> str:
    """The page's text.

    Args:
        document: of ``benchmarks/results/engines.json``.
        conditions: under which the figures hold, in a sentence.
    """
    sections = []
    for model in dict.fromkeys(row["model"] for row in document["rows"]):
        rows = [row for row in document["rows"] if row["model"] == model]
        said = [_fastest(rows, document["baseline"]), *_left_out(document, model)]
        sections.append(Section(model, tuple(said), tuple(_charts(rows, document))))
    facts = [
        ("measured", f"{document['what']}"),
        ("conditions", conditions),
        ("load average", f"{document['load_average']} on {document['cores']} cores"),
        ("versions", ", ".join(f"{name} {version}" for name, version in document["versions"].items() if version)),
    ]
    return page("How fast the engines are", sections, facts=facts)


def _charts(rows: list[Row], document: dict[str, Any]) -> Iterator[Markup]:
    shapes = list(dict.fromkeys(map(shape_of, rows)))
    for shape in shapes:
        mine = [row for row in rows if shape_of(row) == shape]
        yield _latency(mine, _title(shape), document["baseline"])
    even = [row for row in rows if not shape_of(row).mixed]
    for precision in dict.fromkeys(row["precision"] for row in rows):
        yield from _curves([row for row in even if row["precision"] == precision], precision)
    yield from _shares(rows, shapes)
    yield from _steadiness(rows, shapes)
    for key in ONCE:
        yield from _once(rows, key)
    yield _differences(rows, shapes)


def _title(shape: Shape) -> str:
    return f"Batch {shape.batch}, length {shape.length}" + (", texts of mixed lengths" if shape.mixed else "")


def _latency(rows: list[Row], title: str, baseline: str) -> Markup:
    """Every engine at one shape, the fastest first."""
    bars = [
        Bar(
            row["engine"],
            row["p50_ms"],
            row["p50_ms"],
            row["p95_ms"],
            f"{number(row['p50_ms'])} ms" + ("" if row["engine"] == baseline else f" ({row['speedup']:.1f}x)"),
            _color(row, baseline),
        )
        for row in sorted(rows, key=lambda row: row["p50_ms"])
    ]
    note = f"Whisker: p95. In brackets: times as fast as {baseline}, the median over rounds."
    return bar_chart(title, bars, axis=MILLISECONDS, note=note)


def _curves(rows: list[Row], precision: str) -> Iterator[Markup]:
    """Latency by length of one text, and tokens a second by batch, where several lengths or batches were measured."""
    single = [row for row in rows if row["batch"] == 1]
    lengths = tuple(sorted({row["length"] for row in single}))
    if len(lengths) > 1:
        x = Axis("length", "tokens", log=True, values=lengths)
        lines = _lines(single, "length", lambda row: row["p50_ms"])
        yield line_chart(f"One text, {precision}", lines, x=x, y=Axis("p50 latency", "ms", log=True))
    by_length: dict[int, set[int]] = {}
    for row in rows:
        by_length.setdefault(row["length"], set()).add(row["batch"])
    for length, batches in by_length.items():
        if len(batches) > 1:
            x = Axis("batch", "texts", log=True, values=tuple(sorted(batches)))
            lines = _lines([row for row in rows if row["length"] == length], "batch", lambda row: row["tokens_per_s"])
            y = Axis("tokens per second", from_zero=True)
            yield line_chart(f"Throughput at length {length}, {precision}", lines, x=x, y=y)


def _lines(rows: list[Row], key: str, value: Callable[[Row], float]) -> list[Line]:
    engines = dict.fromkeys(row["engine"] for row in rows)
    return [
        Line(
            engine,
            tuple((row[key], value(row)) for row in rows if row["engine"] == engine),
            dash=("solid", "dashed", "dotted")[index // 8 % 3],
        )
        for index, engine in enumerate(engines)
    ]


def _shares(rows: list[Row], shapes: list[Shape]) -> Iterator[Markup]:
    """How near each engine comes to the machine's own matrix products in its precision."""
    ceilings = {row["precision"]: row["ceiling_gflop_per_s"] for row in rows}
    if len(set(ceilings.values())) == 1:  # only float32's ceiling was measured
        ceilings = {name: limit for name, limit in ceilings.items() if name == "fp32"}
    shown = [row for row in rows if row["precision"] in ceilings]
    if not shown:
        return
    limits = ", ".join(f"{name} {limit:.0f} GFLOP/s" for name, limit in ceilings.items())
    note = f"1 is the best matrix product in this run: {limits}."
    label = "share of the machine's matrix products"
    yield from _maps("Share of the machine's limit", shown, shapes, label, lambda row: row["share_of_ceiling"], note)


def _steadiness(rows: list[Row], shapes: list[Shape]) -> Iterator[Markup]:
    """How much longer the slowest calls take than the middle one."""
    shown = [row for row in rows if "p99_ms" in row]
    if shown:
        note, label = "1 is a call that always takes the same time.", "99th percentile by median"
        yield from _maps("Steadiness", shown, shapes, label, lambda row: row["p99_ms"] / row["p50_ms"], note)


def _maps(
    title: str, rows: list[Row], shapes: list[Shape], label: str, value: Callable[[Row], float], note: str
) -> Iterator[Markup]:
    """An engine a row, a shape a column, empty where it was not timed; where shapes are many, a map a batch size."""
    values = {(row["engine"], shape_of(row)): value(row) for row in rows}
    engines = tuple(dict.fromkeys(row["engine"] for row in rows))
    groups: dict[str, list[Shape]] = {}
    for shape in shapes:
        kind = "mixed lengths" if shape.mixed else f"batch {shape.batch}"
        groups.setdefault(f"{title}, {kind}" if len(shapes) > MOST_COLUMNS else title, []).append(shape)
    for name, columns in groups.items():
        cells = tuple(tuple(values.get((engine, shape)) for shape in columns) for engine in engines)
        heads = tuple(str(shape).replace("x", " x ", 1) for shape in columns)  # may be broken at spaces
        yield heat_map(name, Grid("engine", engines, heads, cells, Axis(label)), note=note)


def _once(rows: list[Row], key: str) -> Iterator[Markup]:
    """What does not depend on the shape."""
    title, unit, factor = ONCE[key]
    values = {row["engine"]: row for row in rows if row.get(key)}
    if values:
        bars = [Bar(name, row[key] * factor, color=_color(row, "")) for name, row in values.items()]
        yield bar_chart(title, bars, axis=Axis(title.lower(), unit, from_zero=True))


def _differences(rows: list[Row], shapes: list[Shape]) -> Markup:
    """How far the answers are apart that were timed."""
    values = {(row["engine"], shape_of(row)): row["max_abs_difference"] for row in rows}
    lines: list[list[Cell]] = [
        [engine, *(values.get((engine, shape)) for shape in shapes)]
        for engine in dict.fromkeys(row["engine"] for row in rows)
    ]
    columns = ["engine", *map(str, shapes)]
    return card("Largest difference of a logit", table("From the baseline's, before timing", columns, lines))


def _fastest(rows: list[Row], baseline: str) -> str:
    """The fastest engine of every shape, in a sentence."""
    said = []
    for shape in dict.fromkeys(map(shape_of, rows)):
        best = min((row for row in rows if shape_of(row) == shape), key=lambda row: row["p50_ms"])
        said.append(f"{shape} {best['engine']} {number(best['p50_ms'])} ms ({best['speedup']:.1f}x)")
    return f"Fastest at batch x length, and times as fast as {baseline}: {'; '.join(said)}."


def _left_out(document: dict[str, Any], model: str) -> Iterator[str]:
    """What was not timed and why, in a sentence."""
    rows = [row for row in document.get("left_out", ()) if row["model"] == model]
    if rows:
        said = "; ".join(f"{row['engine']} at {shape_of(row)}: {row['left_out']}" for row in rows)
        yield f"Not timed: {said}."


def _color(row: Row, baseline: str) -> int:
    """One colour a precision; the baseline has its own."""
    colors = {"fp32": 0, "bf16": 1, "int8": 2, "fp16": 3}
    return 7 if row["engine"] == baseline else colors.get(row["precision"], 4)
