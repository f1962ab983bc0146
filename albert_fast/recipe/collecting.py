"""A model and text -> ``Statistics``: which texts run, in which batches, and what is refused before they do."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from albert_fast.batch import Batch, ShapeProfile, check_inputs
from albert_fast.capture import capture
from albert_fast.heads import HEADS, head_of
from albert_fast.pipelines.texts import Row, Text, batches, encode
from albert_fast.precision.calibration import Statistics, collect
from albert_fast.recipe.calibration_text import read_calibration_text, sample

if TYPE_CHECKING:
    from albert_fast.pretrained import AlbertPreTrainedModel

logger = logging.getLogger(__name__)

Tell = Callable[[str], None]

FEWEST_TEXTS, FEWEST_TOKENS = 32, 1_000
"""Below them ranges are a matter of chance; docs/int8.md has the measurement."""
MOST_UNKNOWN, MUCH_UNKNOWN = 0.2, 0.02
"""Share of a text's pieces that the vocabulary lacks: refused above, doubtful above. In another script it is a
half, in another language of the Latin script 0 to 8 per cent, in the vocabulary's own 0.1."""
MANY_CUT = 0.1


@dataclass(frozen=True)
class Sampling:
    """Which texts run, and in which shapes.

    Attributes:
        max_texts: most texts that are run, see ``calibration_text.sample``.
        max_length: most tokens of a text, special ones among them; longer texts are cut.
        batch_size: texts that run at once. It decides how long it takes; ranges move by float32's rounding only.
    Raises:
        ValueError: one of them is too small.
    """

    max_texts: int = 512
    max_length: int = 128
    batch_size: int = 32

    def __post_init__(self) -> None:
        lowest = {"max_texts": FEWEST_TEXTS, "max_length": 3, "batch_size": 1}
        wrong = [
            f"{name} is {getattr(self, name)!r}, expected a number of at least {low}"
            for name, low in lowest.items()
            if not isinstance(getattr(self, name), int) or getattr(self, name) < low
        ]
        if wrong:
            raise ValueError("; ".join(wrong))


@dataclass(frozen=True)
class Calibration:
    """What is run: the batches, where their texts came from, and how many of those were cut."""

    batches: tuple[Batch, ...]
    source: str
    truncated: int = 0


def choose(
    model: AlbertPreTrainedModel,
    tokenizer: Any,
    texts: Any,
    *,
    sampling: Sampling | None = None,
) -> Calibration:
    """Read calibration text and make batches of it.

    Args:
        tokenizer: of the model; None where ``texts`` are batches.
        texts: as ``calibration_text.read_calibration_text`` takes them without columns, or an iterable of ``Batch``:
            all of those are run, as they are.
    Raises:
        ValueError: there is no text, too little of it, or it is not of the vocabulary's language; all in one message.
            Or ids that the model does not have.
        MissingDependencyError: Parquet, and pyarrow is not installed.
    """
    ready, texts = are_batches(texts)
    if ready:
        calibration = Calibration(tuple(texts), "batches")
        _check(calibration.batches, model, [])
        return calibration
    if tokenizer is None:
        raise ValueError(
            "the model comes without its tokenizer; pass tokenizer=, a folder with spiece.model or an AlbertTokenizer, "
            "or batches of token ids in the place of texts"
        )
    words = sampling or Sampling()
    found, source = read_calibration_text(texts)
    chosen = sample(found, words.max_texts)
    limit = min(words.max_length, model.config.max_position_embeddings)
    whole = encode(tokenizer, chosen, limit=2**31, limit_name="of a text", options={})
    cut = [len(row.input_ids) > limit for row in whole]
    rows = encode(tokenizer, chosen, limit=limit, limit_name="max_length", options={"truncation": "longest_first"})
    made = _batches(rows, tokenizer, model, limit, words.batch_size)
    _check(made, model, _unknown(chosen, whole, tokenizer))
    if sum(cut) > MANY_CUT * len(cut):
        logger.warning(
            "%d of %d calibration texts are longer than %d tokens and are cut there; give a larger max_length "
            "(--max-length) if the engine will see them whole", sum(cut), len(cut), limit,
        )  # fmt: skip
    return Calibration(made, source, sum(cut))


def gather(
    model: AlbertPreTrainedModel, calibration: Calibration, tell: Tell | None = None, step: Tell | None = None
) -> Statistics:
    """Capture the model and collect what its tensors hold on the batches.

    Args:
        model: float32, in ``eval`` mode; with ``attn_implementation="eager"`` attention's products are seen too.
        tell: called with the name of each stage as it begins; ``step`` with how far the last one is.
    Raises:
        ValueError: a tensor is NaN or infinite.
    """
    say = tell or (lambda words: None)
    made = calibration.batches
    say("capturing the graph")
    program = capture(model, shapes_of(made))
    stage = f"running {sum(batch.input_ids.flatten(0, -2).shape[0] for batch in made)} texts in float32"
    say(stage)

    def count(done: int) -> None:
        if step is not None:
            step(f"{stage}, {done} done")

    found = collect(program, made, source=calibration.source, progress=count)
    return dataclasses.replace(found, text=dataclasses.replace(found.text, truncated=calibration.truncated))


def are_batches(texts: Any) -> tuple[bool, Any]:
    """Whether these are ready batches, and the same again; an iterator is not used up by looking at its first."""
    if isinstance(texts, Batch):
        return True, [texts]
    if isinstance(texts, str) or not isinstance(texts, Iterable) or hasattr(texts, "__len__"):
        return isinstance(texts, Sequence) and bool(texts) and isinstance(texts[0], Batch), texts
    values = iter(texts)
    first = next(values, None)
    return isinstance(first, Batch), [] if first is None else chain([first], values)


def _batches(
    rows: Sequence[Row], tokenizer: Any, model: AlbertPreTrainedModel, limit: int, batch_size: int
) -> tuple[Batch, ...]:
    """Texts of like length together; where the head takes choices, each text is the only choice of its question."""
    profile = ShapeProfile(1, batch_size, batch_size, 1, limit, limit)
    made = []
    for _, batch in batches(rows, tokenizer, profile, batch_size=batch_size):
        ids, mask, types = batch.tensors()
        types = types.clamp(max=model.config.type_vocab_size - 1)
        parts = (part[:, None] if HEADS[head_of(model)].ids_rank == 3 else part for part in (ids, mask, types))
        made.append(Batch(*parts))
    return tuple(made)


def _check(made: Sequence[Batch], model: AlbertPreTrainedModel, problems: list[str]) -> None:
    """Refuse too little text, and ids that the model does not have."""
    config = model.config
    masks = [batch.tensors()[1].flatten(0, -2) != 0 for batch in made]
    texts = sum(int(mask.any(1).sum()) for mask in masks)
    tokens = sum(int(mask.sum()) for mask in masks)
    if texts < FEWEST_TEXTS or tokens < FEWEST_TOKENS:
        problems = [
            f"there are {texts} different texts with {tokens} tokens, at least {FEWEST_TEXTS} texts and "
            f"{FEWEST_TOKENS:,} tokens are needed, some hundred texts are better",
            *problems,
        ]
    for batch in made:
        if problems:
            break
        ids, mask, types = (part.flatten(0, -2) for part in batch.tensors())
        try:
            check_inputs(
                input_ids=ids, attention_mask=mask, token_type_ids=types, vocab_size=config.vocab_size,
                max_position_embeddings=config.max_position_embeddings, type_vocab_size=config.type_vocab_size,
                embedding_size=config.embedding_size,
            )  # fmt: skip
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError(f"the calibration text will not do: {'; '.join(problems)}")


def _unknown(texts: Sequence[Text], rows: Sequence[Row], tokenizer: Any) -> list[str]:
    """What is wrong with the pieces that the vocabulary lacks; a doubtful share is only logged."""
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    pieces = sum(1 for row in rows for piece in row.input_ids if piece not in special)
    lacking = [row.input_ids.count(tokenizer.unk_token_id) for row in rows]
    share = sum(lacking) / max(pieces, 1)
    if share <= MUCH_UNKNOWN:
        return []
    first = next(text.text for text, count in zip(texts, lacking, strict=True) if count)
    words = f"{share:.1%} of its pieces are not in the model's vocabulary, such as in {first[:80]!r}"
    if share > MOST_UNKNOWN:
        return [f"{words}; at most {MOST_UNKNOWN:.0%} may be: give text in the language that the model was trained on"]
    logger.warning("the calibration text is doubtful: %s", words)
    return []


def shapes_of(made: Sequence[Batch]) -> ShapeProfile:
    """The shapes of these batches."""
    shapes = [batch.input_ids.shape for batch in made]
    rows, lengths = [shape[0] for shape in shapes], [shape[-1] for shape in shapes]
    return ShapeProfile(min(rows), max(rows), max(rows), min(lengths), max(lengths), max(lengths))
