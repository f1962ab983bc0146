"""The rows of a call: texts checked, encoded, cut, put between special tokens and padded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from albert_fast.tokenizer.encoder import Text, TextEncoder
from albert_fast.tokenizer.encoding import Encoding, Layout, Row, Source
from albert_fast.tokenizer.options import EncodeOptions
from albert_fast.tokenizer.padding import pad_rows, padded_length
from albert_fast.tokenizer.truncation import room_for_text, windows

Sample = tuple[Text, Text | None]


def samples_of(text: Any, text_pair: Any, is_split_into_words: bool) -> tuple[list[Sample], bool]:
    """The texts of a call as (first, second or None), and whether the call gave a list of them.

    Raises:
        ValueError: what is no text, an empty list, or two lists of different lengths.
    """
    if is_split_into_words:
        batched = isinstance(text, (list, tuple)) and bool(text) and isinstance(text[0], (list, tuple))
    else:
        batched = isinstance(text, (list, tuple))
    if not batched:
        if not is_split_into_words and isinstance(text_pair, (list, tuple)):
            raise ValueError("text is one text and text_pair a list; give two texts or two lists of one length")
        return [_sample(text, text_pair, is_split_into_words, "text")], False
    if not text:
        raise ValueError("text is an empty list, expected at least one text")
    if text_pair is None:
        samples = []
        for index, item in enumerate(text):
            pair = not is_split_into_words or (bool(item) and isinstance(item[0], (list, tuple)))
            first, second = item if pair and isinstance(item, (list, tuple)) and len(item) == 2 else (item, None)
            samples.append(_sample(first, second, is_split_into_words, f"text[{index}]"))
        return samples, True
    if not isinstance(text_pair, (list, tuple)) or len(text_pair) != len(text):
        found = f"{len(text_pair)} texts" if isinstance(text_pair, (list, tuple)) else type(text_pair).__name__
        raise ValueError(f"text has {len(text)} texts and text_pair {found}, expected as many")
    pairs = enumerate(zip(text, text_pair, strict=True))
    return [_sample(a, b, is_split_into_words, f"text[{i}]") for i, (a, b) in pairs], True


def _sample(first: Any, second: Any, is_split_into_words: bool, name: str) -> Sample:
    for which, value in ((name, first), (name.replace("text", "text_pair"), second)):
        if value is None and which != name:
            continue
        if not is_split_into_words and isinstance(value, str):
            continue
        if not is_split_into_words:
            raise ValueError(
                f"{which} is a {type(value).__name__}, expected str; a list of words needs is_split_into_words"
            )
        if not isinstance(value, (list, tuple)) or not all(isinstance(word, str) for word in value):
            found = type(value).__name__
            if isinstance(value, (list, tuple)):
                found += " of " + ", ".join(sorted({type(word).__name__ for word in value}))
            raise ValueError(f"{which} is a {found}, expected a list of words (str), as is_split_into_words says")
    return first, second or None


@dataclass(frozen=True)
class Rows:
    """The rows of a call, with everything needed to name their fields."""

    rows: list[Row]
    layout: Layout
    options: EncodeOptions

    def without_overflow(self) -> Rows:
        """Only the first row of each text."""
        samples = [row.sample for row in self.rows]
        if len(samples) == samples[-1] + 1:
            return self
        return replace(self, rows=[row for i, row in enumerate(self.rows) if i == 0 or samples[i - 1] != row.sample])

    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(len(row.ids) for row in self.rows)

    def _length(self) -> int | None:
        """The length of padded rows, None where rows are not padded."""
        options = self.options
        if options.padding == "do_not_pad":
            return None
        return padded_length(
            [len(row.ids) for row in self.rows],
            padding=options.padding,
            max_length=options.max_length,
            multiple=options.pad_to_multiple_of,
        )

    def encodings(self) -> list[Encoding]:
        """Every row with its tokens' places."""
        length = self._length() or 0
        return [Encoding(row, self.layout, max(length, len(row.ids))) for row in self.rows]

    def fields(
        self,
        *,
        token_type_ids: bool,
        attention_mask: bool,
        special_tokens_mask: bool,
        offset_mapping: bool,
        length: bool,
        overflow_to_sample_mapping: bool,
    ) -> dict[str, list[Any]]:
        """The named lists of a result, those asked for."""
        out: dict[str, list[Any]] = {"input_ids": self._padded([row.ids for row in self.rows], self.layout.pad[0])}
        if token_type_ids:
            out["token_type_ids"] = self._padded([self._types(row) for row in self.rows], 0)
        if attention_mask:
            out["attention_mask"] = self._padded([[1] * len(row.ids) for row in self.rows], 0)
        if special_tokens_mask:
            out["special_tokens_mask"] = self._padded([self._specials(row) for row in self.rows], 1)
        if offset_mapping:
            out["offset_mapping"] = self._padded([self._offsets(row) for row in self.rows], (0, 0))
        if length:
            out["length"] = [len(ids) for ids in out["input_ids"]]
        if overflow_to_sample_mapping:
            out["overflow_to_sample_mapping"] = [row.sample for row in self.rows]
        return out

    def _padded(self, rows: list[list[Any]], filler: Any) -> list[list[Any]]:
        length = self._length()
        return rows if length is None else pad_rows(rows, length, filler, left=self.layout.pad_left)

    def _types(self, row: Row) -> list[int]:
        if len(row.parts) == 1:
            return [0] * len(row.ids)
        _, (start, end) = row.parts[1]
        second = end - start + self.layout.add_special_tokens
        return [0] * (len(row.ids) - second) + [1] * second

    def _offsets(self, row: Row) -> list[tuple[int, int]]:
        around = [(0, 0)] if self.layout.add_special_tokens else []
        out = list(around)
        for source, (start, end) in row.parts:
            out += source.details.offsets[start:end]
            out += around
        return out

    def _specials(self, row: Row) -> list[int]:
        if not self.layout.add_special_tokens:
            return [0] * len(row.ids)
        out = [1]
        for _, (start, end) in row.parts:
            out += [0] * (end - start) + [1]
        return out


def assemble(samples: list[Sample], encoder: TextEncoder, layout: Layout, options: EncodeOptions) -> Rows:
    """Encode, cut and frame every sample; the rows of one sample follow each other."""
    rows: list[Row] = []
    split = options.split_special_tokens
    cls, sep = ([layout.cls[0]], [layout.sep[0]]) if layout.add_special_tokens else ([], [])
    uncut = options.truncation == "do_not_truncate" or options.max_length is None
    room = 0 if uncut or all(pair is not None for _, pair in samples) else room_for_text(False, options)
    for number, (text, pair) in enumerate(samples):
        first = Source(text, encoder, split)
        if pair is None and (uncut or len(first.ids) <= room):
            rows.append(Row([(first, (0, len(first.ids)))], cls + first.ids + sep, number))
            continue
        second = None if pair is None else Source(pair, encoder, split)
        for one, other in windows(len(first.ids), None if second is None else len(second.ids), options):
            parts = [(first, one)] if second is None or other is None else [(first, one), (second, other)]
            ids = list(cls)
            for source, (start, end) in parts:
                ids += source.ids[start:end]
                ids += sep
            rows.append(Row(parts, ids, number))
    return Rows(rows, layout, options)
