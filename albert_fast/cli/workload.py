"""What is timed: batches of random ids, of one length or of many, and the arithmetic that they ask for."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from albert_fast.batch import Batch
from albert_fast.config import AlbertConfig

MEAN_OF_MIXED, SPREAD_OF_MIXED, SHORTEST = 0.4, 0.6, 4
"""Mixed lengths: their mean by the longest; the standard deviation of their logarithms; none is shorter."""
FIRST_ID = 5
"""Ids below it are padding and special tokens in ALBERT's vocabularies."""


@dataclass(frozen=True)
class Shape:
    """A batch to time.

    Attributes:
        batch: how many texts.
        length: tokens of the longest, and so of every row.
        mixed: whether the other texts are shorter, as real ones are: log-normal, 40 % of the longest in the mean. All
            have the full length otherwise.
    """

    batch: int
    length: int
    mixed: bool = False

    @classmethod
    def parse(cls, text: str) -> Shape:
        """Read ``"8x128"`` or ``"8x128 mixed"``.

        Raises:
            ValueError: anything else, a size of 0, or a mixture of a single text.
        """
        found = re.fullmatch(r"\s*(\d+)x(\d+)(\s+mixed)?\s*", text)
        if found is None or 0 in (int(found[1]), int(found[2])):
            raise ValueError(f"{text!r} is no shape; expected BATCHxLENGTH as in 8x128, or 8x128 mixed")
        shape = cls(int(found[1]), int(found[2]), found[3] is not None)
        if shape.mixed and shape.batch == 1:
            raise ValueError(f"{text!r} asks for mixed lengths of one text; give a batch of two or more")
        return shape

    def __str__(self) -> str:
        return f"{self.batch}x{self.length}" + (" mixed" if self.mixed else "")

    def lengths(self) -> tuple[int, ...]:
        """Tokens of each text, the same ones on every machine and in every run."""
        if not self.mixed:
            return (self.length,) * self.batch
        generator = torch.Generator().manual_seed(self.batch * 1000 + self.length)
        spread = torch.exp(SPREAD_OF_MIXED * torch.randn(self.batch - 1, generator=generator, dtype=torch.float64))
        wanted = MEAN_OF_MIXED * self.batch * self.length
        low, high = 0.0, float(self.length)  # of what the spread is multiplied by: the mean grows with it
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (low, middle) if sum(self._cut(spread * middle)) > wanted else (middle, high)
        lengths = self._cut(spread * low)
        order = torch.randperm(self.batch, generator=generator).tolist()
        return tuple(lengths[index] for index in order)

    def inputs(self, vocab_size: int, *, pad_id: int = 0) -> Batch:
        """Random ids, padded behind the text, with their mask; without a mask where nothing is padded.

        Args:
            vocab_size: ids are below it.
            pad_id: what stands behind a text.
        """
        generator = torch.Generator().manual_seed(self.batch * 1000 + self.length)
        ids = torch.randint(min(FIRST_ID, vocab_size - 1), vocab_size, (self.batch, self.length), generator=generator)
        if not self.mixed:
            return Batch(ids)
        mask = (torch.arange(self.length) < torch.tensor(self.lengths())[:, None]).long()
        return Batch(ids.where(mask != 0, pad_id), mask)

    def _cut(self, lengths: torch.Tensor) -> list[int]:
        """As numbers of tokens, and the longest text."""
        shortest = min(SHORTEST, self.length)
        return [*(int(n) for n in lengths.round().clamp(shortest, self.length)), self.length]


def gigaflop(config: AlbertConfig, lengths: Sequence[int]) -> float:
    """Multiplications and additions of the encoder's matrix products for texts of so many tokens, in 10^9.

    Padding counts for nothing, so that who computes it gets no credit for it.
    """
    hidden, passes = config.hidden_size, len(config.schedule)
    linear = 4 * hidden**2 + 2 * hidden * config.intermediate_size
    by_text = (
        length * (passes * (linear + 2 * length * hidden) + config.embedding_size * hidden) for length in lengths
    )
    return 2 * math.fsum(by_text) / 1e9
