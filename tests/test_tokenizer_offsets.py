"""Every token knows its characters, its word and its text, as in transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from tokenizer_samples import NASTY, TEXTS, Pair, pair, peer, small_folder, true_folder

from albert_fast.tokenizer import AlbertTokenizer, CharSpan, TokenSpan

FIELDS = ("ids", "type_ids", "tokens", "offsets", "word_ids", "sequence_ids", "special_tokens_mask", "attention_mask")
# The tokenizers library forgets characters that are deleted at the beginning of a stretch of text, and all later
# offsets of that stretch are too small by as many; ours count them.
DELETED = {chr(c) for c in range(0x20)} - set("\t\n\r\x00") | set("\x7f\x85\xad") | {chr(c) for c in range(0x80, 0xA0)}
DELETED |= {"\u0301", "\u0345", "\u0323"}


@pytest.fixture(scope="module")
def small() -> Pair:
    return pair(small_folder())


@pytest.fixture(scope="module")
def true(vocab_dir: Path) -> Pair:
    return pair(true_folder(vocab_dir))


def assert_same_details(found: Any, expected: Any) -> None:
    for ours, theirs in zip(found.encodings, expected.encodings, strict=True):
        for name in FIELDS:
            assert getattr(ours, name) == getattr(theirs, name), name


@pytest.mark.parametrize("text", [text for text in TEXTS if not DELETED & set(text)])
@pytest.mark.parametrize("name", ["small", "true"])
def test_details_of_every_kind_of_text_are_those_of_transformers(
    name: str, text: str, request: pytest.FixtureRequest
) -> None:
    ours, theirs = request.getfixturevalue(name)
    assert_same_details(ours(text), theirs(text))
    assert_same_details(
        ours("a pair", text, padding="max_length", max_length=400),
        theirs("a pair", text, padding="max_length", max_length=400),
    )


@given(text=NASTY)
@settings(max_examples=150, deadline=None)
def test_details_of_random_text_are_those_of_transformers(small: Pair, text: str) -> None:
    assume(not DELETED & set(text))
    ours, theirs = small
    assert_same_details(ours(text), theirs(text))


@given(text=NASTY)
@settings(max_examples=100, deadline=None)
def test_details_hold_the_same_ids_as_the_fast_way(small: Pair, text: str) -> None:
    ours = small[0]
    encoding = ours(text)
    assert encoding.encodings[0].ids == encoding["input_ids"]
    for (start, end), word in zip(encoding.encodings[0].offsets, encoding.word_ids(), strict=True):
        assert 0 <= start <= end <= len(text)
        assert (start < end) == (word is not None)


@pytest.mark.parametrize(
    ("text", "offsets"),
    [
        ("\x01hi \x02x", [(1, 3), (5, 6)]),
        ("cafe\u0301 a", [(0, 4), (6, 7)]),
        ("''a", [(1, 2), (1, 2), (2, 3)]),
    ],
)
def test_offsets_count_the_characters_of_the_original(text: str, offsets: list[tuple[int, int]], true: Pair) -> None:
    found = true[0](text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert found == offsets


def test_pieces_of_one_expanded_character_share_its_span(true: Pair) -> None:
    encoding = true[0]("½", return_offsets_mapping=True)
    assert encoding.tokens()[1:-1] == ["▁1", "⁄", "2"]
    assert encoding["offset_mapping"][1:-1] == [(0, 1)] * 3


@pytest.mark.parametrize("words", [["hello", "[MASK] wor-ld", "", "b"], ["2010,", "漢字", "e\u0301"], []])
def test_split_words_keep_their_numbers(words: list[str], small: Pair) -> None:
    ours, theirs = small
    if words:
        assert_same_details(ours(words, is_split_into_words=True), theirs(words, is_split_into_words=True))
        batch = [words, ["one"]]
        assert_same_details(ours(batch, is_split_into_words=True), theirs(batch, is_split_into_words=True))
        both = ours(words, ["second", "part"], is_split_into_words=True)
        assert_same_details(both, theirs(words, ["second", "part"], is_split_into_words=True))
    else:
        assert ours(words, is_split_into_words=True)["input_ids"] == [2, 3]


def test_the_way_between_characters_words_and_tokens_is_that_of_transformers(small: Pair) -> None:
    first, second = "The (quick) brown fox  jumps.", "Over [MASK] lazy dogs"
    found, right = (t([first, first], [second, "no"], padding=True) for t in small)
    for row in range(2):
        assert found.word_ids(row) == right.word_ids(row)
        assert found.sequence_ids(row) == right.sequence_ids(row)
        assert found.tokens(row) == right.tokens(row)
        for token in range(len(found["input_ids"][row])):
            assert found.token_to_sequence(row, token) == right.token_to_sequence(row, token)
            assert found.token_to_word(row, token) == right.token_to_word(row, token)
            assert found.token_to_chars(row, token) == right.token_to_chars(row, token)
        for sequence, text in enumerate((first, second if row == 0 else "no")):
            for character in range(len(text)):
                assert found.char_to_token(row, character, sequence) == right.char_to_token(row, character, sequence)
                if not text[character].isspace():
                    right_word = right.char_to_word(row, character, sequence)
                    assert found.char_to_word(row, character, sequence) == right_word
            for word in range(4 if row == 0 else 1):
                assert found.word_to_tokens(row, word, sequence) == right.word_to_tokens(row, word, sequence)
                assert found.word_to_chars(row, word, sequence) == right.word_to_chars(row, word, sequence)


def test_positions_without_a_row_are_those_of_row_0(small: Pair) -> None:
    encoding = small[0]("one two")
    second = encoding.word_ids().index(1)
    assert encoding.char_to_token(4) == encoding.char_to_token(0, 4) == second
    assert encoding.token_to_word(second) == 1
    assert encoding.token_to_chars(0) is None
    assert isinstance(encoding.word_to_tokens(1), TokenSpan)
    assert encoding.word_to_chars(1) == CharSpan(4, 7)
    assert encoding.char_to_token(3) is None
    assert encoding.word_to_tokens(7) is None


def test_a_mask_that_takes_space_in_has_the_offsets_of_transformers(small: Pair, tmp_path: Path) -> None:
    ours = AlbertTokenizer.from_pretrained(
        small_folder(), mask_token={"content": "[MASK]", "lstrip": True, "special": True}
    )
    ours.save_pretrained(tmp_path)
    theirs = peer(tmp_path)
    text = "a  [MASK] b [MASK][MASK]"
    again = AlbertTokenizer.from_pretrained(tmp_path)
    expected = theirs(text, return_offsets_mapping=True)
    for tokenizer in (ours, again):
        assert tokenizer(text)["input_ids"] == expected["input_ids"] == small[0](text)["input_ids"]
        assert tokenizer(text, return_offsets_mapping=True)["offset_mapping"] == expected["offset_mapping"]


def test_details_survive_tokens_that_are_added_later(small: Pair) -> None:
    ours = AlbertTokenizer.from_pretrained(small_folder())
    encoding = ours("one two three")
    ours.add_tokens(["two"])
    assert encoding.encodings[0].ids == encoding["input_ids"] != ours("one two three")["input_ids"]


def test_values_that_were_not_made_from_text_have_no_places(small: Pair) -> None:
    padded = small[0].pad({"input_ids": [[2, 3], [2, 20, 3]]})
    assert padded.encodings is None
    assert not padded.is_fast
    with pytest.raises(ValueError, match="not made from text"):
        padded.word_ids()
