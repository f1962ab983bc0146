"""``albert-fast export``: a recipe, or a model and options -> an engine file."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from albert_fast.attention import ATTENTION
from albert_fast.cli import print_json
from albert_fast.cli.progress import Progress
from albert_fast.cli.table import facts
from albert_fast.engine import FORMATS, Manifest
from albert_fast.engine.asked import per_asked
from albert_fast.engine.manifest import manifest_path
from albert_fast.heads import HEADS
from albert_fast.pipelines.sources import tokenizer_folder
from albert_fast.precision import METHODS, PARTS, PRECISIONS, RESTS
from albert_fast.recipe import Recipe, export
from albert_fast.recipe.quantizing import AUTO
from albert_fast.recipe.words import CHOICES

_QUANTIZE = ("scales", "calibration", "column", "label_column", "method", "parts", "rest", "keep", "max_drop", "report")
_OVERRIDES = (
    "head", "format", "precision", "profile", "attention", "positions", "device", "output", "revision",
    "keep_float32", "overflow_text",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options; their choices come from the tables."""
    defaults = {field.name: field.default for field in dataclasses.fields(Recipe)}
    formats = {name: row for name, row in FORMATS.items() if row.kind == "file"}
    parser.add_argument(
        "source",
        metavar="RECIPE.toml|MODEL",
        help="a recipe; or a checkpoint folder, a hub name, albert-fast/wordnet",
    )
    parser.add_argument(
        "--format", choices=formats, help=f"of the engine file; {defaults['format']} unless given or in the recipe"
    )
    parser.add_argument("--precision", choices=PRECISIONS, help=f"of the graph; {defaults['precision']} unless given")
    parser.add_argument(
        "--profile",
        metavar="MIN:OPT:MAX",
        help="shapes as batch x length: 1x16:8x128:32x512, or one shape 8x128; several with commas between them",
    )
    parser.add_argument("--head", choices=HEADS, help="what the model answers; the checkpoint's own unless given")
    parser.add_argument("--attention", choices=["auto", *ATTENTION], help="implementation in the graph; auto is sdpa")
    parser.add_argument(
        "--positions",
        choices=CHOICES["positions"],
        help="where scores over the vocabulary are computed: all (unless given) or asked, those that a call asks for",
    )
    parser.add_argument("--device", help="that the engine runs on: cpu or cuda; the format's own unless given")
    parser.add_argument("--revision", help="branch, tag or commit of a hub model")
    parser.add_argument(
        "--option", metavar="NAME=VALUE", action="append", default=[], type=_option, help="of the format; repeatable"
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="the engine file to write")
    half = parser.add_argument_group("for a precision in 16 bits")
    half.add_argument("--keep-float32", metavar="NAME", type=_names, help="tensors of the graph that are not rounded")
    half.add_argument(
        "--overflow-text", metavar="TEXTS", help="text to look for tensors on that float16 cannot hold; they are kept"
    )
    quantize = parser.add_argument_group("for a precision that quantizes (int8)")
    quantize.add_argument("--scales", metavar="FILE", help="scales file of albert-fast calibrate; or")
    quantize.add_argument("--calibration", metavar="TEXTS", help="text to calibrate on: a file, one text a line")
    quantize.add_argument("--column", help="of the calibration text, where it is a table")
    quantize.add_argument("--label-column", help="of the calibration text: the labels, for --max-drop of a classifier")
    quantize.add_argument("--method", choices=METHODS, help="how ranges are chosen in calibration; percentile")
    quantize.add_argument(
        "--parts", type=_names, help=f"what is quantized, of {', '.join(PARTS)}; encoder unless given"
    )
    quantize.add_argument("--rest", choices=[AUTO, *RESTS], help="precision of everything else; auto fits the format")
    quantize.add_argument(
        "--keep", metavar="TENSOR[@PASS]", type=_names, help="what stays in that precision all the same"
    )
    quantize.add_argument(
        "--max-drop",
        type=float,
        metavar="POINTS",
        help="keep the most sensitive until accuracy drops (without labels: answers change) by no more",
    )
    quantize.add_argument(
        "--no-report",
        dest="report",
        action="store_const",
        const=False,
        help="write no page of charts beside the engine",
    )


def run(arguments: argparse.Namespace) -> int:
    """Export, and say what was written."""
    changes = {name: getattr(arguments, name) for name in _OVERRIDES if getattr(arguments, name) is not None}
    if arguments.option:
        changes["options"] = dict(arguments.option)
    source: str = arguments.source
    quantize = {name: getattr(arguments, name) for name in _QUANTIZE if getattr(arguments, name) is not None}
    if quantize:
        changes["quantize"] = quantize
    is_recipe = source.endswith(".toml") or os.path.isfile(source)
    recipe = Recipe.read(source, **changes) if is_recipe else Recipe.from_dict({"model": source, **changes})
    with Progress() as progress:
        manifest = export(recipe, progress)
    written = recipe.output_for(manifest.head)
    if arguments.json:
        paths = {"engine": str(written), "manifest": str(manifest_path(written)), "tokenizer": _tokenizer(written)}
        print_json({**paths, "content": dataclasses.asdict(manifest)})
    else:
        print(facts([("engine", str(written)), ("tokenizer", _tokenizer(written) or "none"), *summary(manifest)]))
    return 0


def summary(manifest: Manifest) -> list[tuple[str, str]]:
    """What an engine is, how large and how exact, as names and values."""
    error = manifest.error
    asked = any(per_asked(spec) for spec in manifest.outputs)
    return [
        ("head", manifest.head),
        *([("positions", "asked: scores over the vocabulary where a batch asks for them alone")] if asked else []),
        ("format", f"{manifest.format}, {manifest.precision}, {manifest.attention} attention, {manifest.device}"),
        ("profile", f"{manifest.profile} (batch x length)"),
        ("size", f"{manifest.file_bytes / 1e6:.1f} MB; weights {manifest.weight_bytes / 1e6:.1f} MB, each once"),
        (
            "error",
            f"max {error.max_abs:.1e}, mean {error.mean_abs:.1e}, cosine {error.cosine:.7f}, same argmax "
            f"{error.argmax_agreement:.2%} (against float32 eager, measured on {manifest.measured_on})",
        ),
    ]


def _option(text: str) -> tuple[str, Any]:
    """``NAME=VALUE``; a value that is JSON (a number, true, a list) is taken as such, any other as text."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is no option, expected NAME=VALUE")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _tokenizer(engine_file: Path) -> str | None:
    folder = tokenizer_folder(engine_file)
    return str(folder) if folder.is_dir() else None
