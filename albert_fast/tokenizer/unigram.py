"""One word into pieces: the segmentation with the best sum of scores.

Sums are float64, added left to right, and the earlier found of two equal sums stays, as in the ``tokenizers`` library.
The ``sentencepiece`` library adds in float32, where rounding decides between equal sums (``▁on uu u`` or ``▁on u uu``);
it is used here to draw samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

from albert_fast.tokenizer.proto import NORMAL, USER_DEFINED, SentencePieceModel, serialize

SPACE: Final = "\u2581"
UNKNOWN_PENALTY: Final = 10.0
DIGIT_COMMA_PENALTY: Final = 100.0
_CACHED_WORDS: Final = 65_536
_CACHED_LENGTH: Final = 64
_SURROGATES = dict.fromkeys(range(0xD800, 0xE000), "\uffff")


def ends_in_digit_and_comma(piece: str) -> bool:
    """Whether Google's rule for numbers forbids this piece: its last two characters are a digit and a comma."""
    return len(piece) > 1 and piece[-1] == "," and piece[-2].isdigit()


@dataclass(frozen=True)
class Vocabulary:
    """The pieces of a unigram model with the scores that segmentation uses.

    Attributes:
        pieces: text of each piece; the index is the id.
        scores: float64 scores in which pieces that end in a digit and a comma stand 100 lower.
        unk_id: the id of the unknown piece.
        model: the SentencePiece model, with scores as trained, for sampling and saving.
        serialized: the bytes of the ``.model`` file it was read from, or None.
    """

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    unk_id: int
    model: SentencePieceModel
    serialized: bytes | None = None
    ids: dict[str, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", {piece: index for index, piece in enumerate(self.pieces)})


class Unigram(dict[str, tuple[int, ...]]):
    """Segments words; as a dict, maps a word (without ``▁``) to its ids and remembers a bounded number of them."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self._trie: dict[str, Any] = {}
        self._unknown_score = min(vocabulary.scores) - UNKNOWN_PENALTY

    def __reduce__(self) -> tuple[object, ...]:
        return Unigram, (self.vocabulary,)

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids = tuple(self.id(surface) for surface in self.segment(word))
        if len(word) <= _CACHED_LENGTH:
            if len(self) >= _CACHED_WORDS:
                self.clear()
            self[word] = ids
        return ids

    def ids(self, words: list[str]) -> list[int]:
        """The ids of all pieces of all words, in a row."""
        return list(chain.from_iterable(map(self.__getitem__, words)))

    def pieces(self, word: str) -> list[tuple[int, str]]:
        """(id, text) of each piece of ``▁word``; a run of unknown characters is one piece with the id of ``<unk>``."""
        return [(self.id(surface), surface) for surface in self.segment(word)]

    def id(self, surface: str) -> int:
        """The id of a piece, that of ``<unk>`` for a text that is none."""
        return self.vocabulary.ids.get(surface, self.vocabulary.unk_id)

    def _build_trie(self) -> None:
        """Nested dicts by character; the key ``""`` holds the score of the piece that ends there."""
        trie: dict[str, Any] = {}
        for piece, score in zip(self.vocabulary.pieces, self.vocabulary.scores, strict=True):
            node = trie
            for character in piece:
                node = node.setdefault(character, {})
            node[""] = score
        self._trie = trie

    def segment(self, word: str) -> list[str]:
        """The texts of the pieces of ``▁word``; joined they give it back. Time grows with the length of the word.

        Source: Kudo 2018 (arXiv:1804.10959), section 3.1, decoded with the Viterbi algorithm.
        """
        if not self._trie:
            self._build_trie()
        trie, unknown = self._trie, self._unknown_score
        text = SPACE + word
        size = len(text)
        best: list[float | None] = [None] * (size + 1)
        came_from = [0] * (size + 1)
        best[0] = 0.0
        for start in range(size):
            here = best[start]
            assert here is not None
            node = trie
            end, alone = start, False
            while end < size and text[end] in node:
                node = node[text[end]]
                end += 1
                score = node.get("")
                if score is not None:
                    alone = alone or end == start + 1
                    total = score + here
                    before = best[end]
                    if before is None or total > before:
                        best[end], came_from[end] = total, start
            if not alone:
                before = best[start + 1]
                if before is None or here + unknown > before:
                    best[start + 1], came_from[start + 1] = here + unknown, ~start
        return self._walk_back(text, came_from)

    def _walk_back(self, text: str, came_from: list[int]) -> list[str]:
        """Pieces from the back pointers (``~start`` marks an unknown character); runs of unknown become one."""
        unk = self.vocabulary.pieces[self.vocabulary.unk_id]
        pieces: list[str] = []
        end, unknown_end = len(text), 0
        while end:
            start = came_from[end]
            known = start >= 0
            start = start if known else ~start
            if known and text[start:end] != unk:
                if unknown_end:
                    pieces.append(text[end:unknown_end])
                    unknown_end = 0
                pieces.append(text[start:end])
            elif not unknown_end:
                unknown_end = end
            end = start
        if unknown_end:
            pieces.append(text[:unknown_end])
        pieces.reverse()
        return pieces


class Sampler:
    """Draws segmentations instead of taking the best one (subword regularization), with the sentencepiece library.

    Args:
        vocabulary: the pieces.
        options: ``enable_sampling``, ``nbest_size`` and ``alpha`` of ``SentencePieceProcessor``.
    """

    def __init__(self, vocabulary: Vocabulary, options: dict[str, Any]) -> None:
        import sentencepiece

        self._processor = sentencepiece.SentencePieceProcessor(
            model_proto=serialize(vocabulary.model, identity=True), **options
        )

    def pieces(self, words: list[str]) -> list[list[str]]:
        """One drawn segmentation of each word, with the rule for digits and commas applied to it."""
        if not words:
            return []
        text = " ".join(words).translate(_SURROGATES)
        out: list[list[str]] = []
        for piece in self._processor.encode(text, out_type=str):
            if piece.startswith(SPACE):
                out.append([])
            out[-1] += self._split_comma(piece) if ends_in_digit_and_comma(piece) else [piece]
        return out

    def _split_comma(self, piece: str) -> list[str]:
        """``▁2010,`` as ``▁2010`` and ``,``: the number is segmented again on its own, as Google's code does."""
        number = self._processor.encode(piece[:-1].replace(SPACE, ""), out_type=str)
        if not piece.startswith(SPACE) and number[0].startswith(SPACE):
            number = [number[0][1:], *number[1:]] if len(number[0]) > 1 else number[1:]
        return [*number, ","]


def vocabulary_of(model: SentencePieceModel, *, unk_id: int, serialized: bytes | None) -> Vocabulary:
    """The vocabulary of a SentencePiece model, with Google's rule for digits and commas put into its scores."""
    scores = [
        score - DIGIT_COMMA_PENALTY if kind in (NORMAL, USER_DEFINED) and ends_in_digit_and_comma(piece) else score
        for piece, score, kind in zip(model.pieces, model.scores, model.kinds, strict=True)
    ]
    return Vocabulary(model.pieces, tuple(scores), unk_id, model, serialized)
