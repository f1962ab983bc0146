"""Calibration: run a captured program on real text and keep the range of every quantized tensor in every pass."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from albert_fast.batch import Batch
from albert_fast.precision import fp32
from albert_fast.precision.histogram import METHODS, Histogram, percentile
from albert_fast.precision.running import GraphRunner
from albert_fast.precision.scales import CalibrationText, Scales, encoder_digest
from albert_fast.precision.sites import Site, sites

DEFAULT_METHOD = "percentile"


@dataclass
class Statistics:
    """What was seen of every tensor of ``sites`` in every pass, padding left out.

    Attributes:
        model: ``scales.encoder_digest`` of the program.
        text: what was run.
        histograms: ``{tensor: [one a pass]}``.
        channel_amax: ``{tensor: [passes, channels]}``: the largest magnitude in each channel, of linear maps' inputs.
    """

    model: str
    text: CalibrationText
    histograms: dict[str, list[Histogram]] = field(default_factory=dict)
    channel_amax: dict[str, Tensor] = field(default_factory=dict)

    def scales(self, method: str = DEFAULT_METHOD, *, share: float = 99.99) -> Scales:
        """Choose the ranges.

        Args:
            method: row of ``histogram.METHODS``.
            share: of the numbers that ``percentile`` does not clip, in per cent.
        Raises:
            ValueError: there is no such method, or the share is not above 0 and at most 100.
        """
        check_method(method, share)
        choose: Callable[[Histogram], float] = METHODS[method]
        name = method
        if method == "percentile":
            choose, name = lambda histogram: percentile(histogram, share), f"percentile {share:g}"
        # a tensor that was 0 everywhere has no range of its own; any does. Six digits are more than int8 can tell apart
        amax = {
            tensor: tuple(float(f"{choose(h) or 1.0:.6g}") for h in passes)
            for tensor, passes in self.histograms.items()
        }
        return Scales(self.model, name, self.text, amax)


def check_method(method: str, share: float) -> None:
    """Refuse what ``Statistics.scales`` does not take, before anything is collected."""
    if method not in METHODS:
        raise ValueError(f"method is {method!r}, expected one of {', '.join(METHODS)}")
    if not isinstance(share, int | float) or not 0 < share <= 100:
        raise ValueError(f"percentile is {share!r}, expected a number above 0 and at most 100, such as 99.99")


def collect(
    program: ExportedProgram,
    batches: Iterable[Batch],
    *,
    source: str = "",
    progress: Callable[[int], None] | None = None,
    smoothing: Mapping[str, Sequence[float]] | None = None,
) -> Statistics:
    """Run a program on calibration text and keep what ``Statistics`` says.

    Args:
        program: as captured, in float32; it runs in float32, where its weights are.
        batches: real text, of shapes that the program takes.
        source: where the text is from, for the scales file.
        progress: told after every batch how many texts are done.
        smoothing: what tensors are divided by before they are looked at, as in ``Scales``.
    Raises:
        ValueError: the program is not float32, there is no batch, or a tensor is NaN or infinite: the message names it,
            its pass and the batch.
    """
    fp32.prepare(program, torch.float32)
    recorder = _Recorder(program, smoothing or {})
    digest = hashlib.sha256()
    texts = tokens = 0
    for number, batch in enumerate(batches):
        try:
            recorder.look_at(batch)
        except _NotFinite as found:
            raise ValueError(
                f"{found.place} is NaN or infinite in float32, in batch {number} of the calibration text; "
                "the checkpoint is damaged or diverged, no scale can hold it"
            ) from None
        for ids, types in _texts(batch):
            digest.update(f"{len(ids)} ".encode() + ids.numpy().tobytes() + types.numpy().tobytes())
            texts, tokens = texts + 1, tokens + len(ids)
        if progress is not None:
            progress(texts)
    if not texts:
        raise ValueError("there is no calibration text; give at least one batch of real text")
    text = CalibrationText(digest.hexdigest(), texts, tokens, source)
    channels = {tensor: torch.stack(passes) for tensor, passes in recorder.channels.items()}
    return Statistics(encoder_digest(program), text, recorder.histograms, channels)


def _texts(batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids and types of every text without its padding, int64; of every choice where there are choices."""
    ids, mask, types = (tensor.cpu().to(torch.int64).flatten(0, -2) for tensor in batch.tensors())
    for row, real in enumerate(mask != 0):
        if real.any():
            yield ids[row, real], types[row, real]


class _NotFinite(ValueError):
    """A tensor holds NaN or infinity; ``place`` says which."""

    def __init__(self, place: str) -> None:
        super().__init__(place)
        self.place = place


class _Recorder(GraphRunner):
    """Keeps histograms and channel ranges of what the sites read."""

    def __init__(self, program: ExportedProgram, smoothing: Mapping[str, Sequence[float]]) -> None:
        super().__init__(program)
        self._factors = {tensor: 1 / torch.tensor(one, device=self.device) for tensor, one in smoothing.items()}
        self.histograms: dict[str, list[Histogram]] = {}
        self.channels: dict[str, list[Tensor]] = {}
        self._sites: dict[str, list[Site]] = {}
        seen: set[str] = set()
        for site in sites(program):
            if site.place not in seen:  # query, key and value read one tensor
                seen.add(site.place)
                self._sites.setdefault(site.node, []).append(site)
        self._real = torch.empty(0, dtype=torch.bool)

    def look_at(self, batch: Batch) -> None:
        self._real = (batch.tensors()[1].to(self.device) != 0).flatten(0, -2)
        self.run_batch(batch)

    def run_node(self, n: Node) -> Any:
        for site in self._sites.get(n.name, ()):
            self._note(site, self.fetch_args_kwargs_from_env(n)[0][site.argument])
        return super().run_node(n)

    def _note(self, site: Site, x: Tensor) -> None:
        magnitudes = self._without_padding(site, x.detach().to(torch.float32)).abs()
        if site.tensor in self._factors:
            magnitudes = magnitudes * self._factors[site.tensor]
        passes = self.histograms.setdefault(site.tensor, [])
        if len(passes) <= site.pass_index:
            passes.append(Histogram())
        try:
            passes[site.pass_index].add(magnitudes)
        except ValueError:
            raise _NotFinite(f"the tensor {site.tensor} of pass {site.pass_index}") from None
        if site.weight is None:
            return
        largest = magnitudes.flatten(0, -2).amax(0)
        channels = self.channels.setdefault(site.tensor, [])
        if len(channels) <= site.pass_index:
            channels.append(largest)
        else:
            channels[site.pass_index] = torch.maximum(channels[site.pass_index], largest)

    def _without_padding(self, site: Site, x: Tensor) -> Tensor:
        """The numbers of real tokens, ``[..., channels]``."""
        if site.part != "attention":
            return x[self._real] if x.dim() == 3 and x.shape[:2] == self._real.shape else x
        if site.tensor.endswith("key.output"):
            x = x.transpose(2, 3)
        x = x.transpose(1, 2)[self._real]
        if not site.tensor.endswith("probabilities"):
            return x
        seen = self._real.repeat_interleave(self._real.sum(1), 0)  # the row that each token stands in
        return x[seen[:, None].expand_as(x)]
