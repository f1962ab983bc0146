"""From a recipe's words to a ``Quantization``: read the scales or find them, and with ``max_drop`` what to keep."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from albert_fast.batch import Batch, ShapeProfile
from albert_fast.capture import capture
from albert_fast.heads import HEADS, head_of
from albert_fast.pipelines.texts import Text, batches, encode
from albert_fast.precision import Quantization
from albert_fast.precision.calibration import Statistics
from albert_fast.precision.sensitivity import Mixed, search
from albert_fast.recipe.calibration_text import read_calibration_text, sample
from albert_fast.recipe.collecting import Sampling, choose, gather, shapes_of
from albert_fast.recipe.quantizing import Quantize, read_scales

MOST_HELD, FEW_HELD = 512, 64
"""Texts that ``max_drop`` is measured on, and those that a report compares on without one."""


@dataclass(frozen=True)
class Held:
    """Text that the ranges were not found on, and the float32 graph for its shapes.

    Attributes:
        labels: for each batch the class of every text; None where they are not known.
    """

    program: ExportedProgram
    batches: tuple[Batch, ...]
    labels: tuple[Tensor, ...] | None


@dataclass(frozen=True)
class Scaled:
    """What ``scale`` found.

    Attributes:
        statistics: of the calibration text; None where the scales came from a file.
        held: other text of the same source; None where there is no more.
        mixed: what the search for ``max_drop`` tried; None without one.
    """

    quantization: Quantization
    statistics: Statistics | None = None
    held: Held | None = None
    mixed: Mixed | None = None


def scale(
    words: Quantize,
    model: Any,
    tokenizer: Any,
    *,
    rest: str,
    keep_float32: Sequence[str] = (),
    tell: Callable[[str], None],
) -> Scaled:
    """Find scales and what stays unquantized.

    Args:
        model: float32, on the CPU or the engine's device, with the attention implementation of the engine.
        tokenizer: of the model, for calibration text.
        rest: ``words.rest`` with "auto" resolved.
        keep_float32: of the engine, see ``precision.prepare``.
    Raises:
        ValueError: the text or the scales file will not do, labels are missing or unknown, or ``max_drop`` cannot be
            held; the message says why.
    """
    texts, others = _texts(words, model)
    scales, statistics = read_scales(words), None
    if scales is None:
        tell("choosing calibration texts")
        calibration = dataclasses.replace(choose(model, tokenizer, texts), source=str(words.calibration))
        statistics = gather(model, calibration, tell)
        scales = statistics.scales(words.method)
    wanted = Quantization(scales, words.parts, rest, words.keep)
    held = _held(others, model, tokenizer, labelled=words.label_column is not None) if others else None
    if words.max_drop is None:
        return Scaled(wanted, statistics, held)
    if held is None:
        raise ValueError(f"{words.calibration} holds too few texts for max_drop: it needs others than the ranges need")
    tell("searching what to keep unquantized")

    def progress(stage: str, done: int, of: int) -> None:
        tell(f"{stage}, batch {done} of {of}")

    mixed = search(
        held.program, scales, held.batches, max_drop=words.max_drop, labels=held.labels, rest=wanted.rest,
        parts=wanted.parts, keep=wanted.keep, keep_float32=keep_float32, progress=progress,
    )  # fmt: skip
    keep = tuple(dict.fromkeys((*words.keep, *mixed.keep)))
    return Scaled(dataclasses.replace(wanted, keep=keep), statistics, held, mixed)


def _texts(words: Quantize, model: Any) -> tuple[list[Text], list[Text]]:
    """Texts for the scales, and others to compare on; of a labelled text the label stands in the pair's place."""
    if words.calibration is None:
        return [], []
    found, _ = read_calibration_text(words.calibration, column=words.column, pair_column=words.label_column)
    labelled = words.label_column is not None
    if labelled:
        _check_labels(found, words, model)
    if words.scales is not None:  # every text may be compared on
        return [], sample(found, MOST_HELD if words.max_drop is not None else FEW_HELD)
    most = Sampling().max_texts
    chosen = sample(found, most + (MOST_HELD if words.max_drop is not None else FEW_HELD))
    share = 2 if words.max_drop is not None else 1 + most // FEW_HELD
    held = chosen[::share]
    for_scales = [Text(text.text) if labelled else text for index, text in enumerate(chosen) if index % share]
    return for_scales, held


def _check_labels(found: Sequence[Text], words: Quantize, model: Any) -> None:
    """Refuse labels that are of no use here."""
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


def _held(texts: Sequence[Text], model: Any, tokenizer: Any, *, labelled: bool) -> Held:
    found, labels = _labelled(texts, model, tokenizer, labelled=labelled)
    return Held(capture(model, shapes_of(found)), tuple(found), None if labels is None else tuple(labels))


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
