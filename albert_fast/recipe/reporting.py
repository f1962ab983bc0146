"""The page beside a quantized engine file: what its precision does to the model, and what was kept and why."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from albert_fast.engine import Manifest
from albert_fast.recipe.scaling import Scaled
from albert_fast.report import Labelled, export_page
from albert_fast.report.data import FileSize


def report_file(output: Path) -> Path:
    """Where it lies."""
    return output.with_name(f"{output.name}.html")


def page_of(scaled: Scaled, manifest: Manifest, *, model: str, keep_float32: Sequence[str]) -> str | None:
    """The report as HTML; None where there is no text to compare on.

    Args:
        model: what the page calls it.
        keep_float32: tensors that the engine does not round to 16 bits.
    """
    held, mixed = scaled.held, scaled.mixed
    if held is None:
        return None
    labels = [int(label) for batch in held.labels or () for label in batch]
    compared_on = f"{sum(len(batch.input_ids) for batch in held.batches)} texts that the ranges were not found on"
    if mixed is not None:
        compared_on += ", the ones on which max_drop was searched"
    engine = FileSize(f"engine file, {manifest.format}", manifest.file_bytes)
    return export_page(
        model=os.fspath(model),
        exact=held.program,
        quantization=scaled.quantization,
        batches=held.batches[:4],
        labelled=Labelled(held.batches, labels, manifest.labels) if labels else None,
        statistics=scaled.statistics,
        measured=mixed.sites if mixed is not None else (),
        measured_weights=mixed.weights if mixed is not None else None,
        keep_float32=keep_float32,
        sizes=[engine],
        facts=[("engine", f"{manifest.head}, {manifest.format}, {manifest.device}"), ("compared on", compared_on)],
    )
