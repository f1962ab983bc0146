"""A masked LM that scores the vocabulary for every token, beside one that does so at asked positions alone.

    python benchmarks/asked.py -o benchmarks/results/asked.json

ALBERT-base with random weights, 15 % of the tokens asked for, as pretraining masks them. Engines take turns in one
process; before they are timed, the asked answers are compared with the whole ones at the same places.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from engines import conditions

from albert_fast import AlbertConfig, AlbertForMaskedLM, Batch, Engine, ShapeProfile
from albert_fast.capture import capture
from albert_fast.cli.stopwatch import interleaved
from albert_fast.cli.workload import Shape
from albert_fast.engine import FORMATS, Facts, build, load
from albert_fast.precision import PRECISIONS, prepare
from albert_fast.recipe.references import answers, reference_batches

MODEL = "albert-base-v2"
ENGINES = (("aotinductor", "fp32"), ("aotinductor", "bf16"), ("native", "fp32"), ("native", "bf16"))
SHAPES = "1x128,8x128"
SHARE = 0.15
POSITIONS = ("all", "asked")
PROFILE = ShapeProfile.parse("1x1:8x128:8x128")


def asking(shape: Shape, vocab_size: int) -> Batch:
    """Random ids, and every so-many-th token asked for."""
    batch = shape.inputs(vocab_size)
    tokens = batch.input_ids.numel()
    asked = torch.zeros(tokens, dtype=torch.bool)
    asked[torch.linspace(0, tokens - 1, round(SHARE * tokens)).long()] = True
    return replace(batch, asked=asked.view_as(batch.input_ids))


def built(model: Any, format: str, precision: str, folder: Path) -> dict[str, Engine]:
    """An engine that answers everywhere, and one that is asked."""
    found = {}
    for positions in POSITIONS:
        asked = positions == "asked"
        path = folder / f"{format}-{precision}-{positions}{FORMATS[format].suffix}"
        facts = Facts(
            config=model.config.to_dict(), head="masked-lm", attention="sdpa", precision=precision, profiles=(PROFILE,)
        )
        program = prepare(capture(model, PROFILE, asked=asked), precision)
        references = answers(model, reference_batches(model.config, "masked-lm", PROFILE), asked=asked)
        budget = PRECISIONS[precision].budget
        build(program, path, format=format, facts=facts, references=references, budget=budget)
        found[positions] = load(path)
    return found


def check(engines: dict[str, Engine], batch: Batch, precision: str) -> None:
    """Refuse to time engines that do not agree at what is asked."""
    whole = engines["all"](replace(batch, asked=None))["logits"][batch.asked]
    difference = float((engines["asked"](batch)["logits"] - whole).abs().max())
    allowed = 2 * PRECISIONS[precision].budget.max_abs
    if not difference <= allowed:
        raise SystemExit(
            f"the {precision} engines differ by {difference} at asked positions, at most {allowed} is allowed"
        )


def measure(model: Any, shapes: list[Shape], seconds: float, folder: Path) -> list[dict[str, Any]]:
    """A row for every engine, shape and kind."""
    rows = []
    for format, precision in ENGINES:
        print(f"building {format} {precision}", flush=True)
        engines = built(model, format, precision, folder)
        for shape in shapes:
            batch = asking(shape, model.config.vocab_size)
            check(engines, batch, precision)
            given = {"all": replace(batch, asked=None), "asked": batch}
            calls = {positions: partial(engines[positions], given[positions]) for positions in POSITIONS}
            found = interleaved(calls, rounds=100, seconds=seconds, settle_s=0.02, burst_s=0.05)
            for positions, latency in found.items():
                rows.append(
                    {
                        "format": format,
                        "precision": precision,
                        "shape": str(shape),
                        "positions": positions,
                        "scored": int(batch.asked_or_text().sum()) if positions == "asked" else batch.input_ids.numel(),
                        "p50_ms": round(latency.p50_ms, 3),
                        "p95_ms": round(latency.p95_ms, 3),
                        "speedup": round(latency.speedup_over(found["all"]), 3),
                    }
                )
    return rows


def main() -> None:
    """Measure, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default=SHAPES, help=f"batch x length, separated by commas ({SHAPES})")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each engine and shape (20)")
    parser.add_argument("-o", "--output", type=Path, help="the result file")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = AlbertForMaskedLM(AlbertConfig.published(MODEL)).eval()
    with tempfile.TemporaryDirectory(prefix="albert-fast-asked-") as folder:
        shapes = [Shape.parse(text) for text in arguments.shapes.split(",")]
        rows = measure(model, shapes, arguments.seconds, Path(folder))
    document = {
        "what": f"{MODEL}, masked LM, random weights and ids",
        "share": SHARE,
        **conditions("cpu"),
        "rows": rows,
    }
    text = json.dumps(document, indent=1) + "\n"
    if arguments.output is None:
        print(text, end="")
    else:
        arguments.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
