"""From calibration and quantization to the plain numbers of ``data``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Protocol

import numpy as np
import torch
from torch.export import ExportedProgram

from albert_fast.precision.calibration import Statistics
from albert_fast.precision.histogram import Histogram, percentile
from albert_fast.precision.quantization import Quantization
from albert_fast.precision.scales import Scales
from albert_fast.precision.sites import Site, matches, sites
from albert_fast.report.data import ChannelSpread, Kept, Sensitivity, TensorRange
from albert_fast.report.markup import number

QMAX = 127


def ranges(scales: Scales, statistics: Statistics | None = None) -> tuple[TensorRange, ...]:
    """The range of every tensor that the scales name; with statistics also what it cuts off and how exact it is.

    Of a smoothed tensor there is only the range: statistics saw it before it was smoothed.
    """
    found = []
    for tensor, chosen in scales.amax.items():
        seen = statistics.histograms.get(tensor, []) if statistics is not None else []
        smoothed = tensor in scales.smoothing
        if len(seen) != len(chosen) or smoothed:
            found.append(TensorRange(tensor, tuple(chosen), smoothed=smoothed))
            continue
        pairs = list(zip(seen, chosen, strict=True))
        found.append(
            TensorRange(
                tensor,
                tuple(chosen),
                largest=tuple(h.amax for h in seen),
                middle=tuple(percentile(h, 50.0) for h in seen),
                clipped=tuple(_share_beyond(h, limit) for h, limit in pairs),
                signal_db=tuple(signal_db(h, limit) for h, limit in pairs),
                merged_signal_db=tuple(signal_db(h, max(chosen)) for h in seen),
            )
        )
    return tuple(found)


def signal_db(histogram: Histogram, limit: float) -> float:
    """Power of a tensor by that of its error when it is rounded to int8 with ``limit`` as its range, in decibels."""
    x, weight, step = histogram.centers, histogram.counts, limit / QMAX
    error = x - np.minimum(np.round(x / step), QMAX) * step
    signal, noise = float((weight * x**2).sum()), float((weight * error**2).sum())
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else math.nan


def channels(statistics: Statistics) -> tuple[ChannelSpread, ...]:
    """How the largest magnitudes of each tensor's channels lie, pass by pass."""
    found = []
    for tensor, amax in statistics.channel_amax.items():
        numbers = amax.detach().to("cpu", torch.float64)
        quantiles = numbers.quantile(torch.tensor([0.5, 0.99], dtype=torch.float64), dim=1)
        top, index = numbers.max(dim=1)
        median, high = (tuple(row) for row in quantiles.tolist())
        found.append(ChannelSpread(tensor, numbers.shape[1], median, high, tuple(top.tolist()), tuple(index.tolist())))
    return tuple(found)


class MeasuredSite(Protocol):
    """A row of ``precision.sensitivity``: one tensor in one pass, and what its rounding alone does."""

    @property
    def tensor(self) -> str: ...
    @property
    def pass_index(self) -> int: ...
    @property
    def divergence(self) -> float: ...


def sensitivity(measured: Iterable[MeasuredSite], weights: float | None = None) -> Sensitivity:
    """What ``precision.sensitivity`` measured, as a grid of passes by tensors, and what all weights alone do."""
    values = {(one.pass_index, one.tensor): one.divergence for one in measured}
    tensors = tuple(dict.fromkeys(tensor for _, tensor in sorted(values)))
    passes = range(max((index for index, _ in values), default=-1) + 1)
    rows = tuple(tuple(values.get((index, tensor)) for tensor in tensors) for index in passes)
    return Sensitivity("mean divergence of the answers", "nats", tensors, rows, weights)


def measured_reasons(measured: Iterable[MeasuredSite]) -> dict[str, str]:
    """Why a place is kept that was kept for its sensitivity: ``{tensor@pass: what its rounding does}``."""
    return {
        f"{one.tensor}@{one.pass_index}": f"its rounding alone moves the answers by {number(one.divergence)} nats"
        for one in measured
    }


def kept(
    exact: ExportedProgram, quantization: Quantization, reasons: Mapping[str, str] | None = None
) -> tuple[Kept, ...]:
    """What could be quantized and is not.

    Args:
        exact: as captured, in float32.
        quantization: what was quantized.
        reasons: ``{pattern of keep: why}``, where it is known.
    """
    passes: dict[tuple[str, str], list[int]] = {}
    everywhere = Counter[str]()
    seen: set[str] = set()
    for site in sites(exact):
        if site.place in seen:
            continue
        seen.add(site.place)
        everywhere[site.tensor] += 1
        reason = _reason(site, quantization, reasons or {})
        if reason is not None:
            passes.setdefault((site.tensor, reason), []).append(site.pass_index)
    return tuple(
        Kept(
            tensor,
            "all" if len(found) == everywhere[tensor] else ", ".join(map(str, found)),
            quantization.rest,
            reason,
        )
        for (tensor, reason), found in passes.items()
    )


def weight_bytes(program: ExportedProgram) -> int:
    """Bytes of a program's weights, each counted once."""
    tensors = {t.data_ptr(): t.nbytes for t in program.state_dict.values()}
    return sum(tensors.values())


def _share_beyond(histogram: Histogram, limit: float) -> float:
    total = float(histogram.counts.sum())
    return float(histogram.counts[histogram.centers > limit].sum()) / total if total else 0.0


def _reason(site: Site, quantization: Quantization, reasons: Mapping[str, str]) -> str | None:
    """Why a site is not quantized; None if it is."""
    if site.part not in quantization.parts:
        return f"the part {site.part} is not quantized"
    for pattern in quantization.keep:
        if matches(site, (pattern,)):
            return reasons.get(pattern, f"named by keep: {pattern}")
    return None
