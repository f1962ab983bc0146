"""Which engines there can be: every format x precision x device x attention, and why a cell is empty."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from albert_fast.attention import ATTENTION
from albert_fast.engine import FORMATS, Format
from albert_fast.precision import PRECISIONS, Precision


@dataclass(frozen=True)
class Cell:
    """One combination; ``reason`` says why there is no such engine, None where there is."""

    format: str
    precision: str
    device: str
    attention: str
    reason: str | None


def cells() -> Iterator[Cell]:
    """Every combination of the four tables, for file formats and those that live in a process."""
    for row in FORMATS.values():
        for precision in PRECISIONS.values():
            for device in ("cpu", "cuda"):
                for attention in ATTENTION:
                    reason = refusal(row, precision, device) or attention_refusal(row, attention)
                    yield Cell(row.name, precision.name, device, attention, reason)


def refusal(row: Format, precision: Precision, device: str) -> str | None:
    """Why a format cannot serve a precision on a device, or None."""
    if row.kind == "in-process" and precision.name != "fp32":
        return "in process the live model runs in the dtype that it has; cast the model itself: model.to(dtype)"
    return row.gap(str(precision.dtype).removeprefix("torch."), device)


def attention_refusal(row: Format, attention: str) -> str | None:
    """Why a format does not take a graph with this attention implementation, or None."""
    if not row.attentions or attention in row.attentions:
        return None
    return f"{row.name} takes a graph with attention {' or '.join(row.attentions)}; choose that, or another format"
