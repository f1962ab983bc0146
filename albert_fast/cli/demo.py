"""``albert-fast demo``: the whole road once, on the embedded model: engine files, predictions, latencies."""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

import albert_fast
from albert_fast.batch import Batch, ShapeProfile
from albert_fast.cli import print_json
from albert_fast.cli.inspect import this_machine
from albert_fast.cli.progress import Progress
from albert_fast.cli.stopwatch import Latency, interleaved
from albert_fast.cli.table import facts, table
from albert_fast.engine import FORMATS, Engine, Format, Manifest, in_process, load, machine
from albert_fast.errors import EngineError
from albert_fast.heads import HEADS
from albert_fast.pipelines.texts import Text
from albert_fast.precision import PRECISIONS
from albert_fast.recipe import Recipe, calibrate, export
from albert_fast.recipe.support import refusal
from albert_fast.recipe.verifying import read_texts, verify

MODEL = "albert-fast/wordnet"
PROFILE = ShapeProfile.parse("1x1:8x32:8x128")
TEXTS: Mapping[str, Sequence[str]] = {
    "masked-lm": (
        "the capital and largest [MASK] of France",
        "a [MASK] who treats sick people",
        "a [MASK] made of metal",
    ),
    "sequence-classification": (
        "a small green frog that lives in trees",
        "to run very fast in order to catch a bus",
        "a soup made from beans, onions and tomatoes",
        "the feeling of being very happy about something",
        "in a careful and quiet way",
    ),
}
CALIBRATION = Path(albert_fast.__file__).parent / "embedded" / "wordnet" / "calibration.txt"
CALIBRATED_ON = 256
"""Texts; as many others are verified on."""
INT8_IN = ("aotinductor", "native", "onnx", "tflite", "tensorrt-rtx", "tensorrt", "torch-tensorrt")
"""Formats that are shown in int8 as well: those that multiply it."""
ONLY_IN = {"masked-lm": "exported_program"}
"""Heads that are exported in one format; the other is in all."""
SHAPES = ((1, 16), (1, 64), (8, 64))
QUICK, THOROUGH = (20, 1.0), (200, 6.0)
"""Rounds of timing at most, and seconds for them, per shape."""
SETTLE_S = 0.02
TIMED_HEAD = "sequence-classification"


@dataclass(frozen=True)
class Built:
    """An engine file of the demo, and what a fresh process said with it; None where this machine cannot run it.

    Attributes:
        agreement: share of real texts with float32 eager's own answer; None where it was not run on any.
    """

    path: Path
    manifest: Manifest
    results: list[dict[str, Any]] | None
    agreement: float | None = None

    @property
    def name(self) -> str:
        """Format, and precision where it is not float32."""
        precision = self.manifest.precision
        return self.manifest.format if precision == "fp32" else f"{self.manifest.format} {precision}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to write, and how long to time."""
    parser.add_argument(
        "-o", "--output", metavar="FOLDER", default="build/demo", help="for the engine files (build/demo)"
    )
    parser.add_argument("--quick", action="store_true", help="time each shape for a second instead of six")


def run(arguments: argparse.Namespace) -> int:
    """Export, run in fresh processes, time, print."""
    folder = Path(arguments.output)
    formats, left_out = here()
    with Progress() as progress:
        folder.mkdir(parents=True, exist_ok=True)
        scales = _calibrate(folder, progress)
        built = [_build(folder, head, row, precision, scales, progress) for head, row, precision in plan(formats)]
        timed = [one for one in built if one.manifest.head == TIMED_HEAD and one.results is not None]
        timings = _time(timed, arguments.quick, progress)
    if arguments.json:
        print_json(document(built, timings, left_out))
    else:
        print(_page(built, timings, left_out))
    return 0


def here() -> tuple[list[Format], dict[str, str]]:
    """The file formats that this machine can write, and why it cannot write the others, by name."""
    left_out = {}
    for row in FORMATS.values():
        reason = row.missing()
        if reason is None and not row.builds_without_device and not machine.has_device(row.devices[0]):
            reason = f"{row.name} is built on the device it runs on, {row.devices[0]}"
        if row.kind == "file" and reason is not None:
            left_out[row.name] = reason
    return [row for row in FORMATS.values() if row.kind == "file" and row.name not in left_out], left_out


def plan(formats: Sequence[Format]) -> list[tuple[str, Format, str]]:
    """What is exported: head, format and precision."""
    found = []
    for head in TEXTS:
        for row in formats:
            if row.name != ONLY_IN.get(head, row.name):
                continue
            found.append((head, row, "fp32"))
            if row.name in INT8_IN and refusal(row, PRECISIONS["int8"], row.devices[0]) is None:
                found.append((head, row, "int8"))
    return found


def _calibrate(folder: Path, progress: Progress) -> Path:
    """The encoder's scales; they serve both heads."""
    path = folder / "wordnet.scales.json"
    texts = read_texts(CALIBRATION)[:CALIBRATED_ON]
    scales = calibrate(
        MODEL, texts, head=TIMED_HEAD, progress=lambda stage: progress(f"calibrate: {stage}"), step=progress.step
    )
    scales.save(path)
    return path


def _build(folder: Path, head: str, row: Format, precision: str, scales: Path, progress: Progress) -> Built:
    """Export one engine; verify it on real text and let a fresh process answer, where this machine has its device."""
    stem = f"{MODEL.rpartition('/')[2]}-{head}-{row.name}"
    path = folder / f"{stem}{'' if precision == 'fp32' else '-' + precision}{row.suffix}"
    quantize = {"scales": scales} if PRECISIONS[precision].quantizes else None
    recipe = Recipe.from_dict(
        {"model": MODEL, "head": head, "format": row.name, "precision": precision, "profile": PROFILE, "output": path}
        | ({"quantize": quantize} if quantize else {})
    )
    named = f"{head}, {row.name} {precision}"
    manifest = export(recipe, lambda stage: progress(f"{named}: {stage}"))
    if not machine.has_device(recipe.device_name):
        return Built(path, manifest, None)
    progress(f"{named}: verify on real text")
    # float32's budget counts no two answers as equal, however near they are
    strict = PRECISIONS["fp32"].budget
    verified = verify(path, _texts_to_verify(), budget=strict) if head == TIMED_HEAD else None
    progress(f"{named}: run in a fresh process")
    command = [sys.executable, "-m", "albert_fast", "run", str(path), "--json", "--top-k", "3", *TEXTS[head]]
    finished = subprocess.run(command, capture_output=True, text=True)
    if finished.returncode != 0:
        raise EngineError(f"a fresh process could not run {path}: {finished.stderr.strip()}")
    agreement = verified.error.argmax_agreement if verified is not None else None
    return Built(path, manifest, json.loads(finished.stdout)["results"], agreement)


def _texts_to_verify() -> list[Text]:
    """Texts that the scales were not found on."""
    return read_texts(CALIBRATION)[CALIBRATED_ON : 2 * CALIBRATED_ON]


def _time(built: Sequence[Built], quick: bool, progress: Progress) -> dict[tuple[int, int], dict[str, Latency]]:
    """Each shape: eager and every engine file in turns, after their answers have been compared."""
    model = HEADS[TIMED_HEAD].model_class.from_pretrained(MODEL)
    engines = {"eager": in_process(model, format="eager", profile=PROFILE)}
    engines |= {one.name: load(one.path) for one in built}
    budgets = {one.name: PRECISIONS[one.manifest.precision].budget.max_abs for one in built}
    rounds, seconds = QUICK if quick else THOROUGH
    timings = {}
    for batch, length in SHAPES:
        stage = f"time {batch}x{length} against eager"
        progress(stage)
        draw = torch.Generator().manual_seed(batch)
        inputs = Batch(torch.randint(5, model.config.vocab_size, (batch, length), generator=draw))
        compare(engines, inputs, budgets)
        timings[batch, length] = interleaved(
            {name: partial(engine, inputs) for name, engine in engines.items()},
            rounds=rounds,
            seconds=seconds,
            settle_s=SETTLE_S,
            tell=partial(_tell_round, progress, stage),
        )
    return timings


def _tell_round(progress: Progress, stage: str, number: int) -> None:
    progress.step(f"{stage}, round {number}")


def compare(engines: Mapping[str, Engine], inputs: Batch, budgets: Mapping[str, float]) -> None:
    """Raise ``EngineError`` where an engine's answer is beyond its budget: what is wrong is not worth timing."""
    expected = engines["eager"](inputs)["logits"]
    for name, engine in engines.items():
        difference = float((engine(inputs)["logits"] - expected).abs().max())
        if not difference <= budgets.get(name, 0.0):
            raise EngineError(
                f"{name} is {difference:.1e} away from eager at {list(inputs.input_ids.shape)}; not timed"
            )


def _page(
    built: Sequence[Built],
    timings: Mapping[tuple[int, int], Mapping[str, Latency]],
    left_out: Mapping[str, str],
) -> str:
    """Everything, for a terminal."""
    parts = []
    for head in TEXTS:
        mine = {one.name: one.results for one in built if one.manifest.head == head and one.results}
        first = next(iter(mine.values()))
        agree = all(_best(results) == _best(first) for results in mine.values())
        verdict = f"{', '.join(mine)}, each in a fresh process, " + (
            "agree on the first" if agree else "DISAGREE; this is the first"
        )
        rows = [
            [result["text"], ", ".join(f"{word} {score:.2f}" for word, score in answers)]
            for result, answers in zip(first, _answers(first), strict=True)
        ]
        parts.append(f"{head} ({verdict})\n\n{table(['text', 'top predictions'], rows, align='ll')}")
    sizes = [
        [one.path.name, f"{one.manifest.file_bytes / 1e6:.1f}", f"{one.manifest.weight_bytes / 1e6:.1f}",
         f"{one.manifest.error.max_abs:.1e}", "" if one.agreement is None else f"{one.agreement:.1%}",
         one.manifest.measured_on]
        for one in built
    ]  # fmt: skip
    header = ["engine file", "MB", "weights MB", "max error", "same answer", "max error measured on"]
    files = (
        f"engine files in {built[0].path.parent} (error against float32 eager on fixed batches; same answer: of "
        f"{CALIBRATED_ON} glosses that calibration did not see)"
    )
    parts.append(f"{files}\n\n{table(header, sizes, align='lrrrrl')}")
    if left_out:
        parts.append("not built here\n\n" + facts(list(left_out.items())))
    header = ["batch x length", "engine", "p50 ms", "p95 ms", "tokens/s", "eager / it"]
    parts.append(f"latency of {TIMED_HEAD}, timed in turns\n\n{table(header, timing_rows(timings), align='llrrrr')}")
    parts.append(f"this machine\n\n{facts([(name, str(value)) for name, value in this_machine().items()])}")
    runnable = next(one for one in reversed(built) if one.results)
    parts.append(f'next:  albert-fast run {runnable.path} "a text of yours"')
    return "\n" + "\n\n".join(parts)


def timing_rows(timings: Mapping[tuple[int, int], Mapping[str, Latency]]) -> list[list[str]]:
    """Cells of the latency table: per shape a row for each engine, with the shape in the first."""
    rows = []
    for (batch, length), by_name in timings.items():
        for name, one in by_name.items():
            rate = batch * length / one.p50_ms * 1e3
            ratio = one.speedup_over(by_name["eager"])
            shape = f"{batch}x{length}" if name == "eager" else ""
            rows.append([shape, name, f"{one.p50_ms:.1f}", f"{one.p95_ms:.1f}", f"{rate:,.0f}", f"{ratio:.2f}"])
    return rows


def _answers(results: Sequence[Mapping[str, Any]]) -> list[list[tuple[str, float]]]:
    """Word or label, and score, of every prediction for every text."""
    return [
        [(one.get("token_str", one.get("label")), one["score"]) for one in result["predictions"]] for result in results
    ]


def _best(results: Sequence[Mapping[str, Any]]) -> list[str]:
    return [answers[0][0] for answers in _answers(results)]


def document(
    built: Sequence[Built],
    timings: Mapping[tuple[int, int], Mapping[str, Latency]],
    left_out: Mapping[str, str],
) -> dict[str, Any]:
    """Everything, for machines."""
    latency = [
        {"batch": batch, "length": length, "engine": name, "p50_ms": one.p50_ms, "p95_ms": one.p95_ms}
        | {"rounds": one.rounds, "speedup_over_eager": one.speedup_over(by_name["eager"])}
        for (batch, length), by_name in timings.items()
        for name, one in by_name.items()
    ]
    engines = [
        {"engine": str(one.path), "results": one.results, "agreement": one.agreement}
        | {"manifest": dataclasses.asdict(one.manifest)}
        for one in built
    ]
    return {"model": MODEL, "machine": this_machine(), "engines": engines, "not_built": left_out, "latency": latency}
