"""From a recipe's words to a ``Quantization``: read the scales or find them, and with ``max_drop`` what to keep."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from albert_fast.batch import Batch, ShapeProfile
from albert_fast.capture import capture
from albert_fast.engine.formats import Format
from albert_fast.heads import HEADS, head_of
from albert_fast.pipelines.texts import Text, batches, encode
from albert_fast.precision import Quantization
from albert_fast.precision.calibration import Statistics
from albert_fast.precision.sensitivity import Mixed, search
from albert_fast.recipe.calibration_text import read_calibration_text, sample
from albert_fast.recipe.collecting import Sampling, choose, gather
from albert_fast.recipe.quantizing import Quantize, read_scales, rest_of

MOST_SEARCHED = 512
"""Texts that ``max_drop`` is measured on, beside those that the scales are found on."""


@dataclass(frozen=True)
class Scaled:
    """What ``scale`` found.

    Attributes:
        statistics: of the calibration text; None where the scales came from a file.
        mixed: what the search for ``max_drop`` tried; None without one.
    """

    quantization: Quantization
    statistics: Statistics | None = None
    mixed: Mixed | None = None


def scale(
    words: Quantize, model: Any, tokenizer: Any, *, row: Format, device: str, tell: Callable[[str], None]
) -> Scaled:
    """Find scales and what stays unquantized.

    Args:
        model: float32, on the CPU or the engine's device, with the attention implementation of the engine.
        tokenizer: of the model, for calibration text.
        row, device: of the engine.
    Raises:
        ValueError: the text or the scales file will not do, labels are missing or unknown, or ``max_drop`` cannot be
            held; the message says why.
    """
    texts, searched = _texts(words, model)
    scales, statistics = read_scales(words), None
    if scales is None:
        tell("choosing calibration texts")
        calibration = dataclasses.replace(choose(model, tokenizer, texts), source=str(words.calibration))
        statistics = gather(model, calibration, tell)
        scales = statistics.scales(words.method)
    wanted = Quantization(scales, words.parts, rest_of(row, words.rest, device), words.keep)
    if words.max_drop is None:
        return Scaled(wanted, statistics)
    tell("searching what to keep unquantized")
    found, labels = _labelled(searched, model, tokenizer, labelled=words.label_column is not None)
    shapes = [batch.input_ids.shape for batch in found]
    rows, lengths = [shape[0] for shape in shapes], [shape[-1] for shape in shapes]
    profile = ShapeProfile(min(rows), max(rows), max(rows), min(lengths), max(lengths), max(lengths))

    def progress(stage: str, done: int, of: int) -> None:
        tell(f"{stage}, batch {done} of {of}")

    mixed = search(
        capture(model, profile), scales, found, max_drop=words.max_drop, labels=labels, rest=wanted.rest,
        parts=wanted.parts, keep=wanted.keep, progress=progress,
    )  # fmt: skip
    return Scaled(dataclasses.replace(wanted, keep=tuple(dict.fromkeys((*words.keep, *mixed.keep)))), statistics, mixed)


def _texts(words: Quantize, model: Any) -> tuple[list[Text], list[Text]]:
    """Texts for the scales, and others for the search; of a labelled text the label stands in the pair's place."""
    if words.calibration is None:
        return [], []
    found, _ = read_calibration_text(words.calibration, column=words.column, pair_column=words.label_column)
    labelled = words.label_column is not None
    if labelled:
        if head_of(model) != "sequence-classification":
            raise ValueError(
                f"quantize.label_column is for sequence-classification, the head is {head_of(model)}; leave it out: "
                "max_drop then counts answers that change"
            )
        names = set(model.config.id2label.values())
        unknown = sorted({text.text_pair or "" for text in found} - names)
        if unknown:
            raise ValueError(
                f"{words.calibration} has labels in the column {words.label_column} that the model does not know: "
                f"{', '.join(map(repr, unknown[:5]))}; it knows {', '.join(sorted(names)[:8])} ..."
            )
    most = Sampling().max_texts
    searching = words.max_drop is not None
    alone = searching and words.scales is not None  # the scales are there: every text may be searched on
    chosen = sample(found, MOST_SEARCHED if alone else most + MOST_SEARCHED * searching)
    for_scales = [] if alone else chosen[::2] if searching else chosen
    searched = chosen if alone else chosen[1::2] if searching else []
    return [Text(text.text) if labelled else text for text in for_scales], searched


def _labelled(
    texts: Sequence[Text], model: Any, tokenizer: Any, *, labelled: bool
) -> tuple[list[Batch], list[Tensor] | None]:
    """Batches of the texts, and the classes of their labels where a label stands in the pair's place."""
    numbers = {name: int(number) for number, name in model.config.id2label.items()}
    plain = [Text(text.text) for text in texts] if labelled else list(texts)
    words = Sampling()
    limit = min(words.max_length, model.config.max_position_embeddings)
    rows = encode(tokenizer, plain, limit=limit, limit_name="max_length", options={"truncation": "longest_first"})
    profile = ShapeProfile(1, words.batch_size, words.batch_size, 1, limit, limit)
    made, labels = [], []
    for places, batch in batches(rows, tokenizer, profile, batch_size=words.batch_size):
        ids, mask, types = batch.tensors()
        parts = [ids, mask, types.clamp(max=model.config.type_vocab_size - 1)]
        if HEADS[head_of(model)].ids_rank == 3:
            parts = [part[:, None] for part in parts]
        made.append(Batch(*parts))
        if labelled:
            labels.append(torch.tensor([numbers[str(texts[place].text_pair)] for place in places]))
    return made, labels if labelled else None
