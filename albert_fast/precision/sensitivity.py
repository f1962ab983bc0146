"""Mixed precision that finds itself: which sites of a quantized program must stay unquantized to hold a budget."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch.export import ExportedProgram

from albert_fast.batch import Batch
from albert_fast.precision.divergence import (
    Count,
    Labels,
    answers,
    as_percent,
    check_labels,
    chosen_labels,
    count,
    divergence,
)
from albert_fast.precision.quantization import Quantization
from albert_fast.precision.running import GraphRunner
from albert_fast.precision.scales import Scales
from albert_fast.precision.simulation import Outputs, Simulation

Progress = Callable[[str, int, int], None]
"""Told what is being done, and how many batches of it are done of how many."""
PROBES = 4


@dataclass(frozen=True)
class Sensitivity:
    """One site and what its rounding alone does to the program.

    Attributes:
        tensor, pass_index, part: as in ``sites.Site``.
        divergence: mean Kullback-Leibler divergence of an answer in nats, when this site is rounded beside all weights,
            from the program with its weights alone rounded.
        kept: whether it stays unquantized.
    """

    tensor: str
    pass_index: int
    part: str
    divergence: float
    kept: bool = False

    @property
    def place(self) -> str:
        """``tensor@pass``, as ``Quantization.keep`` takes it."""
        return f"{self.tensor}@{self.pass_index}"


@dataclass(frozen=True)
class Sensitivities:
    """What ``sensitivities`` found.

    Attributes:
        sites: the most sensitive first, equals in the order of the graph.
        weights: divergence of the program whose weights alone are rounded from the one where nothing is, in nats. No
            kept site takes this away: a weight is rounded as long as one pass reads it rounded.
        batches: how many were run.
    """

    sites: tuple[Sensitivity, ...]
    weights: float
    batches: int


@dataclass(frozen=True)
class Step:
    """One choice that was tried: how many of the most sensitive sites it kept, and what came of it.

    Attributes:
        drop: in points of accuracy, or in per cent of changed answers; see ``Mixed.measure``.
        changed: share of answers that are not float32's, in per cent.
        accuracy: in per cent; None without labels.
        holds: whether the drop is within the budget.
    """

    kept: int
    drop: float
    changed: float
    accuracy: float | None
    holds: bool


@dataclass(frozen=True)
class Mixed:
    """What ``search`` found: plain numbers, for a report or a manifest.

    Attributes:
        keep: for ``Quantization.keep``; the most sensitive first.
        measure: what ``drop`` and ``max_drop`` count: ``"accuracy"`` (points lost) or ``"answers"`` (per cent changed).
        drop: of the choice found.
        float32_accuracy: in per cent; None without labels.
        answers: how many were compared: one of them is ``100 / answers`` of a drop.
        sites: every site, the most sensitive first; empty where the budget held at once, for none was measured.
        weights: as in ``Sensitivities``; None where none was measured.
        steps: every choice tried, in that order; the one found is the one that holds with the fewest kept.
        evaluations: runs over all batches, float32's among them; ``probed`` batches were run for the sensitivities.
    """

    keep: tuple[str, ...]
    measure: str
    max_drop: float
    drop: float
    float32_accuracy: float | None
    answers: int
    rest: str
    parts: tuple[str, ...]
    sites: tuple[Sensitivity, ...]
    weights: float | None
    steps: tuple[Step, ...]
    evaluations: int
    probed: int

    def to_dict(self) -> dict[str, Any]:
        """The same as JSON takes it."""
        return dataclasses.asdict(self)


def search(
    program: ExportedProgram,
    scales: Scales,
    batches: Sequence[Batch],
    *,
    max_drop: float,
    labels: Sequence[Labels] | None = None,
    rest: str = "fp32",
    parts: Sequence[str] = ("encoder",),
    keep: Sequence[str] = (),
    keep_float32: Sequence[str] = (),
    probes: int = PROBES,
    progress: Progress | None = None,
) -> Mixed:
    """Keep the fewest most sensitive sites in ``rest`` with which the int8 program stays within ``max_drop``.

    Every site is measured alone, they are sorted, and the shortest beginning of that order that holds the budget is
    found by doubling its length and then halving the interval, which takes a longer beginning to be no worse than a
    shorter one. With nothing kept it is one evaluation; with n sites at most ``2 log2(n) + 3`` and the measurement,
    which costs ``probes`` batches about n / 2 times. The same input gives the same result.

    Args:
        program: as captured, in float32, under the head that will use it.
        batches: text that the scales were not found on, and not the text that the result is reported on.
        max_drop: with labels, points of accuracy that may be lost against float32; without, per cent of the top-1
            answers that may change. One answer must weigh less than that to be seen: see ``Mixed.answers``.
        labels: one entry a batch, see ``divergence.Labels``; ``-100`` is not counted.
        rest, parts, keep: as in ``Quantization``; what ``keep`` names stays unquantized whatever is found.
        keep_float32: as in ``half.prepare``.
        probes: how many batches, spread evenly over ``batches``, the sensitivities are measured on.
        progress: told after every batch.
    Raises:
        ValueError: the budget does not hold, whatever is kept: the message says how near it came; or the budget, the
            labels or the batches cannot be used.
    """
    if not 0 <= max_drop <= 100:
        raise ValueError(f"max_drop is {max_drop}, expected points or per cent from 0 to 100, such as 0.5")
    quantization = Quantization(scales, tuple(parts), rest, tuple(keep))
    trial = _Trial(program, quantization, batches, labels, max_drop, tuple(keep_float32), progress)
    if trial.step(()).holds:
        return trial.result((), None)
    found = sensitivities(
        program, quantization, batches, keep_float32=keep_float32, probes=probes, progress=progress,
        simulation=trial.simulation,
    )  # fmt: skip
    order = [one.place for one in found.sites]
    number = _shortest(len(order), lambda n: trial.step(order[:n]).holds)
    if number is None or number == len(order):
        raise ValueError(trial.refusal(len(order)))
    return trial.result(tuple(order[:number]), found)


def sensitivities(
    program: ExportedProgram,
    quantization: Quantization,
    batches: Sequence[Batch],
    *,
    keep_float32: Sequence[str] = (),
    probes: int = PROBES,
    progress: Progress | None = None,
    simulation: Simulation | None = None,
) -> Sensitivities:
    """Measure every quantized site alone.

    Args:
        program, batches, keep_float32, probes, progress: as in ``search``.
        simulation: of the same program and quantization, where there is one already.
    """
    simulation = simulation or Simulation(program, quantization, keep_float32)
    sums = dict.fromkeys(simulation.places, 0.0)
    weights, total = 0.0, 0
    chosen = _spread(batches, probes)
    for done, batch in enumerate(chosen):
        expected = simulation.run_weights_only(batch)
        nats, number = divergence(expected, simulation.run(batch, simulation.places), batch)
        weights, total = weights + nats, total + number

        def add(place: str, outputs: Outputs, expected: Outputs = expected, batch: Batch = batch) -> None:
            sums[place] += divergence(outputs, expected, batch)[0]

        simulation.run_each_alone(batch, add)
        if progress is not None:
            progress("sensitivity of every site", done + 1, len(chosen))
    by_place = {site.place: site for site in quantization.sites(program)}
    found = [Sensitivity(s.tensor, s.pass_index, s.part, sums[place] / total) for place, s in by_place.items()]
    return Sensitivities(tuple(sorted(found, key=lambda one: -one.divergence)), weights / total, len(chosen))


class _Trial:
    """Tries choices of kept sites and remembers what came of each."""

    def __init__(
        self,
        program: ExportedProgram,
        quantization: Quantization,
        batches: Sequence[Batch],
        labels: Sequence[Labels] | None,
        max_drop: float,
        keep_float32: Sequence[str],
        progress: Progress | None,
    ) -> None:
        if not batches:
            raise ValueError("there is no text to search on; give at least one batch")
        check_labels(labels, batches)
        self.simulation = Simulation(program, quantization, keep_float32)
        self.quantization, self.batches, self.max_drop, self.progress = quantization, batches, max_drop, progress
        exact = GraphRunner(program)
        self.expected = [
            self._told("float32", i, answers(exact.run_batch(batch), batch)) for i, batch in enumerate(batches)
        ]
        self.labels = (
            [chosen_labels(*one) for one in zip(labels, self.expected, batches, strict=True)] if labels else None
        )
        self.steps: list[Step] = []
        self.count = Count()

    def step(self, keep: Sequence[str]) -> Step:
        """Run the program with these places kept."""
        total = Count()
        for index, batch in enumerate(self.batches):
            outputs = self._told(f"{len(keep)} sites kept", index, self.simulation.run(batch, keep))
            wanted = None if self.labels is None else self.labels[index]
            total += count(answers(outputs, batch), self.expected[index], wanted)
        if not total.answers:
            raise ValueError("no answer has a label; every label is -100")
        changed = as_percent(total.changed, total.answers)
        accuracy = None if self.labels is None else as_percent(total.right, total.answers)
        drop = changed if accuracy is None else as_percent(total.right_in_float32, total.answers) - accuracy
        self.count = total
        self.steps.append(Step(len(keep), drop, changed, accuracy, drop <= self.max_drop))
        return self.steps[-1]

    def result(self, keep: tuple[str, ...], measured: Sensitivities | None) -> Mixed:
        given = self.quantization
        labelled = self.labels is not None
        sites = measured.sites if measured else ()
        return Mixed(
            keep=given.keep + keep,
            measure="accuracy" if labelled else "answers",
            max_drop=self.max_drop,
            drop=next(step.drop for step in self.steps if step.kept == len(keep)),
            float32_accuracy=as_percent(self.count.right_in_float32, self.count.answers) if labelled else None,
            answers=self.count.answers,
            rest=given.rest,
            parts=given.parts,
            sites=tuple(dataclasses.replace(one, kept=one.place in keep) for one in sites),
            weights=measured.weights if measured else None,
            steps=tuple(self.steps),
            evaluations=len(self.steps) + 1,
            probed=measured.batches if measured else 0,
        )

    def refusal(self, number: int) -> str:
        """Why no choice holds the budget, and how near the search came."""
        unit = "points of accuracy" if self.labels is not None else "% of the answers"
        with_all = next((step for step in self.steps if step.kept == number), None)
        best = min((step for step in self.steps if step.kept < number), key=lambda step: step.drop)
        return (
            f"a drop of at most {self.max_drop:g} {unit} does not hold: {best.drop:.3g} with {best.kept} of {number} "
            "sites kept is the nearest"
            + (f", and {with_all.drop:.3g} with all of them in {self.quantization.rest}" if with_all else "")
            + f", on {self.count.answers} answers; allow more, calibrate anew, or export without int8"
        )

    def _told(self, stage: str, index: int, value: Any) -> Any:
        if self.progress is not None:
            self.progress(stage, index + 1, len(self.batches))
        return value


def _shortest(number: int, holds: Callable[[int], bool]) -> int | None:
    """The smallest n from 1 to ``number`` for which ``holds(n)``; None if there is none. 0 is known not to."""
    low, high = 0, 1
    while not holds(high):
        if high == number:
            return None
        low, high = high, min(2 * high, number)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _spread(batches: Sequence[Batch], number: int) -> list[Batch]:
    """So many of the batches, evenly spread from the first to the last."""
    if number < 1:
        raise ValueError(f"probes is {number}, expected at least 1 batch")
    if number >= len(batches):
        return list(batches)
    return [batches[(2 * i + 1) * len(batches) // (2 * number)] for i in range(number)]
