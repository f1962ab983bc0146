"""How long engines take beside transformers eager, over the same weights, every answer checked before it is timed.

    pytest benchmarks/test_engines.py --benchmark-only
    python benchmarks/test_engines.py -o benchmarks/results/engines.json

The script times all engines in turns in one process. ``speedup`` is the median over rounds of transformers' time by the
engine's in the same round; ``share_of_ceiling`` is the achieved rate by that of the best matrix product of the same
precision in this run. Peers that are installed are timed in the same turns.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import (
    BASELINE,
    SUBJECTS,
    Subject,
    baseline,
    conditions,
    engines,
    finished,
    gemm_ceiling,
    gigaflop,
    inputs,
    peers,
    precision_of,
    subjects_of,
)
from peers import PEERS

from albert_fast import Batch
from albert_fast.cli.stopwatch import interleaved
from albert_fast.engine import FORMATS
from albert_fast.precision import PRECISIONS

WORDNET = SUBJECTS["albert-fast/wordnet"]
SUFFIXES = {row.suffix for row in FORMATS.values() if row.kind == "file"}
ROUNDS, SECONDS = 30, 12.0
"""At most so many rounds per shape, and no new one after so many seconds; five in any case."""
SETTLE_S = 0.02
"""Rest before each call, see ``stopwatch.interleaved``."""


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[Batch], object]]:
    pytest.importorskip("transformers", reason="the baseline: pip install 'albert-fast[bench]'")
    model = WORDNET.model()
    return calls_of(WORDNET, model, tmp_path_factory.mktemp("engines"), "cpu")


@pytest.mark.parametrize("shape", WORDNET.shapes, ids=lambda s: f"{s[0]}x{s[1]}")
@pytest.mark.parametrize("engine", [BASELINE, *subjects_of("cpu"), *(n for n, p in PEERS.items() if not p.missing())])
def test_latency_of_the_embedded_classifier(engine: str, shape: tuple[int, int], wordnet: Any, benchmark: Any) -> None:
    batch = inputs(WORDNET.model().config, *shape)
    check(wordnet, batch, "cpu")
    benchmark.group = f"{shape[0]}x{shape[1]}"
    with torch.inference_mode():
        benchmark(wordnet[engine], batch)


def calls_of(subject: Subject, model: Any, folder: Path, device: str) -> dict[str, Callable[[Batch], torch.Tensor]]:
    """The baseline, every engine and every peer, as functions from a batch to its logits."""
    made = engines(subject, model, folder, device)
    calls: dict[str, Callable[[Batch], torch.Tensor]] = {BASELINE: baseline(model, device)}
    calls |= {name: partial(_logits, engine) for name, engine in made.items()}
    return calls | peers(subject, model, folder, device)


def _logits(engine: Any, batch: Batch) -> torch.Tensor:
    return finished(engine(batch)["logits"])


def check(calls: dict[str, Callable[[Batch], torch.Tensor]], batch: Batch, device: str) -> dict[str, float]:
    """Largest difference of each answer from the baseline's; a wrong one is not timed."""
    expected = calls[BASELINE](batch)
    differences = {name: float((call(batch) - expected).abs().max()) for name, call in calls.items()}
    budgets = {name: PRECISIONS[precision_of(name, device)].budget.max_abs for name in calls}
    wrong = {n: d for n, d in differences.items() if n not in PEERS and not d <= budgets[n]}
    assert not wrong, f"beyond the precision's budget from {BASELINE} at {list(batch.input_ids.shape)}: {wrong}"
    return differences


def measure(subject: Subject, device: str) -> Iterator[dict[str, Any]]:
    """One row for every shape and engine of a subject."""
    model = subject.model()
    ceiling = gemm_ceiling(model.config, device)
    print(f"{subject.name}: matrix products at {ceiling} GFLOP/s; building the engines", flush=True)
    with tempfile.TemporaryDirectory(prefix="engines-") as folder:
        calls = calls_of(subject, model, Path(folder), device)
        sizes = {path.stem: path.stat().st_size for path in Path(folder).iterdir() if path.suffix in SUFFIXES}
        for shape in subject.shapes:
            batch = inputs(model.config, *shape).to(device)
            differences = check(calls, batch, device)
            taken = interleaved(
                {n: partial(call, batch) for n, call in calls.items()},
                rounds=ROUNDS,
                seconds=SECONDS,
                settle_s=SETTLE_S,
            )
            for name, latency in taken.items():
                precision = precision_of(name, device)
                limit = max(ceiling.get(precision, ceiling["fp32"]).values())
                rate = gigaflop(model.config, *shape) / latency.p50_ms * 1e3
                print(f"  {shape[0]}x{shape[1]:<4} {name:28} {latency.p50_ms:9.2f} ms", flush=True)
                yield {
                    "model": subject.name,
                    "engine": name,
                    "precision": precision,
                    "batch": shape[0],
                    "length": shape[1],
                    "p50_ms": round(latency.p50_ms, 3),
                    "p95_ms": round(latency.p95_ms, 3),
                    "rounds": latency.rounds,
                    "speedup": round(latency.speedup_over(taken[BASELINE]), 3),
                    "tokens_per_s": round(shape[0] * shape[1] / latency.p50_ms * 1e3),
                    "gflop_per_s": round(rate, 1),
                    "ceiling_gflop_per_s": limit,
                    "share_of_ceiling": round(rate / limit, 3),
                    "max_abs_difference": differences[name],
                    "file_bytes": sizes.get(name),
                }


def main() -> None:
    """Write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", choices=SUBJECTS, action="append", help="only this one; may be given twice")
    arguments = parser.parse_args()
    before = conditions(arguments.device)
    rows = [row for name in arguments.model or SUBJECTS for row in measure(SUBJECTS[name], arguments.device)]
    what = "ALBERT classifiers, random ids without padding; albert-base-v2 has random weights; in process: float32"
    document = {"what": what, "baseline": BASELINE, **before, "rows": rows}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
