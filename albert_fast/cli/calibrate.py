"""``albert-fast calibrate``: a model and text -> a scales file, and a table of the ranges pass by pass."""

from __future__ import annotations

import argparse
import inspect
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from albert_fast.attention import ATTENTION
from albert_fast.cli import print_json
from albert_fast.cli.progress import Progress
from albert_fast.cli.table import facts, table
from albert_fast.heads import HEADS
from albert_fast.precision.histogram import METHODS
from albert_fast.precision.scales import Scales
from albert_fast.recipe.calibrating import calibrate

_PASSED_ON = (
    "head", "column", "pair_column", "method", "percentile", "smooth", "max_texts", "max_length", "batch_size",
    "attention", "tokenizer", "revision",
)  # fmt: skip
_SUFFIX = ".scales.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options; what is left out is the function's own default."""
    defaults = {name: one.default for name, one in inspect.signature(calibrate).parameters.items()}

    def add(name: str, words: str, **keywords: Any) -> None:
        default = defaults[name.replace("-", "_")]
        shown = "" if default is None else f" ({default})"
        parser.add_argument(f"--{name}", default=default, help=words + shown, **keywords)

    parser.add_argument("model", metavar="MODEL", help="a checkpoint folder, a hub name, albert-fast/wordnet")
    parser.add_argument(
        "texts",
        metavar="TEXTS",
        help="a file with one text a line, a tab between those of a pair; or a table: .csv, .tsv, .jsonl, .parquet",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="the scales file to write; named after the model if not")
    add("head", "what the model answers; the checkpoint's own unless given", choices=HEADS)
    add("column", "of a table: the one that holds the text", metavar="NAME")
    add("pair-column", "of a table: the one that holds the second text of each pair", metavar="NAME")
    add("method", "by which a range is chosen", choices=METHODS)
    add("percentile", "per cent of a tensor's numbers that the method percentile does not clip", type=float)
    add(
        "smooth", "even out large channels first; alpha, between 0 and 1, for every tensor, or measured for each",
        nargs="?", const=True, type=float, metavar="ALPHA",
    )  # fmt: skip
    add("max-texts", "texts to run at most; of more, a fixed sample", type=int, metavar="N")
    add("max-length", "tokens of a text at most; longer ones are cut", type=int, metavar="N")
    add("batch-size", "texts to run at once", type=int, metavar="N")
    add("attention", "eager shows attention's products too, sdpa is faster", choices=ATTENTION)
    add("tokenizer", "instead of the one that lies with the model", metavar="FOLDER")
    add("revision", "branch, tag or commit of a hub model")
    parser.add_argument(
        "--report", metavar="FILE", help="charts of the ranges, in HTML; beside the scales unless named"
    )
    parser.add_argument("--no-report", action="store_true", help="write the scales file alone")
    parser.add_argument("--compare", metavar="FILE", help="another scales file: show where the ranges differ most")


def run(arguments: argparse.Namespace) -> int:
    """Calibrate, write the file, and print what is in it."""
    other = Scales.read(arguments.compare) if arguments.compare is not None else None
    output = _output(arguments)
    report = None if arguments.no_report else Path(arguments.report or output.with_suffix(".html"))
    with Progress() as progress:
        scales = calibrate(
            arguments.model, arguments.texts, report=report, progress=progress, step=progress.step,
            **{name: getattr(arguments, name) for name in _PASSED_ON},
        )  # fmt: skip
        scales.save(output)
    if arguments.json:
        content = {
            "scales": str(output),
            "report": report and str(report),
            "digest": scales.digest,
            "content": json.loads(scales.to_json()),
        }
        print_json(content if other is None else {**content, "compared": differences(scales, other)})
    else:
        print(page(output, scales, report))
        if other is not None:
            print("\n" + comparison(scales, other, arguments.compare))
    return 0


def page(output: Path, scales: Scales, report: Path | None = None) -> str:
    """What was found: each tensor's range in the first and the last pass, the narrowest and the widest."""
    text = scales.text
    cut = f", {text.truncated} of them cut" if text.truncated else ""
    rows = []
    for tensor, amax in scales.amax.items():
        low, high = min(amax), max(amax)
        shown = [f"{number:.4g}" for number in (amax[0], amax[-1], low, high)]
        rows.append([tensor, str(len(amax)), *shown, f"{high / low:.2f}"])
    header = ["largest magnitude of", "passes", "first", "last", "min", "max", "max/min"]
    described = [
        ("scales", str(output)),
        *([("report", str(report))] if report is not None else []),
        ("method", scales.method),
        ("text", f"{text.source}: {text.texts} texts{cut}, {text.tokens} tokens"),
    ]
    return facts(described) + "\n\n" + table(header, rows, align="lrrrrrr")


def differences(scales: Scales, other: Scales) -> Mapping[str, dict[str, Any]]:
    """Every tensor that both have: the pass whose ranges differ most, and how many times the other's this one is."""
    found = {}
    for tensor in [name for name in scales.amax if name in other.amax]:
        ratios = [mine / theirs for mine, theirs in zip(scales.amax[tensor], other.amax[tensor], strict=False)]
        worst = max(range(len(ratios)), key=lambda i: max(ratios[i], 1 / ratios[i]))
        found[tensor] = {
            "pass": worst, "this": scales.amax[tensor][worst], "other": other.amax[tensor][worst],
            "ratio": ratios[worst],
        }  # fmt: skip
    return found


def comparison(scales: Scales, other: Scales, name: str) -> str:
    """``differences`` for a terminal."""
    rows = [
        [tensor, str(one["pass"]), f"{one['this']:.4g}", f"{one['other']:.4g}", f"{one['ratio']:.3f}"]
        for tensor, one in differences(scales, other).items()
    ]
    words = [] if scales.model == other.model else ["They were found on encoders with other weights."]
    alone = [tensor for tensor in {**scales.amax, **other.amax} if (tensor in scales.amax) != (tensor in other.amax)]
    words += [f"In one of the two only: {', '.join(alone)}."] if alone else []
    header = [f"widest difference from {name}", "pass", "this", "other", "ratio"]
    return "\n".join([table(header, rows, align="lrrrr"), *(f"  {line}" for line in words)])


def _output(arguments: argparse.Namespace) -> Path:
    """The file to write, which must be one that can be written before any work is done."""
    if arguments.output is None:
        head = f"-{arguments.head}" if arguments.head else ""
        return Path(f"{Path(arguments.model).resolve().name}{head}{_SUFFIX}")
    output = Path(arguments.output)
    parent = output.absolute().parent
    if output.is_dir():
        raise ValueError(f"the output {output} is a folder; name the file, for example {output / f'model{_SUFFIX}'}")
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"the output {output} cannot be written: {parent} is no folder that you may write to")
    return output
