"""How long every format takes beside eager, on ALBERT-base and the embedded model; the answers are compared first.

    pytest benchmarks/test_engines.py
    python benchmarks/test_engines.py -o benchmarks/results/engines.json

The script times all formats in turn, round after round, in one process, together with one plain matrix product of the
model's feed-forward shape: the machine's own limit. ``time_ratio`` is a format's time over eager's in the same round:
below 1 is faster. ``gemm_share`` is the rate of the model's matrix products over the limit's. A Markdown table of the
same numbers goes beside the JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import albert_fast
from albert_fast.batch import Batch, ShapeProfile
from albert_fast.capture import capture
from albert_fast.config import AlbertConfig
from albert_fast.engine import FORMATS, Engine, Facts, build, in_process, load, machine, measure
from albert_fast.engine.measure import exceeded
from albert_fast.heads import AlbertForSequenceClassification, head_of
from albert_fast.precision import PRECISIONS

PROFILE = ShapeProfile(1, 8, 32, 1, 128, 512)
SHAPES = {
    "albert-base-v2": ((1, 16), (1, 128), (8, 128), (1, 384)),
    "albert-fast/wordnet": ((1, 16), (1, 64), (32, 32)),
}
CASES = [(model, shape) for model, shapes in SHAPES.items() for shape in shapes]
REFERENCE = "eager"
_folder = tempfile.TemporaryDirectory(prefix="albert-fast-bench-")


@cache
def model_of(name: str) -> AlbertForSequenceClassification:
    """ALBERT-base of random weights, or the embedded model."""
    if name == "albert-base-v2":
        torch.manual_seed(2020)
        return AlbertForSequenceClassification(AlbertConfig.published(name)).eval()
    return AlbertForSequenceClassification.from_pretrained(name)


def profile_of(name: str) -> ShapeProfile:
    longest = min(PROFILE.max_length, model_of(name).config.max_position_embeddings)
    return ShapeProfile(1, 8, 32, 1, min(128, longest), longest)


@cache
def engine_of(name: str, format: str) -> Engine:
    """The engine of one format; files are built once and loaded back."""
    model, profile = model_of(name), profile_of(name)
    if FORMATS[format].kind == "in-process":
        return in_process(model, format=format, profile=profile)
    path = Path(_folder.name) / f"{name.replace('/', '-')}-{format}.pt2"
    batch = batch_of(name, (2, 16))
    build(
        capture(model, profile), path, format=format, references=[(batch, answers_of(name, batch))],
        budget=PRECISIONS["fp32"].budget, facts=facts_of(name),
    )  # fmt: skip
    return load(path)


def facts_of(name: str) -> Facts:
    model = model_of(name)
    return Facts(
        config=model.config.to_dict(), head=head_of(model), attention="sdpa", precision="fp32",
        profile=profile_of(name), checkpoint_source=name,
    )  # fmt: skip


def batch_of(name: str, shape: tuple[int, int]) -> Batch:
    """Random ids without padding, so that every format does the same work."""
    generator = torch.Generator().manual_seed(shape[0] * 1000 + shape[1])
    return Batch(torch.randint(5, model_of(name).config.vocab_size, shape, generator=generator)).filled()


def answers_of(name: str, batch: Batch) -> dict[str, torch.Tensor]:
    with torch.inference_mode():
        return {"logits": model_of(name)(*batch.tensors()).logits}


def assert_exact(name: str, format: str, batch: Batch) -> None:
    """The answer is within the error budget of float32, or nothing is timed."""
    error = measure(engine_of(name, format)(batch), answers_of(name, batch))
    assert exceeded(error, PRECISIONS["fp32"].budget) == [], (name, format, error)


def gemm_flop(name: str, shape: tuple[int, int]) -> int:
    """Floating-point operations of the encoder's matrix products, attention's among them."""
    c, (batch, length) = model_of(name).config, shape
    width, wide = c.hidden_size, c.intermediate_size
    a_pass = 2 * (4 * width * width + 2 * width * wide) + 4 * length * width
    return batch * length * (c.num_hidden_layers * a_pass + 2 * c.embedding_size * width)


def limit_of(name: str, shape: tuple[int, int]) -> tuple[Callable[[], object], int]:
    """One plain linear of the feed-forward's shape on at least 256 rows, and its floating-point operations."""
    config, rows = model_of(name).config, max(256, shape[0] * shape[1])
    x, weight = torch.randn(rows, config.hidden_size), torch.randn(config.intermediate_size, config.hidden_size)
    return lambda: torch.nn.functional.linear(x, weight), 2 * rows * config.hidden_size * config.intermediate_size


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(("name", "shape"), CASES, ids=[f"{n.split('/')[-1]}-{b}x{s}" for n, (b, s) in CASES])
def test_a_batch_through_an_engine(name: str, shape: tuple[int, int], format: str, benchmark: Any) -> None:
    batch, engine = batch_of(name, shape), engine_of(name, format)
    assert_exact(name, format, batch)
    benchmark.group = f"{name} {shape[0]}x{shape[1]}"
    benchmark.extra_info["threads"] = torch.get_num_threads()
    benchmark(engine, batch)


def time_case(name: str, shape: tuple[int, int], rounds: int, seconds: float) -> dict[str, Any]:
    """All formats and the limit in turn; the order turns from round to round. At least five rounds."""
    batch = batch_of(name, shape)
    for format in FORMATS:
        assert_exact(name, format, batch)  # compiles what is still to compile, too
    limit, limit_flop = limit_of(name, shape)
    calls: dict[str, Callable[[], object]] = {f: lambda f=f: engine_of(name, f)(batch) for f in FORMATS}  # type: ignore[misc]
    calls["limit"] = limit
    times: dict[str, list[float]] = {call: [] for call in calls}
    with torch.inference_mode():
        for call in calls.values():
            call()
        began = time.perf_counter()
        while len(times["limit"]) < rounds and (len(times["limit"]) < 5 or time.perf_counter() - began < seconds):
            turn = len(times["limit"]) % len(calls)
            for call in [*calls][turn:] + [*calls][:turn]:
                started = time.perf_counter()
                calls[call]()
                times[call].append(time.perf_counter() - started)
    limit_rate = limit_flop / statistics.median(times["limit"])
    return {
        "batch": shape[0],
        "length": shape[1],
        "rounds": len(times["limit"]),
        "limit_gflops": round(limit_rate / 1e9, 1),
        "formats": {
            format: {
                "ms": quantiles([1e3 * value for value in times[format]]),
                "time_ratio": quantiles([a / b for a, b in zip(times[format], times[REFERENCE], strict=True)]),
                "gemm_share": round(gemm_flop(name, shape) / statistics.median(times[format]) / limit_rate, 3),
            }
            for format in FORMATS
        },
    }


def quantiles(values: list[float]) -> dict[str, float]:
    return {
        "p50": round(statistics.median(values), 4),
        "p95": round(statistics.quantiles(values, n=20, method="inclusive")[-1], 4),
    }


def about(name: str) -> dict[str, Any]:
    """What the engines of a model are: sizes, errors and what was chosen while building."""
    found = {}
    for format in FORMATS:
        manifest = engine_of(name, format).manifest
        if manifest is not None:
            found[format] = {
                "file_bytes": manifest.file_bytes,
                "weight_bytes": manifest.weight_bytes,
                "error": asdict(manifest.error),
                "notes": manifest.notes,
            }
    return found


def markdown(result: dict[str, Any]) -> str:
    """The numbers as a table, their conditions above it."""
    versions = result["machine"]
    lines = [
        f"albert-fast {result['albert_fast']}, torch {versions['torch']}, {versions['cpu']}, "
        f"{result['threads']} threads, float32, no padding. Milliseconds are p50 (p95); the ratio is to eager, "
        "p50 of the rounds, below 1 is faster; the share is of the machine's own matrix product in the same run.",
        "",
        "| model | batch x length | format | ms | ratio to eager | share of the limit |",
        "|---|---|---|---|---|---|",
    ]
    for name, cases in result["models"].items():
        for case in cases["shapes"]:
            for format, row in case["formats"].items():
                ms, ratio = row["ms"], row["time_ratio"]
                lines.append(
                    f"| {name} | {case['batch']} x {case['length']} | {format} | {ms['p50']:.2f} ({ms['p95']:.2f}) "
                    f"| {ratio['p50']:.2f} | {row['gemm_share']:.2f} |"
                )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Time every case and write the result files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, help="JSON to write, a .md of the same name beside it")
    parser.add_argument("--rounds", type=int, default=40, help="rounds of each case at most (40)")
    parser.add_argument("--seconds", type=float, default=30, help="no new round of a case begins after so long (30)")
    parser.add_argument("--model", choices=SHAPES, action="append", help="only this model; may be given twice")
    arguments = parser.parse_args()
    models: dict[str, Any] = {}
    for name in arguments.model or SHAPES:
        shapes = []
        for shape in SHAPES[name]:
            print(f"{name} {shape[0]}x{shape[1]}", file=sys.stderr)
            shapes.append(time_case(name, shape, arguments.rounds, arguments.seconds))
        models[name] = {"shapes": shapes, "engines": about(name)}
    result = {
        "what": "time of one batch through each format, float32, interleaved; time_ratio is to eager in the same round",
        "albert_fast": albert_fast.__version__,
        "commit": machine.project_commit(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "machine": machine.versions(),
        "models": models,
    }
    text = json.dumps(result, indent=2) + "\n"
    if arguments.output is None:
        sys.stdout.write(text)
        return
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(text, encoding="utf-8")
    arguments.output.with_suffix(".md").write_text(markdown(result), encoding="utf-8")


if __name__ == "__main__":
    main()
