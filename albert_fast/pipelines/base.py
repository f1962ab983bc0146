"""What every pipeline does: read the inputs, batch them, run the engine, hand each text's outputs to its task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from albert_fast.batch import Batch
from albert_fast.engine import Engine
from albert_fast.engine.asked import by_row
from albert_fast.pipelines.texts import TOKENIZER_OPTIONS, Row, Text, batches, encode, read_all


class Pipeline(ABC):
    """Texts to predictions over an engine.

    Attributes:
        engine: what runs; its ``profile`` bounds batch and length.
        tokenizer: what makes ids of text.
    """

    options: tuple[str, ...]
    """Names that ``__call__`` takes beside the tokenizer's."""

    def __init__(self, engine: Engine, tokenizer: Any, *, batch_size: int | None = None, **defaults: Any) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self.batch_size = self._checked_batch_size(batch_size)
        self.defaults = self._checked_options(defaults)

    @property
    def max_tokens(self) -> tuple[int, str]:
        """The most tokens a text may have, specials included, and what sets that limit."""
        profile, positions = self.engine.profile, self.engine.config.max_position_embeddings
        if positions <= profile.max_length:
            return positions, "max_position_embeddings of the model"
        return profile.max_length, f"profile {profile} of the engine"

    @abstractmethod
    def prepare(self, options: dict[str, Any]) -> dict[str, Any]:
        """What ``answer`` needs to know, out of the options of the call; wrong values raise ``ValueError``."""

    @abstractmethod
    def answer(self, row: Row, outputs: Mapping[str, Tensor], places: Tensor, settings: Mapping[str, Any]) -> Any:
        """One text's prediction.

        Args:
            row: its ids, without padding.
            outputs: its part of the engine's outputs, padding included, in the engine's dtype and on its device; of an
                engine that answers at asked positions alone, what ``ask`` asked.
            places: ``[len(row.input_ids)]``, where in the padded row each of the ids stands.
            settings: what ``prepare`` returned.
        """

    def check(self, text: Text, row: Row, place: str) -> None:
        """Raise ``ValueError`` for a text that the task cannot answer. All are checked before the engine runs."""
        return

    def ask(self, batch: Batch) -> Batch:
        """The batch with what the task asks of an engine that answers at asked positions alone: of most, all text."""
        return batch

    def run(self, texts: Sequence[Any], options: Mapping[str, Any]) -> list[Any]:
        """The predictions for a list of inputs, in their order."""
        options = {**self.defaults, **self._checked_options(options)}
        settings = self.prepare(options)
        batch_size = self._checked_batch_size(options.get("batch_size", self.batch_size))
        given = {name: options[name] for name in TOKENIZER_OPTIONS if name in options}
        inputs = read_all(texts)
        limit, limit_name = self.max_tokens
        rows = encode(self.tokenizer, inputs, limit=limit, limit_name=limit_name, options=given)
        for i, (text, row) in enumerate(zip(inputs, rows, strict=True)):
            self.check(text, row, f"input {i}" if len(inputs) > 1 else "the input")
        length = (given.get("max_length") or limit) if given.get("padding") == "max_length" else None
        answers: list[Any] = [None] * len(rows)
        for places, batch in batches(
            rows, self.tokenizer, self.engine.profile, batch_size=batch_size, length=length
        ):  # fmt: skip
            batch = self.ask(batch)
            outputs = self.engine(batch.to(self.engine.device))
            _, mask, _ = batch.tensors()
            own = by_row(outputs, self.engine.outputs, batch.asked_or_text())
            for k, place in enumerate(places):
                answers[place] = self.answer(rows[place], own[k], mask[k].nonzero().squeeze(-1), settings)
        return answers

    def _checked_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        options = dict(options)
        if "tokenizer_kwargs" in options:
            options |= dict(options.pop("tokenizer_kwargs") or {})
        known = (*self.options, *TOKENIZER_OPTIONS, "batch_size")
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise ValueError(f"unknown options {', '.join(unknown)}; {type(self).__name__} takes {', '.join(known)}")
        return options

    def _checked_batch_size(self, size: int | None) -> int:
        profile = self.engine.profile
        if size is None:
            return profile.opt_batch
        if not isinstance(size, int) or isinstance(size, bool) or not 1 <= size <= profile.max_batch:
            raise ValueError(
                f"batch_size is {size!r}, expected 1..{profile.max_batch} (profile {profile} of the engine)"
            )
        return size
