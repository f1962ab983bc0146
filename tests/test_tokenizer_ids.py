"""Text becomes the ids that transformers gives with the same vocabulary, whatever the text."""

from __future__ import annotations

import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from tokenizer_samples import LAYOUTS, NASTY, TEXTS, Pair, pair, peer, small_folder, true_folder

from albert_fast.tokenizer import AlbertTokenizer
from albert_fast.tokenizer.proto import NORMAL, UNKNOWN, SentencePieceModel
from albert_fast.tokenizer.unigram import Unigram, vocabulary_of


@pytest.fixture(scope="module")
def small() -> Pair:
    return pair(small_folder())


@pytest.fixture(scope="module")
def true(vocab_dir: Path) -> Pair:
    return pair(true_folder(vocab_dir))


def assert_same_ids(pair: Pair, texts: list[str]) -> None:
    ours, theirs = pair
    expected = theirs(texts)["input_ids"]
    for text, found, right in zip(texts, ours(texts)["input_ids"], expected, strict=True):
        assert found == right, repr(text)


@pytest.mark.parametrize("name", ["small", "true"])
def test_ids_of_every_kind_of_text_are_those_of_transformers(name: str, request: pytest.FixtureRequest) -> None:
    assert_same_ids(request.getfixturevalue(name), list(TEXTS))


@given(text=NASTY)
@settings(max_examples=150, deadline=None)
def test_ids_of_random_text_are_those_of_transformers_with_the_small_vocabulary(small: Pair, text: str) -> None:
    assert_same_ids(small, [text])


@given(text=NASTY)
@settings(max_examples=150, deadline=None)
def test_ids_of_random_text_are_those_of_transformers_with_the_true_vocabulary(true: Pair, text: str) -> None:
    assert_same_ids(true, [text])


def test_every_character_of_unicode_3_is_normalized_as_in_transformers(true: Pair) -> None:
    ours, theirs = true
    normalizer = theirs.backend_tokenizer.normalizer
    # The tokenizers library has tables of another Unicode version than Python: a few hundred newer characters differ.
    characters = [chr(c) for c in range(1, 0x30000) if unicodedata.ucd_3_2_0.category(chr(c)) not in ("Cn", "Cs", "Co")]
    unlike = [c for c in characters if normalizer.normalize_str(c) != ours._encoder.normalizer(c)]
    assert len(characters) > 90_000
    assert unlike == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_ids_of_the_hub_folder_in_transformers(layout: str, vocab_dir: Path, true: Pair) -> None:
    # A checkout may hold the texts of symbolic links in place of some spiece.model: those are followed.
    ours = AlbertTokenizer.from_pretrained(vocab_dir / layout)
    assert_same_ids((ours, true[1]), list(TEXTS))


def test_known_sentences_have_their_known_ids(true: Pair) -> None:
    ours, _ = true
    assert ours.encode("This is a test", add_special_tokens=False) == [48, 25, 21, 1289]
    assert ours.tokenize("9,9") == ["▁9", ",", "9"]
    assert ours.tokenize("2010,") == ["▁2010", ","]
    assert ours.tokenize("31,4") == ["▁3", "1,4"]
    assert ours.tokenize("(world)") == ["▁", "(", "world", ")"]
    assert ours("")["input_ids"] == ours(" \t\n")["input_ids"] == [2, 3]


@pytest.mark.parametrize("settings", [{"keep_accents": True}, {"do_lower_case": False}])
def test_accents_and_case_stay_when_asked(settings: dict[str, bool], small: Pair) -> None:
    ours = AlbertTokenizer.from_pretrained(small_folder(), **settings)
    assert_same_ids((ours, peer(small_folder(), **settings)), list(TEXTS))
    assert ours("Café")["input_ids"] != small[0]("Café")["input_ids"]


def test_equal_sums_are_decided_as_in_transformers(true: Pair) -> None:
    words = [a * n + b for a in ("u", "n", "ab", "6", "abb") for n in range(2, 12) for b in ("", "a", "ou")]
    assert_same_ids(true, words)


def test_real_words_are_cut_as_by_sentencepiece(small: Pair) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    ours, _ = small
    vocabulary = ours.vocabulary
    assert vocabulary.serialized is not None
    processor = sentencepiece.SentencePieceProcessor(model_proto=vocabulary.serialized)
    words = [w for w in " ".join(TEXTS[:2]).lower().split() if w.isalpha()]
    assert [ours.encode(w, add_special_tokens=False) for w in words] == [processor.encode(w) for w in words]


@pytest.mark.parametrize(("space", "pair", "expected"), [(-12.0, -13.0, ["▁a", "b"]), (-10.0, -12.0, ["▁", "ab"])])
def test_an_unknown_character_costs_ten_more_than_the_worst_piece(
    space: float, pair: float, expected: list[str]
) -> None:
    scores = {"<unk>": 0.0, "▁": space, "▁a": -1.0, "ab": pair}
    model = SentencePieceModel(tuple(scores), tuple(scores.values()), (UNKNOWN, NORMAL, NORMAL, NORMAL))
    assert Unigram(vocabulary_of(model, unk_id=0, serialized=None)).segment("ab") == expected


def test_lone_surrogates_are_unknown(small: Pair) -> None:
    ours, _ = small
    assert ours.unk_token_id in ours("a \ud800\udfff b")["input_ids"]
    assert ours.convert_ids_to_tokens(ours("\udc80")["input_ids"]) == ["[CLS]", "▁", "<unk>", "[SEP]"]
    assert ours("x \ud800", return_offsets_mapping=True)["offset_mapping"][-2:] == [(2, 3), (0, 0)]


@pytest.mark.parametrize("text", ["word and [MASK] é ", "abcde"])
def test_a_million_characters_take_linear_time(text: str, small: Pair) -> None:
    ours, _ = small

    def seconds(characters: int) -> float:
        long = (text * (characters // len(text) + 1))[:characters]
        start = time.process_time()
        ours(long, verbose=False)
        return time.process_time() - start

    short = max(seconds(50_000), 1e-3)
    assert seconds(1_000_000) < 20 * 3 * short + 0.5


def test_remembered_words_stay_bounded(small: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("albert_fast.tokenizer.unigram._CACHED_WORDS", 100)
    unigram = Unigram(small[0].vocabulary)
    for start in range(0, 1_000, 50):
        unigram.ids([str(number) for number in range(start, start + 50)] + ["x" * 500])
        assert 0 < len(unigram) <= 100
    assert max(map(len, unigram)) <= 64
