"""``albert-fast run``: texts in, predictions out, with an engine file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from albert_fast.cli import print_json
from albert_fast.cli.table import table
from albert_fast.engine.manifest import read_manifest
from albert_fast.pipelines import pipeline, task_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The engine, the texts and how to answer them."""
    parser.add_argument("engine", metavar="ENGINE", help="an engine file that export wrote")
    parser.add_argument("texts", metavar="TEXT", nargs="+", help="texts; - reads them from stdin, one a line")
    parser.add_argument(
        "--pair", action="store_true", help="two texts belong together; on stdin a tab stands between them"
    )
    parser.add_argument("--top-k", type=int, default=5, metavar="N", help="answers per text or mask (5)")
    parser.add_argument("--truncate", action="store_true", help="cut texts that are too long instead of refusing them")
    parser.add_argument("--tokenizer", metavar="FOLDER", help="instead of the one beside the engine file")
    parser.add_argument("--device", help="cpu (unless given) or cuda")
    parser.add_argument("--threads", type=int, metavar="N", help="to compute with, on the CPU (as PyTorch has)")


def run(arguments: argparse.Namespace) -> int:
    """Answer every text; stdout holds tables, or one JSON document."""
    engine = Path(arguments.engine)
    if not engine.is_file():
        raise ValueError(f"no engine file at {engine}; make one with albert-fast export")
    manifest = read_manifest(engine)
    task = task_of(manifest.head)
    inputs = read_texts(arguments.texts, pair=arguments.pair)
    answer = pipeline(task, engine, arguments.tokenizer, device=arguments.device, num_threads=arguments.threads)
    answers = answer.run(inputs, {"top_k": arguments.top_k, "truncation": arguments.truncate})
    if arguments.json:
        results = [{**text, "predictions": found} for text, found in zip(inputs, answers, strict=True)]
        print_json({"engine": str(engine), "task": task, "head": manifest.head, "results": results})
    else:
        print("\n\n".join(f"{shown(text)}\n{predictions(found)}" for text, found in zip(inputs, answers, strict=True)))
    return 0


def read_texts(words: Sequence[str], *, pair: bool) -> list[dict[str, str]]:
    """The texts of the command line as a pipeline takes them; ``-`` stands for the lines of stdin.

    Raises:
        ValueError: with ``pair``, an odd number of texts or a line without a tab.
    """
    inputs: list[dict[str, str]] = []
    waiting: list[str] = []
    for word in words:
        if word == "-":
            for number, line in enumerate(sys.stdin, 1):
                parts = line.rstrip("\r\n").split("\t", 1) if pair else [line.rstrip("\r\n")]
                if pair and len(parts) != 2:
                    raise ValueError(f"line {number} of stdin has no tab; with --pair a line is FIRST<tab>SECOND")
                inputs.append(_input(parts))
        elif not pair:
            inputs.append(_input([word]))
        else:
            waiting.append(word)
            if len(waiting) == 2:
                inputs.append(_input(waiting))
                waiting = []
    if waiting:
        raise ValueError(f"--pair takes two texts at a time, {waiting[0][:60]!r} is alone; give its second text")
    if not inputs:
        raise ValueError("there is no text to answer; stdin was empty")
    return inputs


def shown(text: dict[str, str]) -> str:
    """A text or pair on one line."""
    return " | ".join(text.values())


def predictions(found: Any) -> str:
    """The predictions for one text as an aligned table, one per mask where there are several masks."""
    if isinstance(found[0], list):
        return "\n".join(f"  mask {number}\n{predictions(one)}" for number, one in enumerate(found, 1))
    columns = {"token_str": "token", "sequence": "text", "label": "label"}
    names = [name for name in columns if name in found[0]]
    rows = [[f"{one['score']:.4f}", *(one[name] for name in names)] for one in found]
    return table(["score", *(columns[name] for name in names)], rows, align="r" + "l" * len(names))


def _input(parts: Sequence[str]) -> dict[str, str]:
    return dict(zip(("text", "text_pair"), parts, strict=False))
