"""One caller with all threads, as many callers as cores with one thread each, or more: throughput and the wait of each.

    python benchmarks/callers.py -o benchmarks/results/callers.json

Each situation is a fresh ``albert-fast bench`` over the same engine files, as runtimes take their number of threads
when they start; all situations take turns, and of each engine's turns the one of middle throughput is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from engines import SUBJECTS, built, conditions, subjects_of

from albert_fast.engine import FORMATS

CORES = os.cpu_count() or 1
CROWD = 4 * CORES
SITUATIONS = ((1, CORES), (1, 1), (CORES, 1), (CROWD, 1), (CROWD, CORES))
"""Callers, and threads of each."""
ENGINES = ("aotinductor", "onnx", "native")
SHAPES = "1x16,1x128"
KEPT = ("batch", "length", "mixed", "precision", "p50_ms", "p95_ms", "p99_ms", "calls", "calls_per_s", "tokens_per_s")


def measure(files: dict[str, Path], shapes: str, seconds: float, turns: int) -> list[dict[str, Any]]:
    """A row for every engine, shape and situation."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    names = {str(path): name for name, path in files.items()}
    for turn in range(turns):
        for callers, threads in SITUATIONS:
            print(f"turn {turn + 1} of {turns}: {callers} callers with {threads} threads each", flush=True)
            for row in _bench(list(names), shapes, seconds, callers, threads):
                kept = {name: row[name] for name in KEPT}
                one = {"engine": names[row["engine"]], "callers": callers, "threads": threads, **kept}
                key = (one["engine"], one["batch"], one["length"], one["mixed"], callers, threads)
                found.setdefault(key, []).append(one)
    middle = [sorted(rows, key=lambda row: row["calls_per_s"])[len(rows) // 2] for rows in found.values()]
    order = list(names.values())
    return sorted(middle, key=lambda row: (row["batch"], row["length"], row["mixed"], order.index(row["engine"])))


def _bench(files: list[str], shapes: str, seconds: float, callers: int, threads: int) -> list[dict[str, Any]]:
    words = [sys.executable, "-m", "albert_fast", "bench", *files, "--shapes", shapes, "--no-ceiling", "--json"]
    words += ["--seconds", str(seconds), "--callers", str(callers), "--threads", str(threads)]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"albert-fast bench failed: {done.stderr.strip().splitlines()[-1]}")
    rows: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
    return rows


def main() -> None:
    """Write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--model", choices=SUBJECTS, default="albert-base-v2")
    parser.add_argument("--engine", action="append", help=f"formats to measure ({', '.join(ENGINES)})")
    parser.add_argument("--shapes", default=SHAPES, help=f"batch x length, separated by commas ({SHAPES})")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each engine, shape, situation and turn")
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    chosen = {
        name: f"{name}{row.suffix}"
        for name, (row, _) in subjects_of("cpu").items()
        if row.kind == "file" and row.name in (arguments.engine or ENGINES)
    }
    if not chosen:
        known = ", ".join(name for name, row in FORMATS.items() if row.kind == "file" and "cpu" in row.devices)
        raise SystemExit(f"no engine is called {arguments.engine}; there are {known}")
    before, subject = conditions("cpu"), SUBJECTS[arguments.model]
    with tempfile.TemporaryDirectory(prefix="callers-") as folder:
        for name, _, _ in built(subject, subject.model(), Path(folder), "cpu", chosen.__contains__):
            print(f"built {name}", flush=True)
        files = {name: Path(folder) / file for name, file in chosen.items()}
        rows = measure(files, arguments.shapes, arguments.seconds, arguments.turns)
    what = "Python threads that call one engine at once, random ids without padding"
    document = {"what": what, "model": subject.name, **before, "turns": arguments.turns, "rows": rows}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
