"""SmoothQuant for a shared layer: move the reach of a tensor's outlier channels into the weights that it meets.

A tensor is divided by a factor for each channel before it is rounded, and its weights' columns are multiplied by it:

    s_j = a_j ** alpha / max|W_j| ** (1 - alpha)

The shared weight has one column j for all passes, so there is one s for all passes too. Every pass has a scale of its
own, so what counts of a channel is its share of its pass's largest: ``a_j = max over passes of max|X_pj| / max|X_p|``.

Source: Xiao et al. 2022, "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models",
arXiv:2211.10438, equation 4.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node
from torch.nn import functional as F

from albert_fast.batch import Batch
from albert_fast.precision.calibration import DEFAULT_METHOD, Statistics, collect
from albert_fast.precision.folding import folded
from albert_fast.precision.histogram import METHODS, Histogram
from albert_fast.precision.int8 import QMAX, qd, quantized_weight
from albert_fast.precision.policy import aten
from albert_fast.precision.running import GraphRunner
from albert_fast.precision.scales import Scales
from albert_fast.precision.sites import Site, sites

ALPHAS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
MIN_GAIN = 0.05
"""A tensor is smoothed if that takes at least this share of its rounding error away; less is within the noise."""
SAMPLE = 256
"""Tokens that are looked at in each pass to choose alpha."""
_SMALLEST = 1e-5


@dataclass(frozen=True)
class Choice:
    """What smoothing does to one tensor.

    Attributes:
        alpha: the best of those tried, or None where none gains ``MIN_GAIN``.
        error: mean squared error of its linear maps' outputs, summed over the passes before it is squared and then
            divided by their number, as a share of the outputs' mean square: with weight and input in int8, unsmoothed.
        errors: the same with each alpha.
    """

    tensor: str
    alpha: float | None
    error: float
    errors: Mapping[float, float]


def smooth(
    statistics: Statistics,
    program: ExportedProgram,
    batches: Sequence[Batch],
    *,
    alpha: float | None = None,
    method: str = DEFAULT_METHOD,
    share: float = 99.99,
) -> Scales:
    """Scales with smoothing, and the ranges of what it leaves.

    Args:
        statistics: what ``collect`` found on ``program`` and ``batches``.
        program: as captured, in float32.
        batches: the calibration text again: the ranges of smoothed tensors are found by a second run.
        alpha: for every tensor; None chooses for each by its measured error, or none: see ``choose``.
        method, share: as in ``Statistics.scales``.
    Returns:
        Scales of ``program``; without ``smoothing``, and as ``statistics.scales`` has them, where nothing gains.
    Raises:
        ValueError: alpha is not between 0 and 1, or as ``collect`` and ``Statistics.scales``.
    """
    plain = statistics.scales(method, share=share)
    if alpha is None:
        alphas = {one.tensor: one.alpha for one in choose(statistics, program, batches, method=method)}
    else:
        alphas = dict.fromkeys(_weights(program), alpha)
    smoothing = {t: tuple(factors(statistics, program, t, a).tolist()) for t, a in alphas.items() if a is not None}
    if not smoothing:
        return plain
    without, left = folded(program, dataclasses.replace(plain, smoothing=smoothing))
    again = collect(without, batches, source=plain.text.source, smoothing=left.smoothing).scales(method, share=share)
    return dataclasses.replace(plain, method=f"{again.method}, smoothed", amax=again.amax, smoothing=smoothing)


def factors(statistics: Statistics, program: ExportedProgram, tensor: str, alpha: float) -> Tensor:
    """What a tensor's channels are divided by, float32 ``[channels]``; their geometric mean is 1.

    Args:
        alpha: 0 evens out the weight's columns, 1 the tensor's channels.
    Raises:
        ValueError: alpha is not between 0 and 1.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha!r}, expected a number from 0 to 1, such as 0.5")
    amax = statistics.channel_amax[tensor].double()
    shares = (amax / amax.amax(1, keepdim=True).clamp(min=_SMALLEST)).amax(0)
    columns = torch.cat([program.state_dict[name].detach().abs().double() for name in _weights(program)[tensor]]).amax(
        0
    )
    columns = columns / columns.max().clamp(min=_SMALLEST)
    silent = (shares < _SMALLEST) | (columns < _SMALLEST)  # a channel of zeros has nothing to be moved
    logarithms = alpha * shares.clamp(min=_SMALLEST).log() - (1 - alpha) * columns.clamp(min=_SMALLEST).log()
    logarithms = torch.where(silent, 0.0, logarithms - logarithms[~silent].mean())
    return logarithms.exp().float()


def choose(
    statistics: Statistics,
    program: ExportedProgram,
    batches: Sequence[Batch],
    *,
    alphas: Sequence[float] = ALPHAS,
    method: str = DEFAULT_METHOD,
) -> tuple[Choice, ...]:
    """Try every alpha on every tensor by itself, on ``SAMPLE`` tokens a pass out of the batch in the middle."""
    sampler = _Sampler(program)
    sampler.look_at(batches[len(batches) // 2])
    found = []
    for tensor, names in _weights(program).items():
        passes = sampler.samples[tensor]
        weight = torch.cat([program.state_dict[name].detach() for name in names])
        outputs = [F.linear(x, weight) for x in passes]
        error = _error(passes, weight, outputs, torch.ones(weight.shape[1]), method)
        errors = {
            alpha: _error(passes, weight, outputs, factors(statistics, program, tensor, alpha), method)
            for alpha in alphas
        }
        best = min(errors, key=lambda alpha: errors[alpha])
        found.append(Choice(tensor, best if errors[best] <= (1 - MIN_GAIN) * error else None, error, errors))
    return tuple(found)


def _error(
    passes: Sequence[Tensor], weight: Tensor, outputs: Sequence[Tensor], smoothing: Tensor, method: str
) -> float:
    """Mean square of the error that all passes leave together, in units of the outputs' mean square and of one pass.

    The errors of a token are added over the passes before they are squared, as the residual adds them: what rounding
    makes of an input is another thing in every pass and partly cancels, what it makes of the one weight does not.
    """
    int8, scale = quantized_weight(weight * smoothing.to(weight.device))
    rounded = qd.dequantize_per_channel(int8, scale, None, 0, -QMAX, QMAX, torch.int8)
    total = torch.zeros_like(outputs[0], dtype=torch.float64)
    for x, expected in zip(passes, outputs, strict=True):
        smooth_x = x / smoothing.to(x.device)
        histogram = Histogram()
        histogram.add(smooth_x)
        arguments = ((METHODS[method](histogram) or 1.0) / QMAX, 0, -QMAX, QMAX, torch.int8)
        pair = qd.dequantize_per_tensor(qd.quantize_per_tensor(smooth_x, *arguments), *arguments)
        size = float(expected.double().square().mean().sqrt())
        total += (F.linear(pair, rounded) - expected).double() / (size or 1.0)
    return float(total.square().mean()) / len(passes)


def _weights(program: ExportedProgram) -> dict[str, list[str]]:
    """Every tensor that can be smoothed with the weights that it meets, none of which anything but linear maps reads:
    the decoder of a masked LM is the word table too, whose lookups know nothing of factors."""
    parameters = program.graph_signature.inputs_to_parameters
    elsewhere = {
        parameters[source.name]
        for node in program.graph.nodes
        if node.target is not aten.linear.default
        for source in node.all_input_nodes
        if source.name in parameters
    }
    found: dict[str, list[str]] = {}
    for site in sites(program):
        if site.weight is not None and site.weight not in elsewhere:
            names = found.setdefault(site.tensor, [])
            if site.weight not in names:
                names.append(site.weight)
    return found


class _Sampler(GraphRunner):
    """Keeps some tokens of what the linear maps read: ``{tensor: [tokens, channels] a pass}``."""

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__(program)
        self.samples: dict[str, list[Tensor]] = {}
        self._sites: dict[str, Site] = {}
        for site in {site.place: site for site in reversed(sites(program)) if site.weight is not None}.values():
            self._sites[site.node] = site
        self._real = torch.empty(0, dtype=torch.bool)

    def look_at(self, batch: Batch) -> None:
        self._real = (batch.tensors()[1].to(self.device) != 0).flatten(0, -2)
        self.run_batch(batch)

    def run_node(self, n: Node) -> Any:
        site = self._sites.get(n.name)
        if site is not None:
            x = self.fetch_args_kwargs_from_env(n)[0][site.argument]
            x = x[self._real] if x.shape[:-1] == self._real.shape else x.flatten(0, -2)
            self.samples.setdefault(site.tensor, []).append(x[:: max(1, x.shape[0] // SAMPLE)])
        return super().run_node(n)
