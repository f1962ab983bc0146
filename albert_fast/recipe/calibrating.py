"""calibrate: from a model and text to the scales that int8 needs."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from torch import nn

from albert_fast.attention import ATTENTION
from albert_fast.capture import capture
from albert_fast.precision.calibration import DEFAULT_METHOD, check_method
from albert_fast.precision.scales import Scales
from albert_fast.recipe.cache import live_source
from albert_fast.recipe.calibration_text import read_calibration_text
from albert_fast.recipe.collecting import Sampling, are_batches, choose, gather, shapes_of
from albert_fast.recipe.exporting import Progress, source_of, with_attention
from albert_fast.recipe.words import Recipe
from albert_fast.report import calibration_page, write


def calibrate(
    model: str | os.PathLike[str] | nn.Module,
    texts: Any,
    *,
    head: str | None = None,
    column: str | None = None,
    pair_column: str | None = None,
    method: str = DEFAULT_METHOD,
    percentile: float = 99.99,
    smooth: bool | float = False,
    max_texts: int = 512,
    max_length: int = 128,
    batch_size: int = 32,
    attention: str = "eager",
    tokenizer: Any = None,
    revision: str | None = None,
    report: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    step: Progress | None = None,
) -> Scales:
    """Run a model on text and choose the range of every tensor that can be quantized, pass by pass.

    The same texts give the same scales, in whatever order they lie; so does another batch size, but for the rounding of
    float32. Padding is left out.

    Args:
        model: a checkpoint folder, a hub name, ``"albert-fast/wordnet"``, or a live model, ours or of ``transformers``,
            in ``eval`` mode, which is run where it is.
        texts: a file or an iterable, see ``calibration_text.read_calibration_text``; or an iterable of ``Batch``, which
            are run as they are.
        head: row of ``HEADS``; None takes what the checkpoint was saved as. A live model has its own. Scales of the
            encoder serve every head; those of the linear maps behind it are in the file for this head only.
        column, pair_column: of ``texts``, where they have columns.
        method: row of ``METHODS``, by which a range is chosen.
        percentile: share of the numbers that the method ``"percentile"`` does not clip, in per cent.
        smooth: whether large channels are evened out before ranges are chosen (SmoothQuant); a number between 0 and 1
            is alpha, how much of them goes into the weights, for every tensor; True measures it for each.
        max_texts: most texts that are run; of more a fixed sample is taken.
        max_length: most tokens of a text; longer ones are cut.
        batch_size: texts that run at once.
        attention: ``"eager"`` shows attention's two products too, ``"sdpa"`` hides them and is faster.
        tokenizer: of a live model: an ``AlbertTokenizer``, or the folder or name that one is loaded from. None is the
            checkpoint's own.
        revision: of a hub model: branch, tag or commit.
        report: an HTML file to write, with charts of what was seen and what was chosen.
        progress: told the name of every stage as it begins; ``step`` how far the last one is.
    Raises:
        ValueError: what is wrong with the words, the text or the weights, and what to do about it.
        CheckpointError, MissingDependencyError: as for ``export``.
    """
    check_method(method, percentile)
    if not isinstance(smooth, bool) and not (isinstance(smooth, int | float) and 0 <= smooth <= 1):
        raise ValueError(f"smooth is {smooth!r}, expected True, False or a number between 0 and 1")
    sampling = Sampling(max_texts, max_length, batch_size)
    if attention not in ATTENTION:
        raise ValueError(f"attention is {attention!r}, expected one of {', '.join(ATTENTION)}")
    tell = progress or (lambda stage: None)
    name = None
    ready, texts = are_batches(texts)
    if ready and (column or pair_column):
        raise ValueError("batches have no columns; leave column and pair_column out")
    if not ready:
        tell("reading texts")
        texts, name = read_calibration_text(texts, column=column, pair_column=pair_column)
    if isinstance(model, nn.Module):
        source = live_source(model, head)
    else:
        tell(f"loading {os.fspath(model)}")
        source = source_of(Recipe.from_dict({"model": os.fspath(model), "head": head, "revision": revision}))
    if isinstance(tokenizer, str | os.PathLike):
        from albert_fast.tokenizer import AlbertTokenizer

        tokenizer = AlbertTokenizer.from_pretrained(os.fspath(tokenizer))
    tell("choosing texts")
    calibration = choose(source.model, tokenizer or source.tokenizer, texts, sampling=sampling)
    if name is not None:
        calibration = dataclasses.replace(calibration, source=name)
    seen = source.model if attention == "eager" else with_attention(source.model, attention)
    statistics = gather(seen, calibration, tell, step)
    tell("choosing ranges")
    if smooth is False:
        scales = statistics.scales(method, share=percentile)
    else:
        from albert_fast.precision.smoothing import smooth as smoothed

        batches = calibration.batches
        alpha = None if smooth is True else smooth
        scales = smoothed(
            statistics, capture(seen, shapes_of(batches)), batches, alpha=alpha, method=method, share=percentile
        )
    if report is not None:
        described = type(model).__name__ if isinstance(model, nn.Module) else os.fspath(model)
        write(report, calibration_page(statistics, scales, model=described))
    return scales
