"""Text in, predictions out: the table of tasks, and ``pipeline`` that makes one out of whatever holds the model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from albert_fast.pipelines.sources import resolve

if TYPE_CHECKING:
    from torch import nn

    from albert_fast.engine import Engine
    from albert_fast.pipelines.base import Pipeline
    from albert_fast.tokenizer import AlbertTokenizer

__all__ = ["TASKS", "Task", "pipeline", "task_of"]


@dataclass(frozen=True)
class Task:
    """One row of ``TASKS``.

    Attributes:
        head: the row of ``heads.HEADS`` that a model or engine must have.
        implementation: ``"module:class"``, resolved on use.
        summary: what it answers, as it stands in ``--help``.
    """

    head: str
    implementation: str
    summary: str


TASKS: Mapping[str, Task] = {
    "fill-mask": Task(
        "masked-lm", "albert_fast.pipelines.fill_mask:FillMaskPipeline", "the likeliest words in place of [MASK]"
    ),
    "text-classification": Task(
        "sequence-classification",
        "albert_fast.pipelines.text_classification:TextClassificationPipeline",
        "the likeliest classes of a text or of a pair of texts",
    ),
}


def task_of(head: str) -> str:
    """The name of the task that an engine with this head does.

    Raises:
        ValueError: no pipeline exists for the head.
    """
    for name, task in TASKS.items():
        if task.head == head:
            return name
    possible = ", ".join(f"{task.head} ({name})" for name, task in TASKS.items())
    raise ValueError(
        f"no pipeline answers with the head {head!r}, only with {possible}; call the engine with a Batch instead: "
        "albert_fast.engine.load(file)(batch)"
    )


def pipeline(
    task: str,
    model: str | os.PathLike[str] | nn.Module | Engine,
    tokenizer: str | os.PathLike[str] | AlbertTokenizer | None = None,
    *,
    device: str | None = None,
    format: str | None = None,
    num_threads: int | None = None,
    batch_size: int | None = None,
    **options: Any,
) -> Pipeline:
    """Make a callable that takes text and gives predictions, shaped as those of ``transformers.pipeline``.

    Args:
        task: a name in ``TASKS``: ``"fill-mask"`` or ``"text-classification"``.
        model: an engine file, a checkpoint folder, a hub name, the embedded ``"albert-fast/wordnet"``, an ``Engine``,
            or a live model, of this library or of ``transformers``.
        tokenizer: a tokenizer, its folder or its name. None takes the one that lies with the model or engine file.
        device: None means the CPU, or where an ``Engine`` already is.
        format: how a model that is no engine file runs in this process: ``"eager"`` (None) or ``"inductor"``.
        num_threads: how many threads the engine computes with, see ``albert_fast.load``; None: as many as torch has.
        batch_size: texts per call of the engine; None takes the optimum of the engine's profile. Texts of like length
            go together; results keep the order of the texts.
        options: defaults for the options of the task's own ``__call__``, for example ``top_k=3``.
    Raises:
        ValueError: unknown task or option, a model whose head does another task, no tokenizer to be found.
        CheckpointError, EngineError: the model or the engine file cannot be used.
    """
    if task not in TASKS:
        raise ValueError(f"task is {task!r}, expected one of {', '.join(TASKS)}")
    row = TASKS[task]
    engine, found = resolve(
        model, tokenizer, task=task, head=row.head, device=device, format=format, num_threads=num_threads
    )
    module, _, name = row.implementation.partition(":")
    made: Pipeline = getattr(import_module(module), name)(engine, found, batch_size=batch_size, **options)
    return made
