"""What the engine benchmark compares: models, the engines and peers over the same weights, and inputs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import peers as peers_of
import torch
from peers import PEERS
from torch import Tensor

from albert_fast import AlbertConfig, AlbertForSequenceClassification, AlbertTokenizer, Batch, Engine, ShapeProfile
from albert_fast.capture import capture
from albert_fast.cli.conditions import conditions as conditions_of
from albert_fast.cli.workload import Shape
from albert_fast.engine import FORMATS, Facts, Format, build, in_process, load
from albert_fast.precision import PRECISIONS, Quantization, prepare
from albert_fast.precision.calibration import collect
from albert_fast.recipe.quantizing import rest_of
from albert_fast.recipe.references import answers, reference_batches
from albert_fast.recipe.support import refusal

PROFILE = ShapeProfile.parse("1x1:8x128:32x512")
BASELINE = "transformers eager"
MEASURED_PRECISIONS = {"cpu": ("fp32", "bf16", "int8"), "cuda": ("fp32", "fp16", "bf16", "int8")}
"""Of engine files. float16 on a CPU is for moving files about: few CPUs multiply it at speed."""
PEERS_VERSIONS = ("transformers", "onnxruntime", "openvino", "nncf", "tensorflow", "ai_edge_litert")
"""Packages by their names in Python; ``tensorflow`` may come from several distributions."""
VARIANTS: dict[str, tuple[str, dict[str, str]]] = {"saved_model, XLA": ("saved_model", {"xla": "yes"})}
"""Files in float32 with other options than a row's own, by name."""
COMPILE_FOR_A_SHAPE = (*VARIANTS, "inductor", "transformers, torch.compile", "TF class, XLA")
"""What may compile when it meets a shape for the first time."""
EMULATED = {("exported_program", "int8")}
"""What shows the numbers of a precision, in float32 arithmetic; its time says nothing."""
CALIBRATION_TEXT = Path(__file__).parents[1] / "export" / "calibration" / "wordnet.txt"
CALIBRATION_TEXTS = 256


@dataclass(frozen=True)
class Subject:
    """A model to measure: its checkpoint (None: random weights of a published size) and the shapes it is timed at.

    ``more`` are those of the full grid; empty where it is the quick one's.
    """

    name: str
    checkpoint: str | None
    shapes: tuple[Shape, ...]
    more: tuple[Shape, ...] = ()

    def model(self) -> AlbertForSequenceClassification:
        """The classifier, on the CPU, in ``eval`` mode."""
        if self.checkpoint is not None:
            return AlbertForSequenceClassification.from_pretrained(self.checkpoint)
        torch.manual_seed(0)
        return AlbertForSequenceClassification(AlbertConfig.published(self.name)).eval()

    def calibration(self) -> list[Batch]:
        """Real text for a checkpoint, padded rows among it; random ids for random weights."""
        if self.checkpoint is None:
            return [inputs(AlbertConfig.published(self.name), 8, length) for length in (16, 64, 128)]
        tokenizer = AlbertTokenizer.from_pretrained(self.checkpoint)
        texts = sorted(CALIBRATION_TEXT.read_text(encoding="utf-8").splitlines()[:CALIBRATION_TEXTS], key=len)
        batches = []
        for start in range(0, len(texts), 32):
            encoded = tokenizer(texts[start : start + 32], padding=True, return_tensors="pt")
            batches.append(Batch(encoded["input_ids"], encoded["attention_mask"], encoded["token_type_ids"]))
        return batches


@dataclass(frozen=True)
class Made:
    """Something to time: a function from a batch to its logits, and what making it took.

    Attributes:
        build_s: of an engine file, from the captured program to the file and the proof of it; of what lives in this
            process, from the model to a first answer, what is compiled for the first shape with it.
        load_ms: of an engine file, from before loading to a first answer, in this process; None without a file.
        file_bytes: None without a file.
    """

    call: Callable[[Batch], Tensor]
    build_s: float | None = None
    load_ms: float | None = None
    file_bytes: int | None = None


def shapes_of(*texts: str) -> tuple[Shape, ...]:
    """Shapes by name."""
    return tuple(Shape.parse(text) for text in texts)


FULL = [Shape(batch, length) for batch in (1, 8, 32) for length in (1, 16, 64, 128, 384, 512)]
MIXED = shapes_of("8x128 mixed", "32x128 mixed", "32x512 mixed")
SUBJECTS = {
    "albert-base-v2": Subject(
        "albert-base-v2", None, shapes_of("1x16", "1x128", "8x128", "1x384", "8x128 mixed", "32x128 mixed"),
        (*FULL, *MIXED),
    ),
    "albert-fast/wordnet": Subject(
        "albert-fast/wordnet", "albert-fast/wordnet",
        shapes_of("1x16", "1x64", "8x64", "32x64", "8x64 mixed", "32x64 mixed"),
    ),
}  # fmt: skip
FIRST = Shape(1, 16)
"""What is answered first."""


def inputs(config: AlbertConfig, batch: int, length: int) -> Batch:
    """Random ids of one length, no padding: every engine computes the same tokens."""
    return Shape(batch, length).inputs(config.vocab_size)


def everything(_: str) -> bool:
    """Every engine and peer is wanted."""
    return True


def subjects_of(device: str) -> dict[str, tuple[Format, str]]:
    """What is measured on a device: every row that runs there, its file in every precision, variants; by name."""
    found: dict[str, tuple[Format, str]] = {}
    for row in FORMATS.values():
        if device not in row.devices or row.missing() is not None:
            continue
        for precision in MEASURED_PRECISIONS[device] if row.kind == "file" else ("fp32",):
            if (row.name, precision) not in EMULATED and refusal(row, PRECISIONS[precision], device) is None:
                found[row.name if precision == "fp32" else f"{row.name} {precision}"] = row, precision
    return found | {name: found[row] for name, (row, _) in VARIANTS.items() if row in found}


def precision_of(name: str, device: str) -> str:
    """Of the baseline, an engine or a peer; its answers are held to the budget of that row."""
    if name == BASELINE:
        return "fp32"
    return PEERS[name].precision if name in PEERS else subjects_of(device)[name][1]


def engines(subject: Subject, model: AlbertForSequenceClassification, folder: Path, device: str) -> dict[str, Engine]:
    """One engine of everything that ``subjects_of`` names, over the same weights; files go to ``folder``."""
    return {name: engine for name, engine, _ in built(subject, model, folder, device)}


def built(
    subject: Subject,
    model: AlbertForSequenceClassification,
    folder: Path,
    device: str,
    wanted: Callable[[str], bool] = everything,
) -> Iterator[tuple[str, Engine, Made]]:
    """The engines whose names are wanted one after the other, with what making each took; files go to ``folder``."""
    model = model.to(device)
    exact = capture(model, PROFILE)
    scales = collect(exact, subject.calibration()).scales("max")
    references = answers(model, reference_batches(model.config, "sequence-classification", PROFILE))
    first = FIRST.inputs(model.config.vocab_size)
    for name, (row, precision) in subjects_of(device).items():
        if not wanted(name):
            continue
        began = time.perf_counter()
        if row.kind == "in-process":
            engine = in_process(model, format=row.name, profile=PROFILE, device=device)
            logits_of(engine)(first)
            yield name, engine, Made(logits_of(engine), build_s=time.perf_counter() - began)
            continue
        path = folder / f"{name}{row.suffix}"
        facts = Facts(
            config=model.config.to_dict(), head="sequence-classification", attention="sdpa", precision=precision,
            profiles=(PROFILE,),
        )  # fmt: skip
        rest = rest_of(row, "auto", device)
        quantization = Quantization(scales, rest=rest) if PRECISIONS[precision].quantizes else None
        manifest = build(
            prepare(exact, precision, quantization=quantization), path, format=row.name, facts=facts,
            references=references, budget=PRECISIONS[precision].budget, device=device,
            options=VARIANTS[name][1] if name in VARIANTS else None,
        )  # fmt: skip
        build_s, began = time.perf_counter() - began, time.perf_counter()
        engine = load(path, device=device)
        logits_of(engine)(first)
        load_ms = (time.perf_counter() - began) * 1e3
        yield name, engine, Made(logits_of(engine), build_s, load_ms, manifest.file_bytes)


def logits_of(engine: Engine) -> Callable[[Batch], Tensor]:
    """An engine as a function from a batch to its logits, once the device has them."""
    return lambda batch: finished(engine(batch)["logits"])


def transformers_model(model: AlbertForSequenceClassification) -> torch.nn.Module:
    """transformers' own model over the same weights."""
    import transformers

    values = {k: v for k, v in model.config.to_dict().items() if k not in ("model_type", "return_dict")}
    theirs = transformers.AlbertForSequenceClassification(transformers.AlbertConfig(**values)).eval()
    theirs.load_state_dict(model.state_dict())
    return theirs


def baseline(model: AlbertForSequenceClassification, device: str) -> Callable[[Batch], Tensor]:
    """transformers' model as it comes: eager, its default attention."""
    theirs = transformers_model(model).to(device)

    def call(batch: Batch) -> Tensor:
        ids, mask, types = batch.to(device).tensors()
        with torch.inference_mode():
            logits: Tensor = theirs(input_ids=ids, attention_mask=mask, token_type_ids=types).logits
        return finished(logits)

    return call


def peers(
    subject: Subject,
    model: AlbertForSequenceClassification,
    folder: Path,
    device: str,
    wanted: Callable[[str], bool] = everything,
) -> Iterator[tuple[str, Made]]:
    """What ``PEERS`` names, this environment has and is wanted; they run on the CPU."""
    if device != "cpu":
        return
    theirs = peers_of.Subject(transformers_model(model), subject.calibration(), folder)
    first = FIRST.inputs(model.config.vocab_size)
    for name, peer in PEERS.items():
        if peer.missing() or not wanted(name):
            continue
        exported_s = theirs.export() if peer.file else 0.0
        began = time.perf_counter()
        call = peer.make(theirs)
        call(first)
        build_s = exported_s + time.perf_counter() - began
        yield name, Made(call, build_s, file_bytes=(folder / peer.file).stat().st_size if peer.file else None)


def finished(result: Tensor) -> Tensor:
    """The result, once the device has it."""
    if result.is_cuda:
        torch.cuda.synchronize()
    return result


def conditions(device: str) -> dict[str, Any]:
    """What the figures depend on."""
    return conditions_of(device, PEERS_VERSIONS)
