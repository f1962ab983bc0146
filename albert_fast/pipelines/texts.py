"""Texts -> token ids -> batches that fit an engine's profile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from albert_fast.batch import Batch, ShapeProfile

TOKENIZER_OPTIONS = ("truncation", "max_length", "padding", "add_special_tokens")


@dataclass(frozen=True)
class Text:
    """A text, or a pair of texts that belong together."""

    text: str
    text_pair: str | None = None

    @classmethod
    def read(cls, value: Any, place: str) -> Text:
        """Accept a string, or ``{"text": ..., "text_pair": ...}``.

        Args:
            place: names the input in errors, for example ``"input 3"``.
        """
        if isinstance(value, str):
            return cls(value)
        if isinstance(value, Mapping):
            unknown = [str(key) for key in value if key not in ("text", "text_pair")]
            if "text" not in value or unknown:
                raise ValueError(f"{place} has the keys {sorted(map(str, value))}, expected 'text' and 'text_pair'")
            for key, part in value.items():
                if not isinstance(part, str) and not (key == "text_pair" and part is None):
                    raise ValueError(f"{key} of {place} is a {type(part).__name__}, expected text (str)")
            return cls(value["text"], value.get("text_pair"))
        advice = ""
        if isinstance(value, bytes):
            advice = "; decode it first: value.decode('utf-8')"
        elif isinstance(value, Sequence):
            advice = '; a pair of texts is written {"text": first, "text_pair": second}'
        raise ValueError(f"{place} is a {type(value).__name__}, expected text (str){advice}")


@dataclass(frozen=True)
class Row:
    """One encoded text: ids without padding."""

    input_ids: list[int]
    token_type_ids: list[int]


def read_all(values: Sequence[Any]) -> list[Text]:
    """Every input as a ``Text``; the first that is none raises ``ValueError``."""
    return [Text.read(value, f"input {i}" if len(values) > 1 else "the input") for i, value in enumerate(values)]


def encode(
    tokenizer: Any,
    texts: Sequence[Text],
    *,
    limit: int,
    limit_name: str,
    options: Mapping[str, Any],
) -> list[Row]:
    """Token ids of every text.

    Args:
        limit: most tokens that the engine takes, specials included; ``limit_name`` says what sets it.
        options: of ``TOKENIZER_OPTIONS``. ``truncation=True`` without ``max_length`` cuts at ``limit``.
    Raises:
        ValueError: a text has more tokens than ``limit`` and truncation is not asked for.
    """
    unknown = [name for name in options if name not in TOKENIZER_OPTIONS]
    if unknown:
        raise ValueError(f"unknown options {', '.join(sorted(unknown))}; expected {', '.join(TOKENIZER_OPTIONS)}")
    passed = {name: value for name, value in options.items() if name != "padding"}
    if passed.get("truncation") and passed.get("max_length") is None:
        passed["max_length"] = limit
    rows: list[Row | None] = [None] * len(texts)
    for paired in (False, True):
        which = [i for i, text in enumerate(texts) if (text.text_pair is not None) is paired]
        if not which:
            continue
        encoded = tokenizer(
            [texts[i].text for i in which],
            [texts[i].text_pair for i in which] if paired else None,
            padding=False,
            return_token_type_ids=True,
            return_attention_mask=False,
            **passed,
        )
        for i, ids, types in zip(which, encoded["input_ids"], encoded["token_type_ids"], strict=True):
            rows[i] = Row([int(v) for v in ids], [int(v) for v in types])
    encoded_rows = [row for row in rows if row is not None]
    for i, row in enumerate(encoded_rows):
        if not row.input_ids:
            raise ValueError(f"input {i} is empty without special tokens; leave add_special_tokens at True")
        if len(row.input_ids) > limit:
            raise ValueError(
                f"input {i} has {len(row.input_ids)} tokens, at most {limit} fit ({limit_name}); pass truncation=True "
                "(--truncate) to cut texts there"
            )
    return encoded_rows


def batches(
    rows: Sequence[Row], tokenizer: Any, profile: ShapeProfile, *, batch_size: int, length: int | None = None
) -> Iterator[tuple[list[int], Batch]]:
    """Rows of like length together, padded to the longest and to what the profile demands at least.

    Args:
        batch_size: rows of one batch at most.
        length: pad to this many tokens instead of to the longest row.
    Yields:
        The places in ``rows`` that the batch's first rows hold, and the batch, int64. Where the profile demands more
        rows than there are, the last one is repeated; those carry no place.
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].input_ids))
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        filled = places + [places[-1]] * (profile.min_batch - len(places))
        longest = max(len(rows[i].input_ids) for i in places)
        padded = tokenizer.pad(
            {
                "input_ids": [rows[i].input_ids for i in filled],
                "token_type_ids": [rows[i].token_type_ids for i in filled],
            },
            padding="max_length",
            max_length=max(longest, profile.min_length, length or 0),
            return_tensors="pt",
        )
        yield places, Batch(padded["input_ids"], padded["attention_mask"], padded["token_type_ids"])
