"""Rows are cut, continued and padded as in transformers; what makes no sense is refused in words."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from tokenizer_samples import Pair, pair, small_folder

ONE = "the quick (brown) fox of 2010, jumps over nine lazy dogs and runs away"
TWO = "words of the second text, which is shorter"
FIELDS = ("input_ids", "token_type_ids", "attention_mask")


@pytest.fixture(scope="module")
def small() -> Pair:
    return pair(small_folder())


def assert_same(small: Pair, *texts: Any, **options: Any) -> None:
    """The same result, or an error from both."""
    ours, theirs = small
    extra = {"return_special_tokens_mask": True, "return_offsets_mapping": True, "return_length": True}
    if options.pop("side", "right") == "left":
        theirs.truncation_side = "left"
        options_ours = {**options, "truncation_side": "left"}
    else:
        options_ours = options
    try:
        right = dict(theirs(*texts, **options, **extra))
    except BaseException as error:  # the tokenizers library panics, which is no Exception
        assert type(error).__name__ in ("Exception", "PanicException", "ValueError"), error
        with pytest.raises(ValueError, match=r"\w"):
            ours(*texts, **options_ours, **extra)
        return
    finally:
        theirs.truncation_side = "right"
    assert dict(ours(*texts, **options_ours, **extra)) == right


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("truncation", ["longest_first", "only_first", "only_second"])
def test_cut_pairs_are_those_of_transformers(truncation: str, side: str, small: Pair) -> None:
    for (one, two), length, stride in itertools.product(
        ((ONE, TWO), (TWO, ONE), (TWO, TWO), (ONE, "x"), ("x", ONE)), (3, 4, 5, 8, 13, 24, 35, 64), (0, 1, 3)
    ):
        if stride >= length - 3:
            continue
        options = {"truncation": truncation, "max_length": length, "stride": stride, "side": side}
        assert_same(small, one, two, **options)
        assert_same(small, one, two, return_overflowing_tokens=True, **options)


@pytest.mark.parametrize("side", ["right", "left"])
def test_cut_single_texts_are_those_of_transformers(side: str, small: Pair) -> None:
    for text, length, stride in itertools.product((ONE, TWO, "x", ""), (2, 3, 6, 9, 40), (0, 1, 2, 5)):
        if stride >= length - 2 and stride:
            continue
        options = {"truncation": True, "max_length": length, "stride": stride, "side": side}
        assert_same(small, text, **options)
        assert_same(small, text, return_overflowing_tokens=True, **options)


@pytest.mark.parametrize("specials", [True, False])
@pytest.mark.parametrize("padding_side", ["right", "left"])
@pytest.mark.parametrize("padding", [True, "longest", "max_length", False, "do_not_pad"])
def test_padded_batches_are_those_of_transformers(padding: Any, padding_side: str, specials: bool, small: Pair) -> None:
    texts, pairs = [ONE, TWO, "x"], [TWO, "y", ONE]
    common = {"padding": padding, "padding_side": padding_side, "add_special_tokens": specials}
    for truncation, length, multiple in itertools.product((None, False, True), (None, 16, 24), (None, 8)):
        options = {**common, "truncation": truncation, "max_length": length, "pad_to_multiple_of": multiple}
        assert_same(small, texts, **options)
        assert_same(small, texts, pairs, **options)
        assert_same(small, list(zip(texts, pairs, strict=True)), **options)
        assert_same(small, texts, return_overflowing_tokens=True, **options)


def test_without_max_length_the_length_of_the_model_counts(small: Pair) -> None:
    ours, _ = small
    assert ours.model_max_length == 64
    assert len(ours(ONE * 9, truncation=True)["input_ids"]) == 64
    assert len(ours("x", padding="max_length")["input_ids"]) == 64
    assert_same(small, [ONE * 9, "x"], truncation=True, padding="max_length")


def test_segments_are_returned_by_default(small: Pair) -> None:
    encoding = small[0](ONE, TWO)
    assert list(encoding) == ["input_ids", "token_type_ids", "attention_mask"]
    first = small[0].create_token_type_ids_from_sequences([1] * encoding.sequence_ids().count(0))
    assert encoding["token_type_ids"] == first + [1] * (len(encoding["input_ids"]) - len(first))


def test_an_empty_second_text_counts_as_none(small: Pair) -> None:
    ours, _ = small
    assert ours("a", "")["input_ids"] == ours("a")["input_ids"]
    assert ours(["a", "b"], ["", "c"])["input_ids"] == [ours("a")["input_ids"], ours("b", "c")["input_ids"]]


@pytest.mark.parametrize("kind", ["np", "pt"])
def test_tensors_hold_what_the_lists_hold(kind: str, small: Pair) -> None:
    ours, _ = small
    for texts, options in (((["a", ONE],), {"padding": True}), (("one text",), {}), ((ONE, TWO), {})):
        lists, tensors = ours(*texts, **options), ours(*texts, return_tensors=kind, **options)
        for name in FIELDS:
            value = tensors[name]
            assert isinstance(value, np.ndarray if kind == "np" else torch.Tensor)
            assert str(value.dtype).endswith("int64")
            rows = lists[name] if isinstance(lists[name][0], list) else [lists[name]]
            assert value.tolist() == rows


def test_overflow_as_tensors_has_a_row_for_each_part(small: Pair) -> None:
    options = {"truncation": True, "max_length": 12, "stride": 2, "padding": True, "return_overflowing_tokens": True}
    found = small[0]([ONE, TWO], return_tensors="pt", **options)
    assert found["input_ids"].shape == (len(found["overflow_to_sample_mapping"]), 12)
    assert found["overflow_to_sample_mapping"].unique().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ((None,), {}, r"text is a NoneType, expected str"),
        ((5,), {}, r"text is a int, expected str"),
        ((b"bytes",), {}, r"text is a bytes, expected str"),
        ((["a", None],), {}, r"text\[1\] is a NoneType"),
        ((["a", 3.5],), {}, r"text\[1\] is a float"),
        (([],), {}, r"empty list, expected at least one text"),
        ((["a", "b"], ["c"]), {}, r"text has 2 texts and text_pair 1 texts"),
        ((["a"], "c"), {}, r"text_pair str, expected as many"),
        (("a", ["c"]), {}, r"one text and text_pair a list"),
        (("a", 7), {}, r"text_pair is a int"),
        ((["a", ["b", "c", "d"]],), {}, r"is_split_into_words"),
        (("a",), {"is_split_into_words": True}, r"text is a str, expected a list of words"),
        (([["a", 1]],), {"is_split_into_words": True}, r"list of int, str, expected a list of words"),
        (("a",), {"truncation": "longest"}, r"truncation='longest', expected True, False or one of longest_first"),
        (("a",), {"padding": "maximum"}, r"padding='maximum', expected"),
        (("a",), {"padding_side": "top"}, r"padding_side='top'"),
        (("a",), {"truncation_side": "up", "stride": -1}, r"truncation_side='up'.*; stride=-1"),
        (("a",), {"max_length": -4}, r"max_length=-4, expected an int of at least 0"),
        (("a",), {"max_length": "8"}, r"max_length='8'"),
        (("a",), {"pad_to_multiple_of": 0, "padding": True}, r"pad_to_multiple_of=0"),
        (("a",), {"truncation": True, "max_length": 1}, r"max_length=1 has no room for the 2 special tokens"),
        (("a", "b"), {"truncation": True, "max_length": 2}, r"no room for the 3 special tokens"),
        (("a",), {"truncation": True, "max_length": 8, "stride": 6}, r"stride=6 must be less than the 6 tokens"),
        ((ONE,), {"truncation": "only_second", "max_length": 8}, r"needs a second text"),
        ((ONE, "x"), {"truncation": "only_second", "max_length": 8}, r"the second text has 2 tokens and"),
        (("a",), {"truncation": True, "padding": True, "max_length": 9, "pad_to_multiple_of": 8}, r"not a multiple"),
        ((["a", ONE],), {"return_tensors": "pt"}, r"input_ids holds rows of \d+ to \d+ tokens.*padding=True"),
        ((["a", ONE],), {"return_tensors": "np"}, r"input_ids holds rows"),
        (("a",), {"return_tensors": "jax"}, r"return_tensors='jax', expected 'pt' .*'tf'"),
    ],
)
def test_what_makes_no_sense_is_refused_in_words(
    texts: tuple[Any, ...], options: dict[str, Any], message: str, small: Pair
) -> None:
    with pytest.raises(ValueError, match=message):
        small[0](*texts, **options)


def test_padding_examples_is_that_of_transformers(small: Pair) -> None:
    ours, theirs = small
    examples = [dict(ours(text, return_special_tokens_mask=True)) for text in (ONE, "x", TWO)]
    columns = {name: [example[name] for example in examples] for name in examples[0]}
    for side, multiple, given in itertools.product(("right", "left"), (None, 8), (examples, columns)):
        options = {"padding": True, "padding_side": side, "pad_to_multiple_of": multiple}
        found, right = ours.pad(given, **options), theirs.pad(given, **options)
        assert dict(found) == dict(right)
    assert ours.pad(examples, return_tensors="pt")["input_ids"].shape[0] == 3
    assert ours.pad({"input_ids": [2, 3]}, padding="max_length", max_length=4)["attention_mask"] == [1, 1, 0, 0]
    assert ours.pad([{"input_ids": np.array([2, 3])}, {"input_ids": [2]}])["input_ids"] == [[2, 3], [2, 0]]


@pytest.mark.parametrize("given", [[], [1, 2], {}, {"attention_mask": [[1]]}, [{"input_ids": [1]}, {"other": [1]}]])
def test_what_cannot_be_padded_is_refused(given: Any, small: Pair) -> None:
    with pytest.raises(ValueError, match=r"pad needs"):
        small[0].pad(given)
