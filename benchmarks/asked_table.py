"""The table of benchmarks/results/asked.json, for ``report.py``."""

from __future__ import annotations

from typing import Any


def asked(document: dict[str, Any]) -> list[str]:
    """Milliseconds with scores everywhere and at asked positions, an engine a row, as lines of Markdown."""
    rows = document["rows"]
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    found = {(row["format"], row["precision"], row["shape"], row["positions"]): row for row in rows}
    columns = " | ".join(f"{shape}: every token | asked | ratio" for shape in shapes)
    lines = [f"| masked LM, p50 ms | {columns} |", "|---|" + "---:|" * (3 * len(shapes))]
    for format, precision in dict.fromkeys((row["format"], row["precision"]) for row in rows):
        cells = []
        for shape in shapes:
            whole, some = (found[format, precision, shape, positions] for positions in ("all", "asked"))
            cells += [f"{whole['p50_ms']:.1f}", f"{some['p50_ms']:.1f}", f"{some['speedup']:.2f}"]
        lines.append(f"| {format} {precision} | " + " | ".join(cells) + " |")
    return lines
