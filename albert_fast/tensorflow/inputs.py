"""Inputs in every way that the old classes took them, as keyword arguments; and what no ALBERT can take, refused."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from albert_fast.config import AlbertConfig
from albert_fast.tensorflow.runtime import keras, tf

Tensor = Any

TENSORS = (
    "input_ids", "attention_mask", "token_type_ids", "position_ids", "head_mask", "inputs_embeds", "labels",
)  # fmt: skip


def named_inputs(
    parameters: Sequence[str], arguments: Sequence[Any], keywords: Mapping[str, Any], *, owner: str
) -> dict[str, Any]:
    """Inputs by name, arrays and lists of numbers as tensors.

    Args:
        parameters: the names that ``call`` knows, in order.
        arguments: as given by position. The first may be a mapping of names (what a tokenizer returns), or a list or
            tuple of inputs in the order of ``parameters``.
        keywords: as given by name.
    Raises:
        ValueError: an input that ``call`` does not know, or one that is given twice.
    """
    given = dict(keywords)
    first = arguments[0] if arguments else given.get(parameters[0])
    if isinstance(first, Mapping | list | tuple):
        arguments = arguments[1:]
        given.pop(parameters[0], None)
        after = parameters[1 : 1 + len(arguments)]
        nested = first if isinstance(first, Mapping) else dict(zip(parameters, first, strict=False))
        rows = [*nested.items(), *zip(after, arguments, strict=True)]
    else:
        rows = [*zip(parameters, arguments, strict=False)]
    unknown = [name for name, _ in rows if name not in parameters] + [name for name in given if name not in parameters]
    twice = [name for name, value in rows if value is not None and given.get(name) is not None]
    if unknown or twice or len(arguments) > len(parameters):
        raise ValueError(
            f"{owner} takes {', '.join(parameters)}; found "
            + "; ".join(
                [f"{name}, which it does not know: leave it out" for name in unknown]
                + [f"{name} twice: give it once" for name in twice]
                or [f"{len(arguments)} inputs by position"]
            )
        )
    given |= {name: value for name, value in rows if value is not None or name not in given}
    return {name: _tensor(value) if name in TENSORS else value for name, value in given.items()}


def _tensor(value: Any) -> Any:
    """An array or a list as a tensor; tensors, also Keras's symbolic ones, as they are."""
    return value if value is None or isinstance(value, keras.KerasTensor) else tf.convert_to_tensor(value)


class TakesInputs:
    """A Keras layer or model that is called as those of ``transformers`` 4: dict, list, position or keyword."""

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """``call``, with the inputs in whichever form."""
        parameters = tuple(inspect.signature(self.call).parameters)  # type: ignore[attr-defined]
        named = named_inputs(parameters, arguments, keywords, owner=type(self).__name__)
        return super().__call__(**named)  # type: ignore[misc]


def check_inputs(
    config: AlbertConfig,
    *,
    input_ids: Tensor | None,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None,
    position_ids: Tensor | None,
    inputs_embeds: Tensor | None,
    head_mask: Tensor | None,
) -> None:
    """Refuse inputs that no ALBERT of these sizes can take, before any work is done.

    Dtypes and ranks are compared always, sizes where they are known, and values where they are at hand, that is outside
    of ``tf.function``.

    Raises:
        ValueError: every problem found, in one message.
    """
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("exactly one of input_ids and inputs_embeds is needed")
    problems = [] if head_mask is None else ["head_mask is given, and no ALBERT class in TensorFlow ever used one"]
    ids = {"input_ids": input_ids, "token_type_ids": token_type_ids, "position_ids": position_ids}
    for name, value in ids.items():
        if value is not None and value.dtype not in (tf.int32, tf.int64):
            problems.append(f"{name} is {value.dtype.name}, expected int32 or int64")
        if value is not None and value.shape.rank != 2:
            problems.append(f"{name} has shape {value.shape}, expected [batch, length]; for rows of ids pass an array")
    if inputs_embeds is not None:
        if not inputs_embeds.dtype.is_floating:
            problems.append(f"inputs_embeds is {inputs_embeds.dtype.name}, expected a floating dtype")
        if not inputs_embeds.shape.is_compatible_with([None, None, config.embedding_size]):
            expected = f"[batch, length, {config.embedding_size} (embedding_size)]"
            problems.append(f"inputs_embeds has shape {inputs_embeds.shape}, expected {expected}")
    if not problems:
        problems += _size_problems(config, input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
    if not problems and tf.executing_eagerly():
        limits = ("vocab_size", "type_vocab_size", "max_position_embeddings")
        for (name, value), limit in zip(ids.items(), limits, strict=True):
            problems += _range_problems(name, value, limit, getattr(config, limit))
    if problems:
        raise ValueError("; ".join(problems))


def _size_problems(
    config: AlbertConfig,
    input_ids: Tensor | None,
    mask: Tensor | None,
    types: Tensor | None,
    positions: Tensor | None,
    inputs_embeds: Tensor | None,
) -> list[str]:
    """Sizes that contradict one another or the config; a size that is not known yet fits everything."""
    found = []
    source: Any = input_ids if input_ids is not None else inputs_embeds
    batch, length = source.shape[:2]
    if 0 in (batch, length):
        found.append(f"the batch is empty (shape [{batch}, {length}]); give at least one text of one token")
    if length is not None and length > config.max_position_embeddings:
        found.append(
            f"the text has {length} tokens, the model takes at most {config.max_position_embeddings} "
            "(max_position_embeddings); truncate with the tokenizer: "
            f"truncation=True, max_length={config.max_position_embeddings}"
        )
    shapes = {
        "attention_mask": (mask, ([batch, length], [batch, length, length])),
        "token_type_ids": (types, ([batch, length],)),
        "position_ids": (positions, ([1, length], [batch, length])),
    }
    for name, (value, fitting) in shapes.items():
        if value is not None and not any(value.shape.is_compatible_with(shape) for shape in fitting):
            found.append(f"{name} has shape {value.shape}, expected {' or '.join(map(str, fitting))}")
    if mask is not None and not (mask.dtype.is_floating or mask.dtype.is_integer or mask.dtype.is_bool):
        found.append(f"attention_mask is {mask.dtype.name}, expected numbers or booleans, 0 where there is padding")
    return found


def _range_problems(name: str, ids: Tensor | None, limit: str, size: int) -> list[str]:
    if ids is None:
        return []
    low, high = int(tf.reduce_min(ids)), int(tf.reduce_max(ids))
    if low >= 0 and high < size:
        return []
    wrong = low if low < 0 else high
    return [
        f"{name} holds {wrong}, expected 0..{size - 1} ({limit} is {size}); tokenizer and model do not belong together"
    ]
