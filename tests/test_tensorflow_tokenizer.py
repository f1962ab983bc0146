"""``return_tensors="tf"``: what TensorFlow users write in front of a TF class."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from tensorflow_samples import tf

import albert_fast
from albert_fast import AlbertTokenizer

NAME = "albert-fast/wordnet"
CALLS = [
    ((["a bird of prey", "with speed"],), {"padding": True}),
    (("a bird of prey",), {}),
    (("a bird", "of prey"), {}),
    ((["a", "a long text that is cut and goes on"],), {
        "padding": True, "truncation": True, "max_length": 6, "return_overflowing_tokens": True,
    }),
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer() -> AlbertTokenizer:
    return AlbertTokenizer.from_pretrained(NAME)


@pytest.mark.parametrize(("texts", "options"), CALLS)
def test_tensors_are_int32_and_hold_what_arrays_hold(
    tokenizer: AlbertTokenizer, texts: tuple[Any, ...], options: dict[str, Any]
) -> None:
    found, arrays = tokenizer(*texts, return_tensors="tf", **options), tokenizer(*texts, return_tensors="np", **options)
    assert list(found) == list(arrays)
    for name, tensor in found.items():
        assert tf.is_tensor(tensor) and tensor.dtype == tf.int32
        np.testing.assert_array_equal(tensor.numpy(), arrays[name])


def test_a_tf_class_takes_what_the_tokenizer_returns(tokenizer: AlbertTokenizer) -> None:
    model = albert_fast.TFAlbertForSequenceClassification.from_pretrained(NAME)
    texts = ["a bird of prey", "with speed"]
    logits = model(tokenizer(texts, padding=True, return_tensors="tf")).logits
    expected = model(dict(tokenizer(texts, padding=True, return_tensors="np"))).logits
    np.testing.assert_array_equal(logits, expected)


def test_floats_stay_floats_and_tensors_stay_as_they_are(tokenizer: AlbertTokenizer) -> None:
    found = tokenizer("a bird")
    found.data |= {"weight": [0.5, 0.25], "there": tf.constant([1], tf.int64)}
    found.convert_to_tensors("tf")
    assert found["weight"].dtype.is_floating and found["weight"].numpy().tolist() == [0.5, 0.25]
    assert found["there"].dtype == tf.int64


def test_the_rows_still_become_a_batch(tokenizer: AlbertTokenizer) -> None:
    texts = ["a bird of prey", "with speed"]
    found = tokenizer(texts, padding=True, return_tensors="tf").batch()
    assert found.input_ids.dtype == torch.int64
    assert found.input_ids.tolist() == tokenizer(texts, padding=True)["input_ids"]


def test_rows_of_different_lengths_are_refused_in_words(tokenizer: AlbertTokenizer) -> None:
    with pytest.raises(ValueError, match=r"input_ids holds rows of \d+ to \d+ tokens.*padding=True"):
        tokenizer(["a", "a bird of prey"], return_tensors="tf")


def test_tensorflow_is_imported_when_it_is_asked_for_and_its_absence_is_one_clear_error() -> None:
    program = f"""
import sys
from albert_fast import AlbertTokenizer
from albert_fast.errors import MissingDependencyError
tokenizer = AlbertTokenizer.from_pretrained({NAME!r})
tokenizer("a bird", return_tensors="np")
assert "tensorflow" not in sys.modules
sys.modules["tensorflow"] = None
try:
    tokenizer("a bird", return_tensors="tf")
except MissingDependencyError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "needed to return TensorFlow tensors" in done.stdout
    assert "pip install 'albert-fast[tensorflow]'" in done.stdout
