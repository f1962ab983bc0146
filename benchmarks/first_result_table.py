"""The tables of benchmarks/results/first_result.json and memory.json, for ``report.py``."""

from __future__ import annotations

from typing import Any


def first_result(document: dict[str, Any]) -> list[str]:
    """Time from ``import torch`` to the first answer and memory beyond it, an engine a row, as lines of Markdown."""
    torch = document["rows"][0]
    lines = [
        f"| after `import torch` ({torch['import_torch_s']:.2f} s, {torch['torch_mb']:.0f} MB) | load s | "
        "first answer s | together s | resident MB more | of which weights MB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in document["rows"]:
        times = " | ".join(f"{row[key]:.2f}" for key in ("load_s", "answer_s", "first_result_s"))
        lines.append(
            f"| {row['engine']} | {times} | {row['resident_mb']:.0f} | {row['stored_weight_bytes'] / 1e6:.0f} |"
        )
    return lines


def memory(document: dict[str, Any]) -> list[str]:
    """The most memory beyond bare torch in 10^6 bytes, an engine a row, a shape a column."""
    rows = document["rows"]
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    lines = ["| peak MB beyond bare torch | " + " | ".join(shapes) + " |", "|---|" + "---:|" * len(shapes)]
    for engine in dict.fromkeys(row["engine"] for row in rows):
        cells = [
            f"{row['peak_mb']:.0f}"
            for shape in shapes
            for row in rows
            if (row["engine"], row["shape"]) == (engine, shape)
        ]
        lines.append(f"| {engine} | " + " | ".join(cells) + " |")
    return lines
