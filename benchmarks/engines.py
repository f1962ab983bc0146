"""What the engine benchmark compares: models, engines over the same weights, inputs, and the machine's own limit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from albert_fast import AlbertConfig, AlbertForSequenceClassification, Batch, Engine, ShapeProfile
from albert_fast.capture import capture
from albert_fast.cli.stopwatch import interleaved
from albert_fast.engine import FORMATS, Facts, Format, build, in_process, load, machine
from albert_fast.precision import PRECISIONS, prepare
from albert_fast.recipe.references import answers, reference_batches
from albert_fast.recipe.support import refusal

PROFILE = ShapeProfile.parse("1x1:8x128:32x512")
BASELINE = "transformers eager"
MEASURED_PRECISIONS = {"cpu": ("fp32", "bf16"), "cuda": ("fp32", "fp16", "bf16")}
"""Of engine files. float16 on a CPU is for moving files about: few CPUs multiply it at speed."""


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


SUBJECTS = {
    "albert-base-v2": Subject("albert-base-v2", None, ((1, 16), (1, 128), (8, 128), (1, 384))),
    "albert-fast/wordnet": Subject("albert-fast/wordnet", "albert-fast/wordnet", ((1, 16), (1, 64), (8, 64), (32, 64))),
}


def inputs(config: AlbertConfig, batch: int, length: int) -> Batch:
    """Random ids of one length, no padding: every engine computes the same tokens."""
    generator = torch.Generator().manual_seed(batch * 1000 + length)
    return Batch(torch.randint(5, config.vocab_size, (batch, length), generator=generator))


def subjects_of(device: str) -> dict[str, tuple[Format, str]]:
    """What is measured on a device: every row that runs there, and its file in every precision; by name."""
    found: dict[str, tuple[Format, str]] = {}
    for row in FORMATS.values():
        if device not in row.devices or row.missing() is not None:
            continue
        for precision in MEASURED_PRECISIONS[device] if row.kind == "file" else ("fp32",):
            if refusal(row, PRECISIONS[precision], device) is None:
                found[row.name if precision == "fp32" else f"{row.name} {precision}"] = row, precision
    return found


def tolerance(name: str, device: str) -> float:
    """Largest difference of a logit from the baseline's: the budget of the precision."""
    return PRECISIONS[subjects_of(device)[name][1]].budget.max_abs


def engines(model: AlbertForSequenceClassification, folder: Path, device: str) -> dict[str, Engine]:
    """One engine of everything that ``subjects_of`` names, over the same weights; files go to ``folder``."""
    model = model.to(device)
    made: dict[str, Engine] = {}
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
        build(
            prepare(capture(model, PROFILE), precision), path, format=row.name, facts=facts, references=references,
            budget=PRECISIONS[precision].budget, device=device,
        )  # fmt: skip
        made[name] = load(path, device=device)
    return made


def baseline(model: AlbertForSequenceClassification, device: str) -> Callable[[Batch], Tensor]:
    """transformers' own model over the same weights, as it comes: eager, its default attention."""
    import transformers

    values = {k: v for k, v in model.config.to_dict().items() if k not in ("model_type", "return_dict")}
    theirs = transformers.AlbertForSequenceClassification(transformers.AlbertConfig(**values)).eval()
    theirs.load_state_dict(model.state_dict())
    theirs = theirs.to(device)

    def call(batch: Batch) -> Tensor:
        ids, mask, types = batch.to(device).tensors()
        with torch.inference_mode():
            logits: Tensor = theirs(input_ids=ids, attention_mask=mask, token_type_ids=types).logits
        return finished(logits)

    return call


def gigaflop(config: AlbertConfig, batch: int, length: int) -> float:
    """Multiplications and additions of the matrix products of one forward pass, in 10^9."""
    hidden, passes = config.hidden_size, len(config.schedule)
    linear = 4 * hidden**2 + 2 * hidden * config.intermediate_size
    attention = 2 * length * hidden
    return 2 * batch * length * (passes * (linear + attention) + config.embedding_size * hidden) / 1e9


def gemm_ceiling(config: AlbertConfig, device: str) -> dict[str, float]:
    """The machine's float32 rate, GFLOP/s, on the model's own matrix shapes: plain, and packed for oneDNN on a CPU."""
    hidden, wide = config.hidden_size, config.intermediate_size
    x, weight, bias = torch.randn(1024, hidden), torch.randn(wide, hidden), torch.randn(wide)
    x, weight, bias = x.to(device), weight.to(device), bias.to(device)
    calls: dict[str, Callable[[], object]] = {"plain": lambda: finished(torch.nn.functional.linear(x, weight, bias))}
    if device == "cpu" and torch.backends.mkldnn.is_available():
        packed = torch.ops.mkldnn._reorder_linear_weight(weight)
        calls["packed"] = lambda: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    with torch.inference_mode():
        timed = interleaved(calls, rounds=40, seconds=4.0)
    return {name: round(2 * 1024 * hidden * wide / 1e6 / latency.p50_ms, 1) for name, latency in timed.items()}


def finished(result: Tensor) -> Tensor:
    """The result, once the device has it."""
    if result.is_cuda:
        torch.cuda.synchronize()
    return result


def conditions(device: str) -> dict[str, Any]:
    """What the figures depend on."""
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
            "transformers": importlib.metadata.version("transformers"),
        },
    }
