"""How soon a fresh process that has imported torch answers from an engine file, and how much memory it then holds.

    python benchmarks/first_result.py -o benchmarks/results/first_result.json

Each figure is of a process of its own, files in the page cache, all subjects in turns in one run: from the end of
``import torch`` over the import of the package and the load of the file to the first answer. Memory is what the process
has resident when it has answered, beyond what it had after ``import torch``. Every answer is checked.

Threads of OpenMP wait by spinning: where other work takes the cores, an answer takes seconds. On such a machine set
``OMP_WAIT_POLICY=PASSIVE``, which the result then says.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from engines import BASELINE, PROFILE, SUBJECTS, conditions, inputs, precision_of, subjects_of, transformers_model

from albert_fast.capture import capture
from albert_fast.engine import Facts, build, read_manifest
from albert_fast.precision import PRECISIONS, Quantization, prepare
from albert_fast.precision.calibration import collect
from albert_fast.recipe.quantizing import rest_of
from albert_fast.recipe.references import answers, reference_batches

SUBJECT = SUBJECTS["albert-base-v2"]
FORMATS_MEASURED = ("aotinductor", "native", "onnx", "exported_program")
LENGTH, WARM_UP_ROUNDS = 16, 1
PROGRAM = """
import json, sys, time
began = time.perf_counter()
import torch
imported = time.perf_counter()
def memory():
    rows = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return {{key: int(rows[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM")}}
bare = memory()
ids, path = torch.tensor(json.load(open(sys.argv[2]))), sys.argv[1]
start = time.perf_counter()
{load}
loaded = time.perf_counter()
logits = answer()
first = time.perf_counter()
held = memory()
answer()
again = time.perf_counter()
print(json.dumps({{
    "import_torch_s": imported - began, "load_s": loaded - start, "answer_s": first - loaded,
    "first_result_s": first - start, "second_answer_ms": (again - first) * 1e3,
    "resident_mb": (held["VmRSS"] - bare["VmRSS"]) / 1e6, "peak_mb": (held["VmHWM"] - bare["VmRSS"]) / 1e6,
    "torch_mb": bare["VmRSS"] / 1e6, "logits": logits[0].tolist(),
}}))
"""
OURS = """
import albert_fast
engine = albert_fast.load(path)
answer = lambda: engine(albert_fast.Batch(ids))["logits"]
"""
THEIRS = """
from transformers import AlbertForSequenceClassification
model = AlbertForSequenceClassification.from_pretrained(path).eval()
def answer():
    with torch.inference_mode():
        return model(input_ids=ids).logits
"""


def write_engines(model: Any, folder: Path, only: Collection[str] | None) -> dict[str, Path]:
    """The baseline's checkpoint and an engine file of every precision of ``FORMATS_MEASURED``, by name.

    Args:
        only: names of engines; None: all of them.
    """
    files = {BASELINE: folder / "transformers"}
    transformers_model(model).save_pretrained(files[BASELINE])  # type: ignore[operator]
    exact = capture(model, PROFILE)
    scales = collect(exact, SUBJECT.calibration()).scales("max")
    references = answers(model, reference_batches(model.config, "sequence-classification", PROFILE))
    for name, (row, precision) in subjects_of("cpu").items():
        if row.name not in FORMATS_MEASURED or (only is not None and name not in only):
            continue
        facts = Facts(
            config=model.config.to_dict(), head="sequence-classification", attention="sdpa", precision=precision,
            profiles=(PROFILE,),
        )  # fmt: skip
        wanted = PRECISIONS[precision]
        quantization = Quantization(scales, rest=rest_of(row, "auto", "cpu")) if wanted.quantizes else None
        files[name] = folder / f"{name}{row.suffix}"
        build(
            prepare(exact, precision, quantization=quantization), files[name], format=row.name, facts=facts,
            references=references, budget=wanted.budget,
        )  # fmt: skip
        print(f"built {name}", flush=True)
    return files


def start(name: str, path: Path, ids: Path) -> dict[str, Any]:
    """What one process of its own tells of itself.

    Args:
        ids: a JSON file, ``[batch, length]``.
    """
    program = PROGRAM.format(load=(THEIRS if name == BASELINE else OURS).strip())
    command = [sys.executable, "-c", program, str(path), str(ids)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{name} failed: {done.stderr}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def started(name: str, path: Path, ids: Path, expected: list[float]) -> dict[str, Any]:
    """``start`` without the answer, which has been compared with the expected logits of the first text.

    Raises:
        SystemExit: it is further from float32 eager than its precision is allowed.
    """
    one = start(name, path, ids)
    difference = max(abs(found - right) for found, right in zip(one.pop("logits"), expected, strict=True))
    allowed = PRECISIONS[precision_of(name, "cpu")].budget.max_abs
    if not difference <= allowed:
        raise SystemExit(f"{name} is {difference} from float32 eager, at most {allowed} is allowed")
    return one


def measure(files: Mapping[str, Path], ids: Path, expected: list[float], rounds: int) -> list[dict[str, Any]]:
    """A row for every file: the median of each figure, and the span of the time to the first result."""
    told: dict[str, list[dict[str, Any]]] = {name: [] for name in files}
    for number in range(WARM_UP_ROUNDS + rounds):
        for name, path in files.items():
            one = started(name, path, ids, expected)
            if number >= WARM_UP_ROUNDS:
                told[name].append(one)
        print(f"round {number} of {rounds}", flush=True)
    return [_row(name, files[name], found) for name, found in told.items()]


def _row(name: str, path: Path, told: list[dict[str, Any]]) -> dict[str, Any]:
    """Times in seconds, memory in 10^6 bytes; ``over_weights_mb`` is the resident memory less the file's weights."""
    if path.is_dir():
        file_bytes = weight_bytes = (path / "model.safetensors").stat().st_size
    else:
        manifest = read_manifest(path)
        file_bytes, weight_bytes = manifest.file_bytes, manifest.stored_weight_bytes
    medians = {key: round(statistics.median(one[key] for one in told), 4) for key in told[0]}
    times = [one["first_result_s"] for one in told]
    return {
        "engine": name,
        "precision": precision_of(name, "cpu"),
        **medians,
        "first_result_s_min": round(min(times), 4),
        "first_result_s_max": round(max(times), 4),
        "over_weights_mb": round(medians["resident_mb"] - weight_bytes / 1e6, 1),
        "stored_weight_bytes": weight_bytes,
        "file_bytes": file_bytes,
    }


def main() -> None:
    """Write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--rounds", type=int, default=9, help="how often each process is started (9)")
    parser.add_argument("--engine", action="append", help="only this one beside the baseline; may be given often")
    arguments = parser.parse_args()
    before = conditions("cpu")
    model = SUBJECT.model()
    batch = inputs(model.config, 1, LENGTH)
    with torch.inference_mode():
        expected = model(*batch.tensors()).logits[0].tolist()
    with tempfile.TemporaryDirectory(prefix="first-result-") as folder:
        files, ids = write_engines(model, Path(folder), arguments.engine), Path(folder) / "ids.json"
        ids.write_text(json.dumps(batch.input_ids.tolist()))
        rows = measure(files, ids, expected, arguments.rounds)
    document = {
        "what": f"ALBERT-base classifier, random weights, 1x{LENGTH} random ids: a fresh process from the end of "
        "'import torch' to its first answer, and its resident memory then, beyond that after 'import torch'; medians",
        **before,
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "rounds": arguments.rounds,
        "rows": rows,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
