"""What a precision report shows, as plain numbers: read them, store them, compare them without a model."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorRange:
    """A quantized tensor's range, one number a pass in every tuple; what is not known is empty.

    Attributes:
        tensor: its name, see ``precision.sites``.
        chosen: the largest magnitude that is not clipped.
        largest, middle: the largest magnitude seen, and the one that half of all numbers lie below.
        clipped: share of the numbers beyond the chosen range.
        signal_db, merged_signal_db: power of the tensor by that of its int8 rounding error, in decibels, with the range
            of the pass and with one range for all passes.
        smoothed: whether the range is of the tensor divided by SmoothQuant's factors.
    """

    tensor: str
    chosen: tuple[float, ...]
    largest: tuple[float, ...] = ()
    middle: tuple[float, ...] = ()
    clipped: tuple[float, ...] = ()
    signal_db: tuple[float, ...] = ()
    merged_signal_db: tuple[float, ...] = ()
    smoothed: bool = False

    @property
    def merged(self) -> float:
        """The range that tools choose which observe modules: the largest of all passes."""
        return max(self.chosen)

    @property
    def merged_levels(self) -> tuple[float, ...]:
        """How many of int8's 127 magnitudes each pass would use under the merged range."""
        return tuple(127 * one / self.merged for one in self.chosen)


@dataclass(frozen=True)
class ChannelSpread:
    """Largest magnitudes of a tensor's channels, as quantiles over the channels, one number a pass in every tuple.

    Attributes:
        median, high, top: the middle channel, the one that 99 % lie below, and the largest.
        top_channel: index of the largest.
    """

    tensor: str
    channels: int
    median: tuple[float, ...]
    high: tuple[float, ...]
    top: tuple[float, ...]
    top_channel: tuple[int, ...]

    @property
    def outlier(self) -> tuple[float, ...]:
        """The largest channel by the middle one."""
        return tuple(t / m if m else 0.0 for t, m in zip(self.top, self.median, strict=True))


@dataclass(frozen=True)
class Sensitivity:
    """How much worse the answers get when one place alone is quantized: ``values[pass][tensor]``, None if not measured.

    Attributes:
        measure, unit: what was measured, such as ``"mean divergence of the answers"`` in ``"nats"``.
        tensors: names of the columns.
        weights: the same where all weights and nothing else are quantized, to compare with; None if not measured.
    """

    measure: str
    unit: str
    tensors: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    weights: float | None = None


@dataclass(frozen=True)
class PassError:
    """How far the hidden state is from float32 after a pass, over all tokens but padding.

    Attributes:
        after: ``"embeddings"``, as the first pass reads them, or the number of the pass, from 0.
        mean_abs, max_abs: of the difference.
        relative: root mean square of the difference by that of the float32 state.
        cosine: of both states, flattened.
    """

    after: str
    mean_abs: float
    max_abs: float
    relative: float
    cosine: float


@dataclass(frozen=True)
class ErrorPerPass:
    """The errors of one program, in the order of its graph."""

    name: str
    passes: tuple[PassError, ...]


@dataclass(frozen=True)
class Accuracy:
    """How many texts of known class a program got right; ``low`` and ``high`` are the 95 % interval of the share.

    Attributes:
        lost, gained: texts that float32 got right and this does not, and the other way round.
        changed: texts whose answer is another one than float32's, right or not.
    """

    name: str
    right: int
    texts: int
    low: float
    high: float
    lost: int = 0
    gained: int = 0
    changed: int = 0

    @property
    def share(self) -> float:
        """Of the texts that are right."""
        return self.right / self.texts


@dataclass(frozen=True)
class Change:
    """Texts that a program answers with another class than float32 does.

    Attributes:
        before, after: names of the classes.
        texts: how many.
        lost, gained: of these, how many were right before, and how many are right now.
    """

    before: str
    after: str
    texts: int
    lost: int
    gained: int


@dataclass(frozen=True)
class FileSize:
    """Bytes of a file, or of the weights in it."""

    name: str
    bytes: int


@dataclass(frozen=True)
class Kept:
    """What is not in int8: a tensor and its passes (``"all"``, ``"3, 11"``), what it is in instead, and why."""

    tensor: str
    passes: str
    precision: str
    reason: str


@dataclass(frozen=True)
class PrecisionData:
    """Everything that a report may show; sections without data are left out.

    Attributes:
        model: what the report is about.
        facts: names and values under which the numbers hold.
        changes: of int8 against float32, most texts first.
    """

    model: str
    facts: tuple[tuple[str, str], ...] = ()
    ranges: tuple[TensorRange, ...] = ()
    channels: tuple[ChannelSpread, ...] = ()
    sensitivity: Sensitivity | None = None
    errors: tuple[ErrorPerPass, ...] = ()
    accuracy: tuple[Accuracy, ...] = ()
    changes: tuple[Change, ...] = ()
    sizes: tuple[FileSize, ...] = ()
    kept: tuple[Kept, ...] = ()
