"""The magnitudes of a tensor as a histogram, and the ways to choose a range from it.

Sources: max, percentile and entropy as in Migacz 2017, "8-bit inference with TensorRT" (GTC S7310), and Wu et al. 2020,
arXiv:2004.09602, section 5; mse as there, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

BINS = 4096
LEVELS = 128
"""Magnitudes of symmetric int8: 0..127."""
_CANDIDATES = 96
_SMALLEST_SHARE = 0.3
_SMALLEST_MASS = 1e-9
_SMALLEST_LIMIT = 2.0**-100  # below it the bins would be narrower than float32 can say
_PORTION = 1 << 20


class Histogram:
    """Counts of ``|x|`` in ``BINS`` equal bins from 0 to ``limit``, which doubles when a larger number comes.

    The limit is a power of two, so the bins, and with them every range, are the same in whatever portions the numbers
    came.

    Attributes:
        amax: the largest magnitude seen, exactly.
        limit: upper end of the last bin, the smallest power of two above ``amax``.
        counts: float64 ``[BINS]``.
    """

    def __init__(self) -> None:
        self.amax = 0.0
        self.limit = 0.0
        self.counts = np.zeros(BINS)

    def add(self, x: Tensor) -> None:
        """Count the numbers of a tensor of any shape.

        Raises:
            ValueError: one of them is NaN or infinite.
        """
        magnitudes = x.detach().abs().to(torch.float32).flatten()
        if not magnitudes.numel():
            return
        largest = float(magnitudes.max())
        if not math.isfinite(largest):
            raise ValueError("a number is NaN or infinite")
        self.amax = max(self.amax, largest)
        self._widen(largest)
        counted = torch.zeros(BINS, dtype=torch.int64, device=x.device)
        for portion in magnitudes.split(_PORTION):
            # histc takes seven times as long and counts in float32: it stops at 2**24 numbers in a bin (torch 2.13)
            bins = (portion * (BINS / (self.limit or 1.0))).to(torch.int32)
            counted += torch.bincount(bins, minlength=BINS)
        self.counts += counted.cpu().numpy()

    def _widen(self, largest: float) -> None:
        """Make room for a larger number: two bins become one."""
        limit = max(_SMALLEST_LIMIT, math.ldexp(1.0, math.frexp(largest)[1])) if largest else 0.0
        while 0 < self.limit < limit:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(axis=1), np.zeros(BINS // 2)])
            self.limit *= 2
        self.limit = max(self.limit, limit)

    @property
    def centers(self) -> np.ndarray:
        """The middle of every bin, float64."""
        return (np.arange(BINS) + 0.5) * (self.limit / BINS)


def largest(histogram: Histogram) -> float:
    """``max``: nothing is clipped."""
    return histogram.amax


def percentile(histogram: Histogram, share: float = 99.99) -> float:
    """``percentile``: ``share`` per cent of the numbers are not clipped."""
    cumulated = histogram.counts.cumsum()
    index = int(np.searchsorted(cumulated, cumulated[-1] * share / 100))
    return min(histogram.amax, (min(index, BINS - 1) + 1) * histogram.limit / BINS)


def mse(histogram: Histogram) -> float:
    """``mse``: the range whose rounding and clipping leave the smallest mean squared error."""
    if not histogram.amax:
        return 0.0
    present = histogram.counts > 0
    x, weight = histogram.centers[present], histogram.counts[present]
    ranges = histogram.amax * np.linspace(_SMALLEST_SHARE, 1.0, _CANDIDATES)
    scales = ranges[:, None] / (LEVELS - 1)
    rounded = np.minimum(np.round(x / scales), LEVELS - 1) * scales
    errors = (weight * (x - rounded) ** 2).sum(axis=1)
    return float(ranges[int(errors.argmin())])


def entropy(histogram: Histogram) -> float:
    """``entropy``: the range whose 128 levels lose the least information (Kullback-Leibler divergence).

    A candidate keeps the first ``n`` bins, adds what is clipped to the last, and is compared with itself in 128 levels.
    """
    counts = histogram.counts.copy()
    counts[0] = 0.0  # exact zeros, such as those of a ReLU, say nothing of the range
    used = min(BINS, max(LEVELS, math.ceil(histogram.amax / (histogram.limit or 1.0) * BINS)))
    candidates = range(LEVELS, used + 1, max(1, used // 256))
    divergences = [_divergence(counts, n) for n in candidates]
    best = candidates[int(np.argmin(divergences))]
    return min(histogram.amax, best * histogram.limit / BINS)


METHODS: Mapping[str, Callable[..., float]] = {
    "max": largest,
    "percentile": percentile,
    "entropy": entropy,
    "mse": mse,
}
"""Ways to choose a range: histogram -> the largest magnitude that is not clipped."""


def _divergence(counts: np.ndarray, n: int) -> float:
    """KL divergence between the first ``n`` bins, what is clipped in the last, and the same in 128 levels."""
    kept = counts[:n].copy()
    kept[-1] += counts[n:].sum()
    if kept.sum() == 0:
        return math.inf
    level = np.arange(n) * LEVELS // n
    present = counts[:n] > 0
    sums = np.bincount(level, counts[:n], minlength=LEVELS)
    sizes = np.bincount(level, present, minlength=LEVELS)
    spread = np.where(present, (sums / np.maximum(sizes, 1))[level], 0.0)
    if spread.sum() == 0:
        return math.inf
    p, q = kept / kept.sum(), np.maximum(spread / spread.sum(), _SMALLEST_MASS)
    there = p > 0
    return float((p[there] * np.log(p[there] / q[there])).sum())
