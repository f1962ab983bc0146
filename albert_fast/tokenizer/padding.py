"""Rows brought to one length."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from albert_fast.tokenizer.options import EncodeOptions


def padded_length(lengths: list[int], *, padding: str, max_length: int | None, multiple: int | None) -> int:
    """The length that rows of these lengths are padded to; longer rows stay as they are."""
    target = max(lengths, default=0)
    if padding == "max_length" and max_length is not None:
        target = max_length
    return -(-target // multiple) * multiple if multiple else target


def pad_rows(rows: list[Any], length: int, filler: Any, *, left: bool) -> list[Any]:
    """Every row with as many fillers before or behind it as it lacks."""
    if left:
        return [[filler] * (length - len(row)) + row if len(row) < length else row for row in rows]
    return [row + [filler] * (length - len(row)) if len(row) < length else row for row in rows]


def collate(encoded: Any) -> dict[str, list[Any]]:
    """One dict of lists from a list of dicts, arrays and tensors as lists.

    Raises:
        ValueError: no ``input_ids``, or dicts with different keys.
    """
    if isinstance(encoded, (list, tuple)):
        if not encoded or not all(isinstance(one, Mapping) for one in encoded):
            kinds = sorted({type(one).__name__ for one in encoded}) or ["nothing"]
            raise ValueError(f"pad needs a dict of lists or a list of dicts, found a list of {', '.join(kinds)}")
        keys = list(encoded[0])
        if any(set(one) != set(keys) for one in encoded):
            raise ValueError(f"pad needs the same fields in every example; the first has {', '.join(keys)}")
        encoded = {key: [one[key] for one in encoded] for key in keys}
    if not isinstance(encoded, Mapping) or "input_ids" not in encoded:
        found = ", ".join(map(str, encoded)) if isinstance(encoded, Mapping) else type(encoded).__name__
        raise ValueError(f"pad needs input_ids, found {found or 'nothing'}")
    return {str(key): _as_lists(value) for key, value in encoded.items()}


def _as_lists(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_as_lists(item) if hasattr(item, "tolist") else item for item in value]
    return value


def pad_examples(encoded: Any, options: EncodeOptions, pad_id: int, attention_mask: bool) -> dict[str, Any]:
    """Collated examples with ``input_ids``, masks and types padded; other fields stay as they are.

    Args:
        encoded: one example (flat ids), a dict of lists of rows, or a list of examples.
        attention_mask: make one where the examples have none.
    """
    data = collate(encoded)
    ids = data["input_ids"]
    single = not ids or not isinstance(ids[0], (list, tuple))
    if single:
        data = {name: [value] for name, value in data.items()}
    rows = data["input_ids"]
    fillers = {"input_ids": pad_id, "token_type_ids": 0, "attention_mask": 0, "special_tokens_mask": 1}
    if attention_mask and "attention_mask" not in data:
        data["attention_mask"] = [[1] * len(row) for row in rows]
    if options.padding != "do_not_pad":
        length = padded_length(
            [len(row) for row in rows],
            padding=options.padding,
            max_length=options.max_length,
            multiple=options.pad_to_multiple_of,
        )
        for name, filler in fillers.items():
            if name in data:
                data[name] = pad_rows(list(map(list, data[name])), length, filler, left=options.padding_side == "left")
    return {name: value[0] for name, value in data.items()} if single else data
