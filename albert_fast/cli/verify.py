"""``albert-fast verify``: an engine file against its model, on a file of texts; exit code 1 beyond the budget."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from albert_fast.cli import FAILED, print_json
from albert_fast.cli.progress import Progress
from albert_fast.cli.table import facts, table
from albert_fast.engine.manifest import read_manifest
from albert_fast.precision import ErrorBudget, precision
from albert_fast.recipe.verifying import MOST_TEXTS, Verification, read_texts, verify

_LIMITS = ("max_abs", "mean_abs", "cosine", "argmax_agreement")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The engine, the texts, the model, and limits of the caller's own."""
    parser.add_argument("engine", metavar="ENGINE", help="an engine file that export wrote")
    parser.add_argument(
        "--data", metavar="FILE", required=True, help="texts, one a line; a tab between those of a pair"
    )
    parser.add_argument("--against", metavar="MODEL", help="checkpoint folder or name; the manifest's unless given")
    parser.add_argument("--limit", type=int, default=MOST_TEXTS, metavar="N", help="texts to read at most")
    parser.add_argument("--device", help="cpu or cuda; what the engine was built for unless given")
    for name in _LIMITS:
        words = f"{'at least' if name in ('cosine', 'argmax_agreement') else 'at most'}; the precision's unless given"
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, metavar="X", help=words)


def run(arguments: argparse.Namespace) -> int:
    """Compare, and print what was found. Exit code 1 where the error is beyond the budget."""
    if arguments.limit < 1:
        raise ValueError(f"--limit is {arguments.limit}, expected at least 1")
    engine = Path(arguments.engine)
    if not engine.is_file():
        raise ValueError(f"no engine file at {engine}; make one with albert-fast export")
    texts = read_texts(arguments.data, limit=arguments.limit)
    own = {name: getattr(arguments, name) for name in _LIMITS if getattr(arguments, name) is not None}
    budget: ErrorBudget = dataclasses.replace(precision(read_manifest(engine).precision).budget, **own)
    with Progress() as progress:
        found = verify(
            engine, texts, against=arguments.against, device=arguments.device, budget=budget, tell=progress,
            step=progress.step,
        )  # fmt: skip
    if arguments.json:
        print_json({"engine": str(engine), "passed": not found.beyond, **dataclasses.asdict(found)})
    else:
        print(page(engine, found))
    return FAILED if found.beyond else 0


def page(engine: Path, found: Verification) -> str:
    """The verdict for a terminal."""
    rows = [
        [name, f"{getattr(found.error, name):.3g}" if name.endswith("abs") else f"{getattr(found.error, name):.6f}",
         f"{'<=' if name.endswith('abs') else '>='} {getattr(found.budget, name):g}"]
        for name in _LIMITS
    ]  # fmt: skip
    weights = "those the engine was built from" if found.same_weights else "OTHERS than the engine was built from"
    parts = [
        facts([
            ("engine", str(engine)),
            ("compared", f"{found.texts} texts, {found.tokens} tokens, with float32 eager"),
            ("weights", weights),
            ("worst text", f"{found.worst_text[:80]} (max abs {found.worst_max_abs:.3g})"),
        ]),
        table(["error", "found", "allowed"], rows, align="lrl"),
        "beyond the budget: " + "; ".join(found.beyond) if found.beyond else "within the budget",
    ]  # fmt: skip
    return "\n\n".join(parts)
