"""How long engines take beside transformers eager, over the same weights, every answer checked before it is timed.

    pytest benchmarks/test_engines.py --benchmark-only
    python benchmarks/test_engines.py -o benchmarks/results/engines.json

The script times all engines in turns in one process, peers that are installed among them. ``speedup`` is the median
over rounds of transformers' time by the engine's in the same round; ``share_of_ceiling`` is the achieved rate by that
of the best matrix product of the same precision in this run. In a mixed batch texts are of many lengths, padded to the
longest and with their mask; only text counts as tokens and as arithmetic. What takes too long a call and is hardly
faster than the baseline is not timed, and listed under ``left_out``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import BASELINE, SUBJECTS, conditions, subjects_of
from grid import GRIDS, check, made_of, measure
from peers import PEERS

from albert_fast import Batch
from albert_fast.cli.regressions import compare, read_document
from albert_fast.cli.workload import Shape

WORDNET = SUBJECTS["albert-fast/wordnet"]


@pytest.fixture(scope="module")
def wordnet(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Callable[[Batch], object]]:
    """The baseline, and what the tests that run are about."""
    pytest.importorskip("transformers", reason="the baseline: pip install 'albert-fast[bench]'")
    parameters = [item.callspec.params for item in request.session.items if hasattr(item, "callspec")]
    wanted = {found["engine"] for found in parameters if "engine" in found}
    made = made_of(WORDNET, WORDNET.model(), tmp_path_factory.mktemp("engines"), "cpu", wanted.__contains__)
    return {name: one.call for name, one in made.items()}


@pytest.mark.parametrize("shape", WORDNET.shapes, ids=str)
@pytest.mark.parametrize("engine", [BASELINE, *subjects_of("cpu"), *(n for n, p in PEERS.items() if not p.missing())])
def test_latency_of_the_embedded_classifier(engine: str, shape: Shape, wordnet: Any, benchmark: Any) -> None:
    batch = shape.inputs(WORDNET.model().config.vocab_size)
    check({name: wordnet[name] for name in (BASELINE, engine)}, batch, "cpu")
    benchmark.group = str(shape)
    with torch.inference_mode():
        benchmark(wordnet[engine], batch)


def main() -> int:
    """Write the result file. Exit code 1 where ``--compare`` finds something slower."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--grid", choices=GRIDS, default="quick", help="full: lengths 1 to 512, batches 1, 8 and 32")
    parser.add_argument("--model", choices=SUBJECTS, action="append", help="only this one; may be given twice")
    parser.add_argument("--engine", action="append", help="only what has this in its name; may be given twice")
    parser.add_argument("--shape", type=Shape.parse, action="append", help="only this one: 8x128, '8x128 mixed'")
    parser.add_argument(
        "--compare", metavar="OLD.json", help="flag ratios that are more than a tenth below an older run's"
    )
    arguments = parser.parse_args()
    old = read_document(arguments.compare) if arguments.compare else None
    before, began = conditions(arguments.device), time.perf_counter()
    rows = [
        row
        for name in arguments.model or SUBJECTS
        for row in measure(
            SUBJECTS[name], arguments.device, GRIDS[arguments.grid], shapes=tuple(arguments.shape or ()),
            wanted=lambda name: any(part in name for part in arguments.engine or ("",)),
        )
    ]  # fmt: skip
    document = {
        "what": "ALBERT classifiers, random ids; albert-base-v2 has random weights; in process: float32",
        "baseline": BASELINE, "grid": arguments.grid, **before, "took_s": round(time.perf_counter() - began),
        "rows": [row for row in rows if "left_out" not in row], "left_out": [row for row in rows if "left_out" in row],
    }  # fmt: skip
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    compared = compare(document, old) if old is not None else None
    print("\n".join(compared.lines() if compared else [f"{len(document['rows'])} rows in {document['took_s']} s"]))
    return int(compared is not None and bool(compared.slower))


if __name__ == "__main__":
    sys.exit(main())
