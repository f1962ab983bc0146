"""What a second engine costs a process that has one over the same weights: of the same file, and of another head.

    python benchmarks/second_engine.py -o benchmarks/results/second_engine.json

Each figure is of a process of its own, files in the page cache: it loads a classifier's file and answers, then loads
the second file and answers, which is checked. Memory is what it has resident more after the second answer than after
the first, times are those of loading. Medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from engines import PROFILE, SUBJECTS, conditions, inputs, precision_of, subjects_of

from albert_fast.capture import capture
from albert_fast.engine import Facts, build, read_manifest
from albert_fast.heads import HEADS
from albert_fast.precision import PRECISIONS, Quantization, prepare
from albert_fast.precision.calibration import collect
from albert_fast.recipe.quantizing import rest_of
from albert_fast.recipe.references import answers, reference_batches

SUBJECT = SUBJECTS["albert-base-v2"]
ENGINES = ("aotinductor", "aotinductor bf16", "aotinductor int8", "native", "native bf16", "native int8")
FIRST, OTHER = "sequence-classification", "masked-lm"
LENGTH = 16
PROGRAM = """
import json, sys, time, torch, albert_fast
batch = albert_fast.Batch(torch.tensor([json.loads(sys.argv[1])]))
kept, told = [], []
for path in sys.argv[2:]:
    start = time.perf_counter()
    kept.append(albert_fast.load(path))
    loaded = time.perf_counter()
    logits = kept[-1](batch)["logits"]
    rows = dict(line.split(":", 1) for line in open("/proc/self/status"))
    told.append((loaded - start, int(rows["VmRSS"].split()[0]) * 1024 / 1e6, logits.flatten()[:64].tolist()))
print(json.dumps(told))
"""


def models() -> dict[str, Any]:
    """The subject's classifier, and another head over the same weights of the encoder."""
    model = SUBJECT.model()
    other = HEADS[OTHER].model_class(model.config).eval()
    own = other.state_dict()
    other.load_state_dict({**own, **{name: value for name, value in model.state_dict().items() if name in own}})
    return {FIRST: model, OTHER: other}


def write(name: str, head: str, model: Any, folder: Path) -> Path:
    """The engine file of this name."""
    row, precision = subjects_of("cpu")[name]
    path = folder / f"{name} {head}{row.suffix}"
    facts = Facts(
        config=model.config.to_dict(), head=head, attention="sdpa", precision=precision, profiles=(PROFILE,)
    )  # fmt: skip
    exact, wanted, quantization = capture(model, PROFILE), PRECISIONS[precision], None
    if wanted.quantizes:
        scales = collect(exact, SUBJECT.calibration()).scales("max")
        quantization = Quantization(scales, rest=rest_of(row, "auto", "cpu"))
    build(
        prepare(exact, precision, quantization=quantization), path, format=row.name, facts=facts,
        references=answers(model, reference_batches(model.config, head, PROFILE)), budget=wanted.budget,
    )  # fmt: skip
    print(f"built {path.name}", flush=True)
    return path


def measure(
    name: str, files: dict[str, Path], second: str, ids: list[int], expected: list[float], rounds: int
) -> dict[str, Any]:
    """A row: what the second engine adds, and what its weights take.

    Raises:
        SystemExit: a process failed, or an answer is further from float32 eager than its precision is allowed.
    """
    told, allowed = [], PRECISIONS[precision_of(name, "cpu")].budget.max_abs
    for _ in range(rounds):
        command = [sys.executable, "-c", PROGRAM, json.dumps(ids), str(files[FIRST]), str(files[second])]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{name} failed: {done.stderr}")
        (alone_s, before, _), (second_s, after, logits) = json.loads(done.stdout)
        difference = max(abs(found - right) for found, right in zip(logits, expected, strict=True))
        if not difference <= allowed:
            raise SystemExit(f"{name} is {difference} from float32 eager, at most {allowed} is allowed")
        told.append((after - before, alone_s, second_s))
    added, alone, again = (statistics.median(values) for values in zip(*told, strict=True))
    row = {
        "engine": name,
        "second": "the same file" if second == FIRST else f"another head, {second}",
        "added_mb": round(added, 1),
        "stored_weight_bytes": read_manifest(files[second]).stored_weight_bytes,
        "first_load_s": round(alone, 4),
        "second_load_s": round(again, 4),
    }
    print(row, flush=True)
    return row


def main() -> None:
    """Write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--rounds", type=int, default=5, help="how often each process is started (5)")
    parser.add_argument("--engine", action="append", choices=ENGINES, help="only this one; may be given often")
    arguments = parser.parse_args()
    before, heads, rows = conditions("cpu"), models(), []
    batch = inputs(heads[FIRST].config, 1, LENGTH)
    with torch.inference_mode():
        expected = {head: model(*batch.tensors()).logits.flatten()[:64].tolist() for head, model in heads.items()}
    with tempfile.TemporaryDirectory(prefix="second-engine-") as folder:
        for name in arguments.engine or ENGINES:
            files = {head: write(name, head, model, Path(folder)) for head, model in heads.items()}
            for second in heads:
                rows.append(
                    measure(name, files, second, batch.input_ids[0].tolist(), expected[second], arguments.rounds)
                )
    document = {
        "what": f"ALBERT-base, random weights, 1x{LENGTH} random ids: what a second engine adds to the resident memory "
        "of a process that has answered with a classifier over the same weights; medians",
        **before,
        "rounds": arguments.rounds,
        "rows": rows,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
