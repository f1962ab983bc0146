"""What a tokenizer call returns: a mapping of names to lists, arrays or tensors, and the way back to the text."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from albert_fast._optional import require
from albert_fast.tokenizer.encoding import CharSpan, Encoding, TokenSpan

if TYPE_CHECKING:
    from albert_fast.batch import Batch


class BatchEncoding(UserDict[Any, Any]):
    """``input_ids``, ``token_type_ids``, ``attention_mask`` and what else was asked for; keys are attributes too.

    ``encoding[i]`` with an int is the i-th :class:`Encoding`. Methods that take a row and a position also take the
    position alone, for row 0.
    """

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        encodings: Callable[[], list[Encoding]] | None = None,
        tensor_type: str | None = None,
        prepend_batch_axis: bool = False,
    ) -> None:
        super().__init__(dict(data or {}))
        self._explain = encodings
        self._encodings: list[Encoding] | None = None
        self.convert_to_tensors(tensor_type, prepend_batch_axis)

    def __getitem__(self, item: Any) -> Any:
        if isinstance(item, str):
            return self.data[item]
        if isinstance(item, slice):
            return {name: value[item] for name, value in self.data.items()}
        return self._rows()[item]

    def __getattr__(self, name: str) -> Any:
        data = self.__dict__.get("data", {})
        if name in data:
            return data[name]
        raise AttributeError(f"this BatchEncoding has no {name!r}; it has {', '.join(map(str, data)) or 'nothing'}")

    def __getstate__(self) -> dict[str, Any]:
        return {"data": self.data, "encodings": self.encodings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.data, self._encodings, self._explain = state["data"], state["encodings"], None

    @property
    def encodings(self) -> list[Encoding] | None:
        """Every row with its tokens' places; None where the values did not come from text."""
        if self._encodings is None and self._explain is not None:
            self._encodings, self._explain = self._explain(), None
        return self._encodings

    def _rows(self) -> list[Encoding]:
        rows = self.encodings
        if rows is None:
            raise ValueError("these values were not made from text, so no token has a place in one; call the tokenizer")
        return rows

    @property
    def is_fast(self) -> bool:
        """Whether tokens know their place in the text."""
        return self.encodings is not None

    @property
    def n_sequences(self) -> int | None:
        """Texts in a row: 1 or 2; None where the values did not come from text."""
        return self.encodings[0].n_sequences if self.encodings else None

    def tokens(self, batch_index: int = 0) -> list[str]:
        """The tokens of a row as text; unknown characters as they are."""
        return self._rows()[batch_index].tokens

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token 0 or 1, the text it belongs to; None for added specials and padding."""
        return self._rows()[batch_index].sequence_ids

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """For each token the number of its word within its text; None for added specials and padding."""
        return self._rows()[batch_index].word_ids

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The text (0 or 1) that a token belongs to."""
        row, token = self._place(batch_or_token_index, token_index)
        return row.token_to_sequence(token)

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """The word that a token belongs to."""
        row, token = self._place(batch_or_token_index, token_index)
        return row.token_to_word(token)

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """The characters that a token stands for."""
        row, token = self._place(batch_or_token_index, token_index)
        return row.token_to_chars(token)

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The token that stands for a character of the first (0) or second (1) text."""
        row, character = self._place(batch_or_char_index, char_index)
        return row.char_to_token(character, sequence_index)

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """The word that holds a character of the first (0) or second (1) text."""
        row, character = self._place(batch_or_char_index, char_index)
        return row.char_to_word(character, sequence_index)

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """The range of tokens of a word of the first (0) or second (1) text."""
        row, word = self._place(batch_or_word_index, word_index)
        return row.word_to_tokens(word, sequence_index)

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        """The range of characters of a word of the first (0) or second (1) text."""
        row, word = self._place(batch_or_word_index, word_index)
        return row.word_to_chars(word, sequence_index)

    def _place(self, first: int, second: int | None) -> tuple[Encoding, int]:
        """(row, position) from ``(row, position)`` or ``(position,)``."""
        row, position = (0, first) if second is None else (first, second)
        return self._rows()[row], position

    def convert_to_tensors(self, tensor_type: str | None = None, prepend_batch_axis: bool = False) -> BatchEncoding:
        """Turn every list into an int64 numpy array (``"np"``) or torch tensor (``"pt"``), or into an int32 TensorFlow
        tensor (``"tf"``), in place.

        Raises:
            ValueError: another tensor type, or rows of different lengths.
            MissingDependencyError: TensorFlow is not installed.
        """
        if tensor_type is None:
            return self
        kind = getattr(tensor_type, "value", tensor_type)
        if kind not in ("np", "pt", "tf"):
            raise ValueError(
                f"return_tensors={tensor_type!r}, expected 'pt' (torch), 'np' (numpy), 'tf' (TensorFlow) or None"
            )
        for name, value in self.data.items():
            self.data[name] = _as_tensor(name, [value] if prepend_batch_axis else value, kind)
        return self

    def to(self, device: Any, **options: Any) -> BatchEncoding:
        """Move every torch tensor to ``device``, in place."""
        for name, value in self.data.items():
            if hasattr(value, "to"):
                self.data[name] = value.to(device, **options)
        return self

    def batch(self) -> Batch:
        """The rows as a :class:`albert_fast.batch.Batch` of int64 torch tensors ``[batch, length]``.

        Raises:
            ValueError: rows of different lengths; call the tokenizer with ``padding=True``.
        """
        from albert_fast.batch import Batch

        tensors = {}
        for name in ("input_ids", "attention_mask", "token_type_ids"):
            value = self.data.get(name)
            if value is not None:
                tensor = _as_tensor(name, value, "pt").long()
                tensors[name] = tensor[None] if tensor.ndim == 1 else tensor
        if "input_ids" not in tensors:
            raise ValueError(f"a batch needs input_ids, found {', '.join(map(str, self.data)) or 'nothing'}")
        return Batch(**tensors)


def _as_tensor(name: str, value: Any, kind: str) -> Any:
    """``value`` as an array or tensor; floats keep their kind, all else becomes int64, in TensorFlow int32."""
    if kind == "tf":
        tf = require("tensorflow", extra="tensorflow", purpose="return TensorFlow tensors")
        if tf.is_tensor(value):
            return value
        array = _as_tensor(name, value, "np")
        return tf.constant(array, None if array.dtype.kind == "f" else tf.int32)
    if kind == "pt":
        import torch

        if isinstance(value, torch.Tensor):
            return value
    if isinstance(value, np.ndarray) and value.dtype != object:
        array = value
    else:
        try:
            array = np.asarray(value)
            if array.dtype == object or array.dtype.kind not in "biuf":
                array = array.astype(np.int64)
        except (ValueError, TypeError) as error:
            lengths = sorted({len(row) for row in value if hasattr(row, "__len__")})
            found = f"rows of {lengths[0]} to {lengths[-1]}" if len(lengths) > 1 else "values that are no numbers"
            raise ValueError(
                f"{name} holds {found} tokens, which make no tensor; call the tokenizer with padding=True "
                "(and truncation=True), and leave out fields that are no numbers"
            ) from error
        if array.size == 0:
            array = array.astype(np.int64)
    return torch.from_numpy(np.require(array, requirements=("C", "W"))) if kind == "pt" else array
