"""The table of benchmarks/results/second_engine.json, for ``report.py``."""

from __future__ import annotations

from typing import Any


def second_engine(document: dict[str, Any]) -> list[str]:
    """What a second engine over the same weights adds, an engine a row, as lines of Markdown."""
    rows = document["rows"]
    seconds = list(dict.fromkeys(row["second"] for row in rows))
    lines = [
        "| resident MB that a second engine adds | its weights MB | " + " | ".join(seconds) + " |",
        "|---|---:|" + "---:|" * len(seconds),
    ]
    for engine in dict.fromkeys(row["engine"] for row in rows):
        mine = {row["second"]: row for row in rows if row["engine"] == engine}
        weights = max(row["stored_weight_bytes"] for row in mine.values()) / 1e6
        added = (f"{mine[second]['added_mb']:.1f}" if second in mine else "" for second in seconds)
        lines.append(f"| {engine} | {weights:.0f} | " + " | ".join(added) + " |")
    return lines
