"""Reports for people: self-contained HTML pages of what calibration found and what a precision does to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch.export import ExportedProgram

from albert_fast.batch import Batch
from albert_fast.precision import PRECISIONS, Quantization, prepare
from albert_fast.precision.calibration import Statistics
from albert_fast.precision.scales import Scales
from albert_fast.report import comparing, gather
from albert_fast.report.data import FileSize, PrecisionData
from albert_fast.report.gather import MeasuredSite
from albert_fast.report.page import write
from albert_fast.report.precision import precision_report

__all__ = ["Labelled", "calibration_page", "export_page", "precision_report", "write"]


@dataclass(frozen=True)
class Labelled:
    """Texts of known class: ``labels`` has one index for every text of all batches, ``names`` those of the classes."""

    batches: Sequence[Batch]
    labels: Sequence[int]
    names: Sequence[str]


def calibration_page(statistics: Statistics, scales: Scales, *, model: str = "") -> str:
    """What calibration saw and which ranges were chosen.

    Args:
        statistics: of ``precision.calibration.collect``.
        scales: chosen from them.
        model: what to call it; the digest of its weights unless given.
    """
    return precision_report(
        PrecisionData(
            model=model or f"encoder {scales.model[:12]}",
            facts=_facts(scales),
            ranges=gather.ranges(scales, statistics),
            channels=gather.channels(statistics),
        )
    )


def export_page(
    *,
    model: str,
    exact: ExportedProgram,
    quantization: Quantization,
    batches: Sequence[Batch] = (),
    labelled: Labelled | None = None,
    statistics: Statistics | None = None,
    measured: Sequence[MeasuredSite] = (),
    measured_weights: float | None = None,
    reasons: Mapping[str, str] | None = None,
    keep_float32: Sequence[str] = (),
    sizes: Sequence[FileSize] = (),
    facts: Sequence[tuple[str, str]] = (),
) -> str:
    """What an int8 program does beside float32 and bf16 ones of the same weights. Every program is run on every batch.

    Args:
        model: what to call it.
        exact: as captured, in float32.
        quantization: of the int8 program.
        batches: text to compare hidden states on; without it that section is left out.
        labelled: text of known class, for the accuracy; without it that section is left out.
        statistics: of calibration, where it ran in this process.
        measured: rows of ``precision.sensitivity``, which also say why a place is kept.
        measured_weights: what rounding all weights alone does, measured with them.
        reasons: why a pattern of ``keep`` is kept, where it was not measured.
        keep_float32: as in ``precision.prepare``, of the int8 program.
        sizes: of the files written.
        facts: more names and values for the head of the page.
    """
    scales = quantization.scales
    typed = {
        "bf16": prepare(exact, "bf16"),
        "int8": prepare(exact, "int8", quantization=quantization, keep_float32=keep_float32),
        "int8, passes merged": prepare(
            exact, "int8", quantization=replace(quantization, scales=scales.merged()), keep_float32=keep_float32
        ),
    }
    weights = [
        FileSize(f"weights, {name}", gather.weight_bytes(one))
        for name, one in {"fp32": exact, **typed}.items()
        if name in PRECISIONS
    ]
    data = PrecisionData(
        model=model,
        facts=(*facts, *_facts(scales), ("rest", quantization.rest), ("parts", ", ".join(quantization.parts))),
        ranges=gather.ranges(scales, statistics),
        channels=gather.channels(statistics) if statistics is not None else (),
        sensitivity=gather.sensitivity(measured, measured_weights) if measured else None,
        errors=comparing.errors_per_pass(exact, typed, batches) if batches else (),
        sizes=(*weights, *sizes),
        kept=gather.kept(exact, quantization, {**gather.measured_reasons(measured), **(reasons or {})}),
    )
    if labelled is not None:
        answers = {name: comparing.predictions(one, labelled.batches) for name, one in {"fp32": exact, **typed}.items()}
        data = replace(
            data,
            accuracy=comparing.accuracy(answers, labelled.labels),
            changes=comparing.confusion_changes(answers["fp32"], answers["int8"], labelled.labels, labelled.names),
        )
    return precision_report(data)


def _facts(scales: Scales) -> tuple[tuple[str, str], ...]:
    """Under which the ranges hold."""
    text = scales.text
    smoothed = [("smoothed", f"{len(scales.smoothing)} tensors (SmoothQuant)")] if scales.smoothing else []
    return (
        ("ranges", scales.method),
        ("calibrated on", f"{text.texts:,} texts, {text.tokens:,} tokens{f' of {text.source}' if text.source else ''}"),
        *smoothed,
        ("scales", f"sha256 {scales.digest[:16]}"),
        ("weights", f"sha256 {scales.model[:16]}"),
    )
