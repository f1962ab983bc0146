"""What the TF classes return: one mapping per task, named and filled as those of ``transformers`` 4 were."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from albert_fast.tensorflow.runtime import optree

Tensor = Any


class TFModelOutput(Mapping[str, Any]):
    """Fields by attribute, by name (``out["logits"]``) and by position (``out[0]``); unset ones do not count.

    A mapping, so that ``tf.function`` and Keras take it apart and put it together again.

    Args:
        items: a mapping or pairs of field and value.
        fields: the same as keywords. A field whose value is None stays unset.
    """

    fields: tuple[str, ...] = ()

    def __init__(self, items: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), **fields: Any) -> None:
        given = {**dict(items), **fields}
        unknown = given.keys() - set(self.fields)
        if unknown:
            raise ValueError(
                f"{type(self).__name__} has no {', '.join(sorted(unknown))}; it has {', '.join(self.fields)}"
            )
        self._values = {name: given[name] for name in self.fields if given.get(name) is not None}

    def __getattr__(self, name: str) -> Any:
        if name in type(self).fields:
            return self._values.get(name)
        raise AttributeError(f"{type(self).__name__} has no {name!r}; it has {', '.join(type(self).fields)}")

    def __getitem__(self, key: Any) -> Any:
        return self._values[key] if isinstance(key, str) else self.to_tuple()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.items())})"

    def to_tuple(self) -> tuple[Any, ...]:
        """What the model returns with ``return_dict=False``."""
        return tuple(self._values.values())


class TFBaseModelOutputWithPooling(TFModelOutput):
    """``last_hidden_state`` ``[B, S, hidden_size]``; ``pooler_output`` ``[B, hidden_size]``."""

    fields = ("last_hidden_state", "pooler_output", "hidden_states", "attentions")


class TFMaskedLMOutput(TFModelOutput):
    """``loss``, a scalar; ``logits`` ``[B, S, vocab_size]``."""

    fields = ("loss", "logits", "hidden_states", "attentions")


class TFSequenceClassifierOutput(TFModelOutput):
    """``loss``, a scalar; ``logits`` ``[B, num_labels]``."""

    fields = ("loss", "logits", "hidden_states", "attentions")


OUTPUTS: tuple[type[TFModelOutput], ...] = (
    TFBaseModelOutputWithPooling,
    TFMaskedLMOutput,
    TFSequenceClassifierOutput,
)


def _register(output_class: type[TFModelOutput]) -> None:
    """Tell Keras 3, whose trees are optree's under the namespace "keras", how to take an output apart."""
    optree.register_pytree_node(
        output_class,
        lambda output: (tuple(output.values()), tuple(output.keys()), tuple(output.keys())),
        lambda names, values: output_class(zip(names, values, strict=True)),
        namespace="keras",
    )


for _output_class in OUTPUTS:
    _register(_output_class)
