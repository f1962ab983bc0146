"""How soon the program of export/cpp answers after its process starts, beside Python on the same engine file.

    cmake -S export/cpp -B build/cpp && cmake --build build/cpp
    python benchmarks/cpp_runner.py -o benchmarks/results/cpp_runner.json

Each figure is the time from starting a process to the first line that it writes, files in the page cache, all subjects
in turns in one run. Every answer is checked.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from engines import PROFILE, SUBJECTS, conditions, inputs

from albert_fast.capture import capture
from albert_fast.cli.stopwatch import Latency
from albert_fast.engine import Facts, build, load
from albert_fast.precision import PRECISIONS
from albert_fast.recipe.references import answers, reference_batches

PROGRAM = Path(__file__).parents[1] / "build" / "cpp" / "albert-fast-run"
RUNNER, IMPORT, PYTHON = "albert-fast-run", "python: import torch", "python: albert_fast"
LENGTH, WARM_UP_ROUNDS = 16, 2
TOLERANCE = PRECISIONS["fp32"].budget.max_abs
SCRIPT = """
import sys, torch
from albert_fast import Batch, load
ids = torch.tensor([[int(word) for word in sys.stdin.readline().split()]])
print("logits", *load(sys.argv[1])(Batch(ids))["logits"][0].tolist(), flush=True)
"""


def build_engine(path: Path) -> None:
    """ALBERT-base as a classifier, random weights, the linear maps as they are fastest here."""
    model = SUBJECTS["albert-base-v2"].model()
    facts = Facts(
        config=model.config.to_dict(), head="sequence-classification", attention="sdpa", precision="fp32",
        profiles=(PROFILE,),
    )  # fmt: skip
    references = answers(model, reference_batches(model.config, "sequence-classification", PROFILE))
    budget = PRECISIONS["fp32"].budget
    build(capture(model, PROFILE), path, format="aotinductor", facts=facts, references=references, budget=budget)


def first_line(command: list[str], stdin: str) -> tuple[float, str, str]:
    """Milliseconds to the first line, the line, and what the process said on stderr."""
    started = time.perf_counter()
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        process.stdin.write(stdin)
        process.stdin.flush()
        line = process.stdout.readline()
        elapsed = (time.perf_counter() - started) * 1e3
        process.stdin.close()
        said = process.stderr.read()
    if process.returncode != 0:
        raise SystemExit(f"{command[0]} failed: {said}")
    return elapsed, line, said


def measure(engine: Path, rounds: int) -> dict[str, object]:
    """Latencies by subject, and the program's own account of where its time goes."""
    batch = inputs(SUBJECTS["albert-base-v2"].model().config, 1, LENGTH)
    expected = load(engine)(batch)["logits"][0]
    stdin = " ".join(str(i) for i in batch.input_ids[0].tolist()) + "\n"
    commands = {
        RUNNER: [str(PROGRAM), str(engine), "--time"],
        IMPORT: [sys.executable, "-c", "import torch; print('imported', flush=True)"],
        PYTHON: [sys.executable, "-c", SCRIPT, str(engine)],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    stages: dict[str, list[int]] = {"main": [], "engine loaded": [], "first answer": []}
    difference = 0.0
    for number in range(WARM_UP_ROUNDS + rounds):
        for name, command in commands.items():
            elapsed, line, said = first_line(command, stdin)
            if name != IMPORT:
                found = torch.tensor([float(word) for word in line.split()[1:]])
                difference = max(difference, float((found - expected).abs().max()))
            if number < WARM_UP_ROUNDS:
                continue
            times[name].append(elapsed)
            for stage in stages if name == RUNNER else ():
                stages[stage] += [int(ms) for ms in re.findall(rf"{stage} (\d+)", said)]
    if difference > TOLERANCE:
        raise SystemExit(f"the answers differ by {difference}, at most {TOLERANCE} is allowed; nothing was written")
    latencies = {name: Latency(tuple(values)) for name, values in times.items()}
    return {
        "first_line_ms": {
            name: {"p50": round(latency.p50_ms, 1), "p95": round(latency.p95_ms, 1)}
            for name, latency in latencies.items()
        },
        "import_torch_over_runner": round(latencies[RUNNER].speedup_over(latencies[IMPORT]), 2),
        "runner_stages_p50_ms": {stage: statistics.median(values) for stage, values in stages.items()},
        "max_abs_difference": difference,
        "rounds": rounds,
    }


def main() -> None:
    """Write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--rounds", type=int, default=20, help="how often each process is started (20)")
    arguments = parser.parse_args()
    if not PROGRAM.is_file():
        raise SystemExit(f"{PROGRAM} is not built; build it with the first command of export/cpp/README.md")
    before = conditions("cpu")
    with tempfile.TemporaryDirectory() as folder:
        engine = Path(folder) / "engine.pt2"
        build_engine(engine)
        document = {
            "what": f"from starting a process to its first answer, ALBERT-base classifier in float32, 1x{LENGTH} "
            "random ids; stages are the program's own account, whose start is known to 10 ms",
            **before,
            "file_bytes": engine.stat().st_size,
            **measure(engine, arguments.rounds),
        }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
