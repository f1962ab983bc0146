"""``albert-fast bench``: how long engine files take, beside each other and beside the machine's own matrix products."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

import torch

from albert_fast import files
from albert_fast.cli import FAILED, print_json
from albert_fast.cli.measuring import load_subject, measure
from albert_fast.cli.progress import Progress
from albert_fast.cli.regressions import TOLERANCE, compare, read_document
from albert_fast.cli.table import facts, table
from albert_fast.cli.workload import Shape

SHAPES = "1x16,1x128,8x128"
SECONDS = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The engines, what they are given, and who calls."""
    add = parser.add_argument
    add("engines", metavar="ENGINE", nargs="+", help="engine files; the others are compared with the first")
    add("--shapes", default=SHAPES, metavar="LIST", help=f"batch x length, separated by commas ({SHAPES})")
    add("--mixed", action="store_true", help="each batch also with texts of many lengths, padded to the longest")
    add("--threads", type=int, metavar="N", help="of PyTorch and other runtimes, for each caller (as PyTorch has)")
    add("--callers", type=int, default=1, metavar="N", help="Python threads that call an engine at once (1)")
    add("--seconds", type=float, default=SECONDS, metavar="S", help=f"for each shape and engine ({SECONDS:g})")
    add("--no-ceiling", action="store_true", help="leave out the machine's matrix products")
    add("--device", help="cpu or cuda; what each engine was built for unless given")
    add("-o", "--output", metavar="FILE", help="write the figures there, as JSON")
    older = (
        f"such a file of another run: exit code 1 where a ratio within the run fell by over {TOLERANCE * 100:.0f} %%"
    )
    add("--compare", metavar="OLD", help=older)


def run(arguments: argparse.Namespace) -> int:
    """Load, check, time, print. Exit code 1 where ``--compare`` finds something slower."""
    shapes = read_shapes(arguments.shapes, mixed=arguments.mixed)
    _check(arguments)
    old = read_document(arguments.compare) if arguments.compare else None
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    with Progress() as progress:
        progress("load the engines")
        subjects = [load_subject(path, arguments.device) for path in arguments.engines]
        document = measure(
            subjects, shapes, callers=arguments.callers, seconds=arguments.seconds,
            ceiling=not arguments.no_ceiling, progress=progress,
        )  # fmt: skip
    if arguments.output is not None:
        with files.replacing(arguments.output) as temporary:
            temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    compared = None if old is None else compare(document, old)
    if arguments.json:
        print_json(document if compared is None else {**document, "compared": compared.lines()})
    else:
        print("\n".join([page(document), *([] if compared is None else ["", *compared.lines()])]))
    return FAILED if compared is not None and compared.slower else 0


def read_shapes(text: str, *, mixed: bool) -> list[Shape]:
    """The shapes to time; with ``mixed`` each batch of several texts a second time, with texts of many lengths.

    Raises:
        ValueError: text that is no list of shapes, or no batch that could be mixed.
    """
    shapes = []
    for part in text.split(","):
        shape = Shape.parse(part)
        shapes += [shape, Shape(shape.batch, shape.length, mixed=True)] if mixed and shape.batch > 1 else [shape]
    if mixed and not any(shape.mixed for shape in shapes):
        raise ValueError(f"--mixed needs a batch of several texts, --shapes has only {text}; add one, as 8x128")
    return list(dict.fromkeys(shapes))


def _check(arguments: argparse.Namespace) -> None:
    """Refuse numbers that mean nothing, all at once."""
    least = {"threads": 1, "callers": 1}
    given = {name: getattr(arguments, name) for name in least}
    wrong = [f"--{n} is {v}, expected at least {least[n]}" for n, v in given.items() if v is not None and v < least[n]]
    if not 0 < arguments.seconds < float("inf"):
        wrong.append(f"--seconds is {arguments.seconds:g}, expected more than 0")
    twice = sorted({path for path in arguments.engines if arguments.engines.count(path) > 1})
    wrong += [f"{path} is given twice" for path in twice]
    if arguments.no_ceiling and arguments.compare and len(arguments.engines) == 1:
        wrong.append("--compare of a single engine compares its share of the ceiling, leave --no-ceiling out")
    if wrong:
        raise ValueError("; ".join(wrong))


def page(document: Mapping[str, Any]) -> str:
    """The figures for a terminal."""
    rows, baseline = document["rows"], document["baseline"]
    columns = ["shape", "engine", "p50 ms", "p95", "p99", "tokens/s", "GFLOP/s", "of limit"]
    columns += ["x first", "difference"] if baseline else []
    shown = [
        [
            str(Shape(row["batch"], row["length"], row["mixed"])), row["engine"],
            *(f"{row[name]:.2f}" for name in ("p50_ms", "p95_ms", "p99_ms")), f"{row['tokens_per_s']:,}",
            f"{row['gflop_per_s']:,.0f}", "" if row["share_of_ceiling"] is None else f"{row['share_of_ceiling']:.0%}",
            *([f"{row['speedup']:.2f}", _difference(row)] if baseline else []),
        ]
        for row in rows
    ]  # fmt: skip
    limits = {row["precision"]: row["ceiling_gflop_per_s"] for row in rows if row["ceiling_gflop_per_s"]}
    told = [
        ("machine", f"{document['processor']}, {document['cores']} cores, load {document['load_average']}"),
        ("called by", f"{document['callers']} Python thread(s), {document['threads']} thread(s) of PyTorch each"),
        ("limit", ", ".join(f"{name} {rate:,.0f} GFLOP/s" for name, rate in limits.items()) or "not measured"),
    ]
    told += [
        ("loaded", f"{name} in {ms:,.0f} ms to its first answer")
        for name, ms in {row["engine"]: row["load_ms"] for row in rows}.items()
    ]
    return facts(told) + "\n\n" + table(columns, shown, align="ll" + "r" * (len(columns) - 2))


def _difference(row: Mapping[str, Any]) -> str:
    """Beside the first engine's answers; marked where the budgets do not allow it."""
    if row["max_abs_difference"] is None:
        return "another model"
    return f"{row['max_abs_difference']:.1e}" + ("" if row["within_budget"] else " (!)")
