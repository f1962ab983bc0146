"""verify: an engine file against the model it was made of, on texts of the user's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from albert_fast import checkpoint
from albert_fast import engine as engines
from albert_fast.batch import Batch
from albert_fast.engine import Engine, MeasuredError
from albert_fast.engine.asked import by_row
from albert_fast.engine.measure import ErrorSums, exceeded, worst
from albert_fast.engine.shapes import per_token
from albert_fast.heads import HEADS
from albert_fast.pipelines.sources import tokenizer_folder
from albert_fast.pipelines.texts import Row, Text, batches, encode
from albert_fast.precision import PRECISIONS, ErrorBudget
from albert_fast.recipe.references import answers

MOST_TEXTS = 1_000_000


@dataclass(frozen=True)
class Verification:
    """What ``verify`` found.

    Attributes:
        texts, tokens: how many were compared; padding does not count.
        error: over all of them, per-token outputs at real tokens only.
        budget: of the engine's precision, or the caller's.
        beyond: what of the error is beyond the budget, in words; empty when the engine passes.
        worst_text, worst_max_abs: the text whose outputs differ most, and by how much.
        same_weights: whether the model's weights are those that the engine was built from.
    """

    texts: int
    tokens: int
    error: MeasuredError
    budget: ErrorBudget
    beyond: tuple[str, ...]
    worst_text: str
    worst_max_abs: float
    same_weights: bool


def verify(
    engine_file: str | os.PathLike[str],
    texts: Sequence[Text],
    *,
    against: str | os.PathLike[str] | None = None,
    device: str | None = None,
    budget: ErrorBudget | None = None,
    tell: Callable[[str], None] | None = None,
    step: Callable[[str], None] | None = None,
) -> Verification:
    """Answer texts with an engine file and with its model in float32 eager, and compare.

    Args:
        texts: at least one; texts longer than the engine takes are cut, for both alike. For multiple choice each text
            is one choice of a single question.
        against: checkpoint folder, hub name or embedded model; None is the one that the manifest names.
        budget: None is that of the engine's precision.
        tell: called with the name of each stage as it begins; ``step`` with how far the last one is.
    Raises:
        ValueError: no texts, or a manifest that names no checkpoint and none was given.
        CheckpointError, EngineError: the model or the engine cannot be loaded or do not fit each other.
    """
    say = tell or (lambda words: None)
    if not texts:
        raise ValueError("there is no text to verify with; give at least one")
    path = Path(engine_file)
    say(f"loading {path}")
    engine = engines.load(path, device=device)
    manifest = engine.manifest
    assert manifest is not None
    source = os.fspath(against) if against is not None else manifest.checkpoint_source
    if source is None:
        raise ValueError(f"the manifest of {path} names no checkpoint; say which with against= (--against)")
    say(f"loading {source}")
    loaded = checkpoint.load(source)
    model = HEADS[engine.head].model_class.from_checkpoint(loaded, attn_implementation="eager")
    _check_pair(engine, model.config, source)
    tokenizer = _tokenizer(path, loaded.folder)
    rows = encode(
        tokenizer, texts, limit=min(engine.profile.max_length, engine.config.max_position_embeddings),
        limit_name="of the engine", options={"truncation": True},
    )  # fmt: skip
    limits = budget or PRECISIONS[manifest.precision].budget
    sums = {name: ErrorSums(name, limits.mean_abs) for name in engine.output_names}
    largest, worst_text, done = -1.0, "", 0
    stage = f"comparing {len(rows)} texts with float32 eager"
    say(stage)
    for places, batch in _batches(rows, tokenizer, engine):
        if step is not None:
            step(f"{stage}, {done} done")
        real = batch.asked_or_text()  # none of them asks, so it is all text
        found, expected = (by_row(one, engine.outputs, real) for one in (engine(batch), _eager(model, batch, engine)))
        for index, place in enumerate(places):
            seen = real[index].reshape(-1)
            mine, theirs = (_own(answer[index], engine, seen) for answer in (found, expected))
            difference = max(sums[name].add(mine[name], theirs[name]) for name in sums)
            if difference > largest:
                largest, worst_text = difference, texts[place].text
        done += len(places)
    error = worst([one.error() for one in sums.values()])
    return Verification(
        texts=len(rows), tokens=sum(len(row.input_ids) for row in rows), error=error, budget=limits,
        beyond=tuple(exceeded(error, limits)), worst_text=worst_text, worst_max_abs=largest,
        same_weights=manifest.checkpoint_sha256 == loaded.sha256,
    )  # fmt: skip


def read_texts(path: str | os.PathLike[str], *, limit: int = MOST_TEXTS) -> list[Text]:
    """The texts of a file: one a line, the parts of a pair with a tab between them; empty lines do not count.

    Raises:
        ValueError: the file cannot be read, is not UTF-8 or holds no text; a line has more than two parts.
    """
    name = os.fspath(path)
    found: list[Text] = []
    try:
        with open(path, encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                parts = line.rstrip("\r\n").split("\t")
                if len(parts) > 2:
                    raise ValueError(
                        f"line {number} of {name} has {len(parts)} parts, expected a text, or two with a tab between"
                    )
                if line.strip():
                    found.append(Text(*parts))
                if len(found) == limit:
                    break
    except OSError as error:
        raise ValueError(f"the texts {name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"the texts {name} are not UTF-8: {error}") from None
    if not found:
        raise ValueError(f"{name} holds no text; expected one a line")
    return found


def _batches(rows: list[Row], tokenizer: Any, engine: Engine) -> Any:
    """Batches as pipelines make them; where the engine takes choices, each text is the only choice of its question."""
    for places, batch in batches(rows, tokenizer, engine.profile, batch_size=engine.profile.opt_batch):
        yield places, (Batch(*(part[:, None] for part in batch.tensors())) if engine.ids_rank == 3 else batch)


def _eager(model: Any, batch: Batch, engine: Engine) -> dict[str, Tensor]:
    ((_, found),) = answers(model, [batch], asked=engine.asked)
    return {name: found[name] for name in engine.output_names}


def _own(outputs: Mapping[str, Tensor], engine: Engine, seen: Tensor) -> dict[str, Tensor]:
    """One text's outputs, those of its padding left out, with the scores that compete in the last dimension.

    ``[tokens, scores]`` where each token has scores, ``[tokens]`` where each is one score (where an answer starts),
    ``[scores]`` where the text as a whole has them.
    """
    own = {}
    for spec in engine.outputs:
        value = outputs[spec.name].cpu()
        own[spec.name] = value[seen] if per_token(spec) else value
    return own


def _check_pair(engine: Engine, config: Any, source: str) -> None:
    """Refuse a model that cannot be the engine's: sizes that differ."""
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_labels")
    wrong = [
        f"{name} is {getattr(config, name)}, the engine's {getattr(engine.config, name)}"
        for name in names
        if getattr(config, name) != getattr(engine.config, name)
    ]
    if wrong:
        raise ValueError(f"{source} is not the model of this engine: {'; '.join(wrong)}")


def _tokenizer(engine_file: Path, model_folder: Path) -> Any:
    """The tokenizer beside the engine file, or the model's."""
    from albert_fast.tokenizer import AlbertTokenizer

    beside = tokenizer_folder(engine_file)
    return AlbertTokenizer.from_pretrained(beside if beside.is_dir() else model_folder)
