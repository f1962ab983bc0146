"""The tables of benchmarks/results/engines.json, and of others like it, as lines of Markdown: a shape a column."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from albert_fast.cli.workload import Shape

Row = dict[str, Any]
ABSENT = "-"
"""In the place of a figure that was not measured; why is in the table of what was left out."""


def shape_of(row: Row) -> Shape:
    """Of a row; files from before there were mixed batches do not say."""
    return Shape(row["batch"], row["length"], row.get("mixed", False))


def engines(document: dict[str, Any], model: str) -> list[str]:
    """p50 in milliseconds, the speed-up, and the file's size."""
    rows = _rows(document, model)
    sizes = {row["engine"]: f"{row['file_bytes'] / 1e6:.1f}" if row["file_bytes"] else "" for row in rows}

    def cell(row: Row) -> str:
        text = f"{row['p50_ms']:.1f}" if row["p50_ms"] >= 10 else f"{row['p50_ms']:.2f}"
        return text if row["engine"] == document["baseline"] else f"{text} ({row['speedup']:.2f})"

    return _by_shape("p50 ms (x faster)", rows, cell, last=("file MB", sizes))


def shares(document: dict[str, Any], model: str) -> list[str]:
    """Achieved share of the machine's own matrix-product rate in the same precision."""
    rows = _rows(document, model)
    limits = {row["precision"]: row["ceiling_gflop_per_s"] for row in rows}
    named = ", ".join(f"{limit:.0f} in {precision}" for precision, limit in limits.items())
    title = f"share of the GFLOP/s of a matrix product ({named})"
    return _by_shape(title, rows, lambda row: f"{row['share_of_ceiling']:.2f}")


def steadiness(document: dict[str, Any], model: str) -> list[str]:
    """The 99th percentile by the median; empty where a file has no 99th percentile."""
    rows = _rows(document, model)
    if not all("p99_ms" in row for row in rows):
        return []
    return _by_shape("p99 by p50", rows, lambda row: f"{row['p99_ms'] / row['p50_ms']:.2f}")


def made(document: dict[str, Any], model: str) -> list[str]:
    """What it took to build an engine and to load it; empty where a file does not say."""
    rows = {row["engine"]: row for row in _rows(document, model) if row.get("build_s") is not None}
    if not rows:
        return []
    lines = ["| | build s | load to first answer ms |", "|---|---:|---:|"]
    for engine, row in rows.items():
        load = "" if row.get("load_ms") is None else f"{row['load_ms']:.0f}"
        lines.append(f"| {engine} | {row['build_s']:.1f} | {load} |")
    return lines


def left_out(document: dict[str, Any], model: str) -> list[str]:
    """What was not timed at a shape, and why; empty where everything was."""
    rows = [row for row in document.get("left_out", ()) if row["model"] == model]
    lines = ["| not timed | | |", "|---|---|---|"]
    return lines + [f"| {r['engine']} | {shape_of(r)} | {r['left_out']} |" for r in rows] if rows else []


def callers(document: dict[str, Any]) -> list[str]:
    """Of callers.json: texts a second and the 99th percentile, an engine and shape a row, who calls a column."""
    rows = document["rows"]
    situations = list(dict.fromkeys((row["callers"], row["threads"]) for row in rows))
    named = " | ".join(f"{callers} x {threads}" for callers, threads in situations)
    lines = [f"| texts/s (p99 ms), callers x threads of each | {named} |", "|---|" + "---:|" * len(situations)]
    for engine, shape in dict.fromkeys((row["engine"], shape_of(row)) for row in rows):
        mine = [row for row in rows if (row["engine"], shape_of(row)) == (engine, shape)]
        cells = {
            (row["callers"], row["threads"]): f"{row['calls_per_s'] * row['batch']:.0f} ({row['p99_ms']:.1f})"
            for row in mine
        }
        lines.append(f"| {engine}, {shape} | " + " | ".join(cells.get(one, ABSENT) for one in situations) + " |")
    return lines


def attention(document: dict[str, Any]) -> list[str]:
    """Of attention.json: p50 of the op in milliseconds and how many times as fast it is as PyTorch, by dtype."""
    rows = [row for row in document["rows"] if row["implementation"] == "packed_attention"]
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    lines = ["| p50 ms (x faster) | " + " | ".join(shapes) + " |", "|---|" + "---:|" * len(shapes)]
    for dtype in dict.fromkeys(row["dtype"] for row in rows):
        mine = {row["shape"]: row for row in rows if row["dtype"] == dtype}
        cells = [
            f"{mine[shape]['p50_ms']:.3f}" + (f" ({mine[shape]['speedup']:.1f})" if mine[shape]["speedup"] else "")
            for shape in shapes
        ]
        lines.append(f"| {dtype} | " + " | ".join(cells) + " |")
    return lines


OPENVINO = {"native": "OpenVINO", "native bf16": "OpenVINO bf16", "native int8": "OpenVINO, NNCF int8"}
"""Of the same precision."""


def full(document: dict[str, Any], model: str) -> list[str]:
    """A shape a row: of native in each precision p50, how many times as fast it is as others, and its share."""
    rows = {(row["engine"], shape_of(row)): row for row in _rows(document, model)}
    lines = [
        "| | " + " | ".join(f"{engine} ms (x OpenVINO, x eager, share)" for engine in OPENVINO) + " |",
        "|---|" + "---:|" * len(OPENVINO),
    ]
    for shape in dict.fromkeys(shape for _, shape in rows):
        cells = []
        for engine, peer in OPENVINO.items():
            mine = rows[engine, shape]
            ratio = mine["speedup"] / rows[peer, shape]["speedup"]
            text = f"{mine['p50_ms']:.1f} ({ratio:.2f}, {mine['speedup']:.1f}, {mine['share_of_ceiling']:.2f})"
            cells.append(text)
        lines.append(f"| {shape} | " + " | ".join(cells) + " |")
    return lines


def _rows(document: dict[str, Any], model: str) -> list[Row]:
    return [row for row in document["rows"] if row["model"] == model]


def _by_shape(
    title: str, rows: list[Row], cell: Callable[[Row], str], *, last: tuple[str, dict[str, str]] | None = None
) -> list[str]:
    """A line for every engine, a column for every shape, and one more of what does not depend on the shape."""
    shapes = list(dict.fromkeys(map(shape_of, rows)))
    heads = [title, *map(str, shapes), *([last[0]] if last else [])]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    for engine in dict.fromkeys(row["engine"] for row in rows):
        mine = {shape_of(row): cell(row) for row in rows if row["engine"] == engine}
        cells = [engine, *(mine.get(shape, ABSENT) for shape in shapes), *([last[1][engine]] if last else [])]
        lines.append("| " + " | ".join(cells) + " |")
    return lines
