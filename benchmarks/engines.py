"""What the engine benchmark compares: models, engines over the same weights, inputs, and the machine's own limit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import peers as peers_of
import torch
from peers import PEERS
from torch import Tensor

from albert_fast import AlbertConfig, AlbertForSequenceClassification, AlbertTokenizer, Batch, Engine, ShapeProfile
from albert_fast.capture import capture
from albert_fast.cli.stopwatch import interleaved
from albert_fast.engine import FORMATS, Facts, Format, build, in_process, load, machine
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
EMULATED = {("exported_program", "int8")}
"""What shows the numbers of a precision, in float32 arithmetic; its time says nothing."""
CALIBRATION_TEXT = Path(__file__).parents[1] / "export" / "calibration" / "wordnet.txt"
CALIBRATION_TEXTS = 256


@dataclass(frozen=True)
class Subject:
    """A model to measure: its checkpoint (None: random weights of a published size) and the shapes it is timed at."""

    name: str
    checkpoint: str | None
    shapes: tuple[tuple[int, int], ...]

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


SUBJECTS = {
    "albert-base-v2": Subject("albert-base-v2", None, ((1, 16), (1, 128), (8, 128), (1, 384))),
    "albert-fast/wordnet": Subject("albert-fast/wordnet", "albert-fast/wordnet", ((1, 16), (1, 64), (8, 64), (32, 64))),
}


def inputs(config: AlbertConfig, batch: int, length: int) -> Batch:
    """Random ids of one length, no padding: every engine computes the same tokens."""
    generator = torch.Generator().manual_seed(batch * 1000 + length)
    return Batch(torch.randint(5, config.vocab_size, (batch, length), generator=generator))


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
    model = model.to(device)
    made: dict[str, Engine] = {}
    exact = capture(model, PROFILE)
    scales = collect(exact, subject.calibration()).scales("max")
    references = answers(model, reference_batches(model.config, "sequence-classification", PROFILE))
    for name, (row, precision) in subjects_of(device).items():
        if row.kind == "in-process":
            made[name] = in_process(model, format=row.name, profile=PROFILE, device=device)
            continue
        path = folder / f"{name}{row.suffix}"
        facts = Facts(
            config=model.config.to_dict(), head="sequence-classification", attention="sdpa", precision=precision,
            profiles=(PROFILE,),
        )  # fmt: skip
        rest = rest_of(row, "auto", device)
        quantization = Quantization(scales, rest=rest) if PRECISIONS[precision].quantizes else None
        build(
            prepare(exact, precision, quantization=quantization), path, format=row.name, facts=facts,
            references=references, budget=PRECISIONS[precision].budget, device=device,
            options=VARIANTS[name][1] if name in VARIANTS else None,
        )  # fmt: skip
        made[name] = load(path, device=device)
    return made


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
    subject: Subject, model: AlbertForSequenceClassification, folder: Path, device: str
) -> dict[str, Callable[[Batch], Tensor]]:
    """What ``PEERS`` names and this environment has; they run on the CPU."""
    if device != "cpu":
        return {}
    theirs = peers_of.Subject(transformers_model(model), subject.calibration(), folder)
    return {name: peer.make(theirs) for name, peer in PEERS.items() if not peer.missing()}


def gigaflop(config: AlbertConfig, batch: int, length: int) -> float:
    """Multiplications and additions of the matrix products of one forward pass, in 10^9."""
    hidden, passes = config.hidden_size, len(config.schedule)
    linear = 4 * hidden**2 + 2 * hidden * config.intermediate_size
    attention = 2 * length * hidden
    return 2 * batch * length * (passes * (linear + attention) + config.embedding_size * hidden) / 1e9


def gemm_ceiling(config: AlbertConfig, device: str) -> dict[str, dict[str, float]]:
    """The machine's rate, GFLOP/s, on the model's own matrix shapes by precision and kernel, timed in turns.

    Plain, and on a CPU packed for oneDNN; int8 from and to u8, as between the two maps of the feed-forward network.
    """
    hidden, wide = config.hidden_size, config.intermediate_size
    x, weight, bias = torch.randn(1024, hidden), torch.randn(wide, hidden), torch.randn(wide)
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for name, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16}.items():
        one = [tensor.to(device, dtype) for tensor in (x, weight, bias)]
        calls[name, "plain"] = lambda one=one: finished(torch.nn.functional.linear(*one))  # type: ignore[misc]
        if device == "cpu" and torch.backends.mkldnn.is_available():
            calls[name, "packed"] = partial(_packed, one[0], torch.ops.mkldnn._reorder_linear_weight(one[1]), one[2])
    if device == "cpu" and torch.backends.mkldnn.is_available():
        calls["int8", "packed"] = _int8(1024, hidden, wide, bias)
    with torch.inference_mode():
        timed = interleaved(calls, rounds=40, seconds=8.0)
    found: dict[str, dict[str, float]] = {}
    for (name, kernel), latency in timed.items():
        found.setdefault(name, {})[kernel] = round(2 * 1024 * hidden * wide / 1e6 / latency.p50_ms, 1)
    return found


def _packed(x: Tensor, packed: Tensor, bias: Tensor) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    return result


def _int8(rows: int, hidden: int, wide: int, bias: Tensor) -> Callable[[], object]:
    x = torch.randint(0, 255, (rows, hidden), dtype=torch.uint8)
    weight = torch.randint(-127, 128, (wide, hidden), dtype=torch.int8)
    packed = torch.ops.onednn.qlinear_prepack(weight, [rows, hidden])
    scales, zeros = torch.full((wide,), 1e-3), torch.zeros(wide, dtype=torch.int32)
    return lambda: torch.ops.onednn.qlinear_pointwise(
        x, 1e-2, 128, packed, scales, zeros, bias, 0.1, 128, torch.uint8, "none", [], ""
    )


def finished(result: Tensor) -> Tensor:
    """The result, once the device has it."""
    if result.is_cuda:
        torch.cuda.synchronize()
    return result


def conditions(device: str) -> dict[str, Any]:
    """What the figures depend on."""
    found = importlib.metadata.packages_distributions()
    return {
        "processor": machine.versions()["cpu"],
        "capability": machine.versions()["cpu_capability"],
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "system": platform.system(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            **{name: importlib.metadata.version(found[name][0]) for name in PEERS_VERSIONS if name in found},
        },
    }
