"""Tokens that are found in the text before it is cut into words: the special ones and those a user adds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class AddedToken:
    """One such token, with the flags of the ``tokenizers`` library.

    Attributes:
        content: its text.
        single_word: match only where no letter, digit or underscore touches it.
        lstrip: take the white space before it into its span.
        rstrip: take the white space after it into its span.
        normalized: look for it in the normalized text, not in the original.
        special: dropped by ``decode(..., skip_special_tokens=True)``.
    """

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    special: bool = False

    def __str__(self) -> str:
        return self.content

    def to_dict(self) -> dict[str, Any]:
        """The fields as ``tokenizer_config.json`` holds them."""
        return asdict(self)

    @classmethod
    def from_any(cls, value: object, *, special: bool, normalized: bool = False) -> AddedToken:
        """A token from its text, from a dict of its fields, or from a look-alike of another library."""
        if isinstance(value, AddedToken):
            return value
        if isinstance(value, str):
            return cls(value, special=special, normalized=normalized)
        names = ("single_word", "lstrip", "rstrip", "normalized", "special")
        fields = value if isinstance(value, dict) else {n: getattr(value, n, None) for n in ("content", *names)}
        content = fields.get("content")
        if not isinstance(content, str):
            raise ValueError(f"a token is a str or an AddedToken, found {type(value).__name__}: {value!r}")
        flags = {name: bool(fields[name]) for name in names if fields.get(name) is not None}
        return cls(content, **{"special": special, "normalized": normalized, **flags})


@dataclass(frozen=True)
class Match:
    """Where a token stands: ``text[start:end]``, with the white space it takes in."""

    token: AddedToken
    start: int
    end: int


class TokenFinder:
    """Finds tokens in a text: left to right, the longest of those that begin at one place.

    Args:
        tokens: what to look for.
        spelling: how a token's text looks in the texts that are searched.
    """

    def __init__(self, tokens: Iterable[AddedToken], spelling: Callable[[str], str] = str) -> None:
        self._tokens = {spelled: token for token in tokens if (spelled := spelling(token.content))}
        alternatives = "|".join(re.escape(text) for text in sorted(self._tokens, key=len, reverse=True))
        self._pattern = re.compile(alternatives) if alternatives else None

    def found_in(self, text: str) -> bool:
        """Whether any token's text stands in ``text``."""
        return self._pattern is not None and self._pattern.search(text) is not None

    def matches(self, text: str) -> Iterator[Match]:
        """Every match, in order, not overlapping."""
        if self._pattern is None:
            return
        free = 0
        for found in self._pattern.finditer(text):
            token, start, end = self._tokens[found.group()], found.start(), found.end()
            if token.single_word and (_is_word(text[start - 1 : start]) or _is_word(text[end : end + 1])):
                continue
            while token.lstrip and start > free and text[start - 1].isspace():
                start -= 1
            while token.rstrip and end < len(text) and text[end].isspace():
                end += 1
            yield Match(token, start, end)
            free = end

    def split(self, text: str) -> Iterator[tuple[int, int, AddedToken | None]]:
        """The whole text in order as (start, end, token), where ``None`` marks an ordinary stretch; none is empty."""
        at = 0
        for match in self.matches(text):
            if at < match.start:
                yield at, match.start, None
            yield match.start, match.end, match.token
            at = match.end
        if at < len(text):
            yield at, len(text), None


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"
