"""Histograms of magnitudes, and the ranges that the methods choose from them."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from albert_fast.precision.histogram import BINS, LEVELS, METHODS, Histogram, entropy, largest, mse, percentile

N = 99_991


def normal() -> Tensor:
    return torch.randn(N)


def laplace() -> Tensor:
    uniform = torch.rand(N) - 0.5
    return -uniform.sign() * (1 - 2 * uniform.abs()).log()


def gelu() -> Tensor:
    return torch.nn.functional.gelu(2 * torch.randn(N))


def with_outliers() -> Tensor:
    return torch.cat([torch.randn(N), 10 * torch.randn(20)])


SHAPES: list[Callable[[], Tensor]] = [normal, laplace, gelu, with_outliers]


def histogram_of(*portions: Tensor) -> Histogram:
    made = Histogram()
    for portion in portions:
        made.add(portion)
    return made


def test_a_histogram_that_grows_equals_one_made_at_once() -> None:
    numbers = torch.randn(5000) * torch.logspace(-6, 3, 5000)
    numbers[::50] = 2.0 ** torch.arange(-50, 50)  # where one bin ends and another begins, at every width
    numbers[::77] = 0.0
    at_once = histogram_of(numbers)
    for size in (1, 13, 1000):
        grown = histogram_of(*numbers.split(size))
        assert (grown.amax, grown.limit) == (at_once.amax, at_once.limit)
        assert np.array_equal(grown.counts, at_once.counts)
    backwards = histogram_of(*numbers.flip(0).split(13))
    assert np.array_equal(backwards.counts, at_once.counts)


def test_the_limit_is_the_power_of_two_above_the_largest_magnitude_and_every_number_is_counted() -> None:
    made = histogram_of(torch.tensor([[-3.5, 0.25], [0.0, 1.0]]), torch.tensor([2.0]))
    assert (made.amax, made.limit, made.counts.sum()) == (3.5, 4.0, 5)
    width = 4.0 / BINS
    assert [made.counts[int(number / width)] for number in (3.5, 0.25, 0.0, 1.0, 2.0)] == [1, 1, 1, 1, 1]
    assert made.centers[0] == width / 2 and made.centers[-1] == 4.0 - width / 2


def test_more_numbers_than_float32_can_count_are_counted_in_one_bin() -> None:
    many = 2**24 + 1000
    made = histogram_of(torch.tensor([1.0]), torch.full((many,), 0.001))
    assert made.counts[int(0.001 / 2 * BINS)] == many


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused_and_not_counted(wrong: float) -> None:
    made = histogram_of(torch.ones(3))
    with pytest.raises(ValueError, match="NaN or infinite"):
        made.add(torch.tensor([0.5, wrong, 7.0]))
    assert (made.amax, made.counts.sum()) == (1.0, 3)


def test_a_tensor_of_zeros_or_of_nothing_has_no_range() -> None:
    empty, zeros = histogram_of(torch.empty(0, 3)), histogram_of(torch.zeros(7))
    assert (empty.amax, empty.counts.sum()) == (0.0, 0)
    assert (zeros.amax, zeros.counts[0], zeros.counts.sum()) == (0.0, 7, 7)
    with np.errstate(all="raise"):
        assert [method(zeros) for method in METHODS.values()] == [0.0] * len(METHODS)
    zeros.add(torch.tensor([1.0]))
    assert (zeros.limit, zeros.counts[0], zeros.counts.sum()) == (2.0, 7, 8)


def test_numbers_at_both_ends_of_float32_are_counted() -> None:
    made = histogram_of(torch.tensor([1e-40, 1e-30]), torch.tensor([3e38]))
    assert made.amax == pytest.approx(3e38) and made.counts.sum() == 3


def test_16_bit_numbers_are_counted_by_their_values() -> None:
    numbers = torch.randn(1000).to(torch.bfloat16)
    assert np.array_equal(histogram_of(numbers).counts, histogram_of(numbers.float()).counts)


def test_max_clips_nothing() -> None:
    numbers = with_outliers()
    assert largest(histogram_of(numbers)) == numbers.abs().max().item()


def test_a_percentile_by_hand() -> None:
    made = histogram_of(torch.arange(1, 101).float())  # limit 128: bins of 1/32
    assert percentile(made, 90) == 90 + 1 / 32
    assert percentile(made, 50) == 50 + 1 / 32
    assert percentile(made, 1) == 1 + 1 / 32
    assert percentile(made, 100) == 100


@pytest.mark.parametrize("numbers", SHAPES)
@pytest.mark.parametrize("share", [90.0, 99.0, 99.9, 99.99, 100.0])
def test_a_percentile_is_numpys_of_the_numbers_themselves_within_a_bin(
    numbers: Callable[[], Tensor], share: float
) -> None:
    x = numbers()
    made = histogram_of(x)
    exact = float(np.percentile(x.abs().numpy(), share, method="inverted_cdf"))
    assert exact <= percentile(made, share) <= exact + made.limit / BINS


def onnxruntime_range(x: Tensor, method: str, bins: int, share: float = 99.99) -> float:
    """What ONNX Runtime's calibration chooses, symmetric."""
    calibrate = pytest.importorskip("onnxruntime.quantization.calibrate", reason="needs onnxruntime and onnx")
    collector = calibrate.HistogramCollector(method, True, bins, 2 * LEVELS - 1, share, None)
    with contextlib.redirect_stdout(io.StringIO()):
        collector.collect({"x": [x.numpy()]})
        chosen = collector.compute_percentile() if method == "percentile" else collector.compute_entropy()
    return float(chosen["x"][1])


@pytest.mark.parametrize("numbers", SHAPES)
@pytest.mark.parametrize("share", [99.0, 99.99])
def test_a_percentile_is_onnxruntimes_within_two_bins(numbers: Callable[[], Tensor], share: float) -> None:
    x = numbers()
    made = histogram_of(x)
    theirs = onnxruntime_range(x, "percentile", BINS, share)  # the lower end of their bin, where ours is the upper
    assert abs(percentile(made, share) - theirs) <= 2 * made.limit / BINS


@pytest.mark.parametrize("shape", ["normal", "laplace", "gelu"])
def test_the_entropy_range_is_near_onnxruntimes(shape: str) -> None:
    ranks = (torch.arange(2 * 10**6, dtype=torch.float64) + 0.5) / (
        2 * 10**6
    )  # without chance, which moves both by a tenth
    x = torch.special.ndtri(ranks) if shape != "laplace" else -(ranks - 0.5).sign() * (1 - (2 * ranks - 1).abs()).log()
    x = (torch.nn.functional.gelu(2 * x) if shape == "gelu" else x).float()
    assert entropy(histogram_of(x)) == pytest.approx(onnxruntime_range(x, "entropy", 2049), rel=0.05)


def migacz(counts: np.ndarray, candidates: range) -> int:
    """The pseudo code of Migacz 2017, slide 38, line by line: the number of bins that lose the least information."""
    best, least = 0, math.inf
    for n in candidates:
        reference = [float(count) for count in counts[:n]]
        reference[-1] += counts[n:].sum()
        expanded = [0.0] * n
        for level in range(LEVELS):
            bins = [i for i in range(n) if i * LEVELS // n == level]
            occupied = [i for i in bins if counts[i] > 0]
            for i in occupied:
                expanded[i] = sum(counts[j] for j in bins) / len(occupied)
        p, q = np.array(reference) / sum(reference), np.array(expanded) / sum(expanded)
        divergence = sum(a * math.log(a / max(b, 1e-9)) for a, b in zip(p, q, strict=True) if a > 0)
        if divergence < least:
            best, least = n, divergence
    return best


def test_the_entropy_range_is_that_of_the_published_pseudo_code() -> None:
    made = histogram_of(torch.randn(4000).clamp(-1.0, 1.0) * 0.9, torch.tensor([1.9]))
    step = 8
    candidates = range(LEVELS, math.ceil(made.amax / made.limit * BINS) + 1, math.ceil(1.9 / 2 * BINS) // 256)
    assert len(candidates) > 200
    found = entropy(made)
    counts = made.counts.copy()
    counts[0] = 0
    near = [n for n in candidates if abs(n * made.limit / BINS - found) < 0.1]
    few = range(near[0], near[-1] + 1, candidates.step)
    assert len(few) >= step
    assert migacz(counts, few) * made.limit / BINS == pytest.approx(found)


def test_exact_zeros_do_not_move_the_entropy_range() -> None:
    numbers = normal()
    assert entropy(histogram_of(numbers, torch.zeros(20 * N))) == entropy(histogram_of(numbers))


def rounding_error(x: Tensor, amax: float) -> float:
    scale = amax / (LEVELS - 1)
    return ((x - (x / scale).round().clamp(1 - LEVELS, LEVELS - 1) * scale) ** 2).double().mean().item()


@pytest.mark.parametrize("numbers", SHAPES)
def test_the_mse_range_leaves_the_smallest_error_of_the_numbers_themselves(numbers: Callable[[], Tensor]) -> None:
    x = numbers()
    chosen = mse(histogram_of(x))
    every = [rounding_error(x, x.abs().max().item() * share) for share in np.linspace(0.3, 1.0, 141)]
    assert rounding_error(x, chosen) <= 1.01 * min(every)
    assert min(every) < rounding_error(x, x.abs().max().item()), "the sample does not tell max from mse"


def test_numbers_that_int8_holds_exactly_are_not_clipped_by_mse() -> None:
    exact = torch.arange(-127, 128).float()
    assert mse(histogram_of(exact)) == 127.0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("numbers", SHAPES)
def test_no_method_chooses_more_than_the_largest_magnitude(method: str, numbers: Callable[[], Tensor]) -> None:
    made = histogram_of(numbers())
    assert 0 < METHODS[method](made) <= made.amax


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_twice_as_large_has_twice_the_range(method: str) -> None:
    numbers = laplace()
    assert METHODS[method](histogram_of(2 * numbers)) == pytest.approx(2 * METHODS[method](histogram_of(numbers)))
