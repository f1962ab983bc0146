"""One row of a result: its ids, and on demand which token stands for which characters and words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from albert_fast.tokenizer.encoder import Details, Text, TextEncoder
from albert_fast.tokenizer.truncation import Window


class CharSpan(NamedTuple):
    """Characters ``text[start:end]``."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens ``input_ids[start:end]``."""

    start: int
    end: int


class Source:
    """One text of a row: its ids now, the details of its tokens when asked for."""

    __slots__ = ("_details", "_encoder", "_split", "ids", "text")

    def __init__(self, text: Text, encoder: TextEncoder, split_special_tokens: bool) -> None:
        self.text, self._encoder, self._split = text, encoder, split_special_tokens
        self._details: Details | None = None
        if isinstance(text, str) and encoder.sampler is None:
            self.ids = encoder.ids(text, split_special_tokens=split_special_tokens)
        else:
            self.ids = self.details.ids

    @property
    def details(self) -> Details:
        """The tokens of the whole text with their places."""
        if self._details is None:
            self._details = self._encoder.details(self.text, split_special_tokens=self._split)
        return self._details


class Row(NamedTuple):
    """What stands in a row, before padding.

    Attributes:
        parts: each text with the range of its tokens that the row holds.
        ids: the row's ids, specials included.
        sample: number of the text (or pair) in the call.
    """

    parts: list[tuple[Source, Window]]
    ids: list[int]
    sample: int


@dataclass(frozen=True)
class Layout:
    """The special tokens around the texts, as (id, token), and the padding."""

    cls: tuple[int, str]
    sep: tuple[int, str]
    pad: tuple[int, str]
    add_special_tokens: bool
    pad_left: bool


class Encoding:
    """One row with everything known about its tokens, as ``tokenizers.Encoding``.

    Args:
        row: the row.
        layout: the special tokens and the side of the padding.
        length: its length with padding.
    """

    def __init__(self, row: Row, layout: Layout, length: int) -> None:
        self.n_sequences = len(row.parts)
        tokens: list[str] = []
        self.type_ids: list[int] = []
        self.offsets: list[tuple[int, int]] = []
        self.word_ids: list[int | None] = []
        self.sequence_ids: list[int | None] = []
        self.tokens = tokens
        padding = length - len(row.ids)
        pads = (layout.pad[0], layout.pad[1], 0)
        self.ids: list[int] = []
        if layout.pad_left:
            self._add_specials(*pads, count=padding)
        if layout.add_special_tokens:
            self._add_specials(*layout.cls, 0)
        for sequence, (source, (start, end)) in enumerate(row.parts):
            details = source.details
            self.ids += details.ids[start:end]
            tokens += details.tokens[start:end]
            self.offsets += details.offsets[start:end]
            self.word_ids += details.words[start:end]
            self.type_ids += [sequence] * (end - start)
            self.sequence_ids += [sequence] * (end - start)
            if layout.add_special_tokens:
                self._add_specials(*layout.sep, sequence)
        if not layout.pad_left:
            self._add_specials(*pads, count=padding)
        first = padding if layout.pad_left else 0
        self.attention_mask = [int(first <= i < first + len(row.ids)) for i in range(length)]
        self.special_tokens_mask = [int(sequence is None) for sequence in self.sequence_ids]

    def _add_specials(self, id: int, token: str, type_id: int, count: int = 1) -> None:
        self.ids += [id] * count
        self.tokens += [token] * count
        self.type_ids += [type_id] * count
        self.offsets += [(0, 0)] * count
        self.word_ids += [None] * count
        self.sequence_ids += [None] * count

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        return f"Encoding({len(self.ids)} tokens: {' '.join(self.tokens[:12])}{' ...' if len(self.ids) > 12 else ''})"

    def token_to_sequence(self, token: int) -> int | None:
        """0 or 1, the text the token belongs to; None for specials and padding."""
        return self.sequence_ids[token]

    def token_to_word(self, token: int) -> int | None:
        """The word the token belongs to, counted within its text; None for specials and padding."""
        return self.word_ids[token]

    def token_to_chars(self, token: int) -> CharSpan | None:
        """The characters the token stands for, in its text; None for specials and padding."""
        return None if self.sequence_ids[token] is None else CharSpan(*self.offsets[token])

    def char_to_token(self, character: int, sequence: int = 0) -> int | None:
        """The first token that stands for this character; None for white space and what was cut off."""
        for token, (start, end) in enumerate(self.offsets):
            if self.sequence_ids[token] == sequence and start <= character < end:
                return token
        return None

    def char_to_word(self, character: int, sequence: int = 0) -> int | None:
        """The word that holds this character."""
        token = self.char_to_token(character, sequence)
        return None if token is None else self.word_ids[token]

    def word_to_tokens(self, word: int, sequence: int = 0) -> TokenSpan | None:
        """The range of tokens of a word; None where the row does not hold it."""
        found = [
            token
            for token, number in enumerate(self.word_ids)
            if number == word and self.sequence_ids[token] == sequence
        ]
        return TokenSpan(found[0], found[-1] + 1) if found else None

    def word_to_chars(self, word: int, sequence: int = 0) -> CharSpan | None:
        """The range of characters of a word; None where the row does not hold it."""
        tokens = self.word_to_tokens(word, sequence)
        return None if tokens is None else CharSpan(self.offsets[tokens.start][0], self.offsets[tokens.end - 1][1])
