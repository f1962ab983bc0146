"""One word into pieces: the segmentation with the best sum of scores.

Sums are float64, added left to right, and the earlier found of two equal sums stays, as in the ``tokenizers`` library.
The ``sentencepiece`` library adds in float32, where rounding decides between equal sums (``▁on uu u`` or ``▁on u uu``);
it is used here to draw samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate, chain
from typing import Any, Final, NamedTuple

from albert_fast.tokenizer.automaton import Automaton
from albert_fast.tokenizer.proto import NORMAL, USER_DEFINED, SentencePieceModel, serialize

SPACE: Final = "\u2581"
UNKNOWN_PENALTY: Final = 10.0
DIGIT_COMMA_PENALTY: Final = 100.0
_IMPOSSIBLE: Final = float("-inf")
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


class Cut(NamedTuple):
    """The pieces of a word: their ids, their texts, and for each (first, last): it stands for ``word[first:last]``.

    A lone ``▁`` stands for the first character.
    """

    ids: tuple[int, ...]
    texts: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]


class Unigram(dict[str, tuple[int, ...]]):
    """Segments words; as a dict, maps a word (without ``▁``) to its ids and remembers a bounded number of them."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self._cut: dict[str, Cut] = {}
        self._automaton: Automaton | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return Unigram, (self.vocabulary,)

    def __missing__(self, word: str) -> tuple[int, ...]:
        text = SPACE + word
        lengths, known, unk_id = self._best_lengths(text), self.vocabulary.ids.get, self.vocabulary.unk_id
        ids: list[int] = []
        end, unknown = len(text), False
        while end:  # as in _walk_back, but without the texts
            start = end - lengths[end]
            id = known(text[start:end], unk_id)
            if id != unk_id or not unknown:
                ids.append(id)
            unknown = id == unk_id
            end = start
        found = tuple(reversed(ids))
        _remember(self, word, found)
        return found

    def forget(self) -> None:
        """Forget every word met so far."""
        self.clear()
        self._cut.clear()

    def ids(self, words: list[str]) -> list[int]:
        """The ids of all pieces of all words, in a row."""
        return list(chain.from_iterable(map(self.__getitem__, words)))

    def cut(self, word: str) -> Cut:
        """The pieces of ``▁word``; a run of unknown characters is one piece with the id of ``<unk>``."""
        cut = self._cut.get(word)
        if cut is None:
            cut = self.cut_of(self.segment(word))
            _remember(self._cut, word, cut)
        return cut

    def cut_of(self, texts: list[str]) -> Cut:
        """The cut that has these texts, which joined are ``▁`` and a word."""
        known, unk_id = self.vocabulary.ids.get, self.vocabulary.unk_id
        ends = list(accumulate(map(len, texts)))
        spans = [(max(end - len(text) - 1, 0), max(end - 1, 1)) for text, end in zip(texts, ends, strict=True)]
        return Cut(tuple([known(text, unk_id) for text in texts]), tuple(texts), tuple(spans))

    def segment(self, word: str) -> list[str]:
        """The texts of the pieces of ``▁word``; joined they give it back. Time grows with the length of the word.

        Source: Kudo 2018 (arXiv:1804.10959), section 3.1, decoded with the Viterbi algorithm.
        """
        text = SPACE + word
        return self._walk_back(text, self._best_lengths(text))

    def _best_lengths(self, text: str) -> list[int]:
        """For each place in ``text`` the length of the piece that ends there in the best segmentation up to it.

        The inner loop is most of what a new word costs, hence the bound methods.
        """
        if self._automaton is None:
            scores = dict(zip(self.vocabulary.pieces, self.vocabulary.scores, strict=True))
            self._automaton = Automaton(scores, min(scores.values()) - UNKNOWN_PENALTY)
        state = self._automaton.start
        best, lengths = [0.0], [0]
        add_best, add_length = best.append, lengths.append
        chosen = 0
        for character in text:
            state = state[character]
            top = _IMPOSSIBLE
            for length, score in state.matches:
                total = best[-length] + score
                if total > top:
                    top = total
                    chosen = length
            add_best(top)
            add_length(chosen)
        return lengths

    def _walk_back(self, text: str, lengths: list[int]) -> list[str]:
        """The pieces, from the length of the best one that ends at each place; runs of unknown become one."""
        ids, unk_id = self.vocabulary.ids, self.vocabulary.unk_id
        pieces: list[str] = []
        end, unknown_end = len(text), 0
        while end:
            start = end - lengths[end]
            piece = text[start:end]
            if ids.get(piece, unk_id) == unk_id:
                unknown_end = unknown_end or end
            else:
                if unknown_end:
                    pieces.append(text[end:unknown_end])
                    unknown_end = 0
                pieces.append(piece)
            end = start
        if unknown_end:
            pieces.append(text[:unknown_end])
        pieces.reverse()
        return pieces


def _remember(memory: dict[str, Any], word: str, value: Any) -> None:
    """Keep what was found for a word of ordinary length; a full memory starts anew."""
    if len(word) <= _CACHED_LENGTH:
        if len(memory) >= _CACHED_WORDS:
            memory.clear()
        memory[word] = value


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
