"""Text to ids, and on demand to tokens with their place in it. No specials are added, nothing is cut or padded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from albert_fast.tokenizer.added_tokens import AddedToken, TokenFinder
from albert_fast.tokenizer.normalization import Normalizer
from albert_fast.tokenizer.unigram import Sampler, Unigram

Text = str | Sequence[str]


@dataclass
class Details:
    """The tokens of one text and where they stand, as lists of one length.

    Attributes:
        ids: token ids.
        tokens: their texts; for ``<unk>`` the unknown characters themselves.
        offsets: (start, end) in characters of the text; of its own word when the text came split into words.
        words: the number of the word each belongs to.
    """

    ids: list[int] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    offsets: list[tuple[int, int]] = field(default_factory=list)
    words: list[int] = field(default_factory=list)

    def add(self, id: int, token: str, start: int, end: int, word: int) -> None:
        """One more token."""
        self.ids.append(id)
        self.tokens.append(token)
        self.offsets.append((start, end))
        self.words.append(word)


class TextEncoder:
    """Everything that turns text into ids; it does not change once made, so results may keep it for their details.

    Args:
        normalizer: brings text to the form of the vocabulary.
        unigram: cuts words into pieces.
        added: id of every token to find in the text.
        sampler: draws segmentations instead, if given.
    """

    def __init__(
        self,
        normalizer: Normalizer,
        unigram: Unigram,
        added: Mapping[AddedToken, int],
        sampler: Sampler | None = None,
    ) -> None:
        self.normalizer = normalizer
        self.unigram = unigram
        self.added = dict(added)
        self.sampler = sampler
        self._raw = TokenFinder(token for token in added if not token.normalized)
        self._unsplit = TokenFinder(token for token in added if not token.normalized and not token.special)
        normalized = [token for token in added if token.normalized]
        self._normal = TokenFinder(normalized, normalizer) if normalized else None

    def ids(self, text: str, *, split_special_tokens: bool = False) -> list[int]:
        """The ids of one text; ``split_special_tokens`` takes special tokens in it for ordinary text."""
        if self.sampler is not None:
            return self.details(text, split_special_tokens=split_special_tokens).ids
        finder = self._unsplit if split_special_tokens else self._raw
        if not finder.found_in(text):
            return self._stretch(text)
        out: list[int] = []
        for start, end, token in finder.split(text):
            out += self._stretch(text[start:end]) if token is None else [self.added[token]]
        return out

    def _stretch(self, text: str) -> list[int]:
        """The ids of a text without tokens that are looked for in the original."""
        normal, split, unigram = self.normalizer(text), self.normalizer.split, self.unigram
        if self._normal is None or not self._normal.found_in(normal):
            return unigram.ids(split(normal))
        out: list[int] = []
        for start, end, token in self._normal.split(normal):
            out += unigram.ids(split(normal[start:end])) if token is None else [self.added[token]]
        return out

    def details(self, text: Text, *, split_special_tokens: bool = False) -> Details:
        """The tokens of a text, or of a list of words, with offsets and word numbers."""
        out = Details()
        if isinstance(text, str):
            self._add(out, text, None, split_special_tokens)
        else:
            for number, word in enumerate(text):
                self._add(out, word, number, split_special_tokens)
        return out

    def _add(self, out: Details, text: str, number: int | None, split_special_tokens: bool) -> None:
        """Append the tokens of ``text``; all get word ``number``, or each word its own."""
        count = 0
        finder = self._unsplit if split_special_tokens else self._raw
        for start, end, token in finder.split(text):
            if token is not None:
                out.add(self.added[token], token.content, start, end, count if number is None else number)
                count += 1
                continue
            normal, spans = self.normalizer.aligned(text[start:end])
            parts = [(0, len(normal), None)] if self._normal is None else self._normal.split(normal)
            for first, last, found in parts:
                if found is not None:
                    place = (first, last) if spans is None else (spans[first][0], spans[last - 1][1])
                    word = count if number is None else number
                    out.add(self.added[found], found.content, start + place[0], start + place[1], word)
                    count += 1
                    continue
                count += self._add_words(out, normal[first:last], spans, start, first, count, number)

    def _add_words(
        self,
        out: Details,
        normal: str,
        spans: list[tuple[int, int]] | None,
        start: int,
        first: int,
        count: int,
        number: int | None,
    ) -> int:
        """Append the tokens of the words of a part of a normalized stretch; returns how many words there were.

        Args:
            normal: the part, which begins at ``first`` in the stretch.
            spans: the place of each character of the stretch in the original, counted from ``start``.
            count: words of the text before this part.
        """
        words = self.normalizer.split(normal)
        drawn = None if self.sampler is None else self.sampler.pieces(words)
        at = 0
        for index, word in enumerate(words):
            cut = self.unigram.cut(word) if drawn is None else self.unigram.cut_of(drawn[index])
            at = normal.index(word, at)
            out.ids += cut.ids
            out.tokens += cut.texts
            out.words += [count + index if number is None else number] * len(cut.ids)
            if spans is None:
                base = start + first + at
                out.offsets += [(base + begin, base + end) for begin, end in cut.spans]
            else:
                base = first + at
                places = [(spans[base + begin][0], spans[base + end - 1][1]) for begin, end in cut.spans]
                out.offsets += [(start + begin, start + end) for begin, end in places]
            at += len(word)
        return len(words)
