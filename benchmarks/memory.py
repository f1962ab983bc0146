"""The most memory that a fresh process holds while it loads an engine file and answers one batch, by engine and shape.

    python benchmarks/memory.py -o benchmarks/results/memory.json

Each figure is of a process of its own, which answers once and is checked: its peak resident memory beyond what it had
after ``import torch``. The median of a few processes is kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from engines import conditions, shapes_of
from first_result import SUBJECT, started, write_engines

from albert_fast.cli.workload import Shape

SHAPES = ("1x16", "1x128", "8x128", "1x512", "32x512")


def measure(files: Mapping[str, Path], model: Any, shapes: tuple[Shape, ...], rounds: int) -> list[dict[str, Any]]:
    """A row for every file and shape: ``peak_mb``, 10^6 bytes."""
    rows = []
    for shape in shapes:
        batch = shape.inputs(model.config.vocab_size)
        with torch.inference_mode():
            first = (part[:1] for part in batch.tensors())
            expected = model(*first).logits[0].tolist()
        ids = next(iter(files.values())).parent / f"{shape}.json"
        ids.write_text(json.dumps(batch.input_ids.tolist()))
        for name, path in files.items():
            peaks = [started(name, path, ids, expected)["peak_mb"] for _ in range(rounds)]
            rows.append({"engine": name, "shape": str(shape), "peak_mb": round(statistics.median(peaks), 1)})
            print(f"{shape} {name}: {rows[-1]['peak_mb']} MB", flush=True)
    return rows


def main() -> None:
    """Write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--rounds", type=int, default=3, help="processes for each engine and shape (3)")
    parser.add_argument("--shape", action="append", help=f"batch x length; may be given often ({', '.join(SHAPES)})")
    parser.add_argument("--engine", action="append", help="only this one beside the baseline; may be given often")
    arguments = parser.parse_args()
    before, model = conditions("cpu"), SUBJECT.model()
    with tempfile.TemporaryDirectory(prefix="memory-") as folder:
        files = write_engines(model, Path(folder), arguments.engine)
        rows = measure(files, model, shapes_of(*(arguments.shape or SHAPES)), arguments.rounds)
    what = "ALBERT-base classifier, random weights and ids: peak resident memory of a process beyond bare torch, MB"
    document = {"what": what, **before, "rounds": arguments.rounds, "rows": rows}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
