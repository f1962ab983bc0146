"""What a model returns: one frozen dataclass per task, field for field as in ``transformers``."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, overload

import torch
from torch import Tensor

Tensors = tuple[Tensor, ...]


@dataclass(frozen=True)
class ModelOutput:
    """Fields by attribute, by name (``out["logits"]``) and by position (``out[0]``); unset ones do not count."""

    def keys(self) -> tuple[str, ...]:
        """Names of the fields that are set, in order."""
        return tuple(f.name for f in dataclasses.fields(self) if getattr(self, f.name) is not None)

    def values(self) -> tuple[Any, ...]:
        """The fields that are set, in order."""
        return tuple(getattr(self, name) for name in self.keys())

    def items(self) -> tuple[tuple[str, Any], ...]:
        """Pairs of name and value of the fields that are set."""
        return tuple((name, getattr(self, name)) for name in self.keys())

    def to_tuple(self) -> tuple[Any, ...]:
        """What the model returns with ``return_dict=False``."""
        return self.values()

    def get(self, name: str, default: Any = None) -> Any:
        """The field called ``name``, or ``default`` where it is not set."""
        return dict(self.items()).get(name, default)

    def __getitem__(self, key: str | int | slice) -> Any:
        return dict(self.items())[key] if isinstance(key, str) else self.values()[key]

    def __contains__(self, name: object) -> bool:
        return name in self.keys()

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())


@dataclass(frozen=True)
class BaseModelOutputWithPooling(ModelOutput):
    """``last_hidden_state`` ``[B, S, hidden_size]``; ``pooler_output`` ``[B, hidden_size]``."""

    last_hidden_state: Tensor
    pooler_output: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@dataclass(frozen=True)
class AlbertForPreTrainingOutput(ModelOutput):
    """``prediction_logits`` ``[B, S, vocab_size]``, or ``[asked, vocab_size]``; ``sop_logits`` ``[B, num_labels]``."""

    loss: Tensor | None = None
    prediction_logits: Tensor | None = None
    sop_logits: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@dataclass(frozen=True)
class MaskedLMOutput(ModelOutput):
    """``logits`` ``[B, S, vocab_size]``; of a model that was given ``positions``, ``[asked, vocab_size]``."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@dataclass(frozen=True)
class SequenceClassifierOutput(ModelOutput):
    """``logits`` ``[B, num_labels]``."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@dataclass(frozen=True)
class TokenClassifierOutput(ModelOutput):
    """``logits`` ``[B, S, num_labels]``."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@dataclass(frozen=True)
class QuestionAnsweringModelOutput(ModelOutput):
    """``start_logits`` and ``end_logits``, each ``[B, S]``."""

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


@dataclass(frozen=True)
class MultipleChoiceModelOutput(ModelOutput):
    """``logits`` ``[B, choices]``."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: Tensors | None = None
    attentions: Tensors | None = None


OUTPUTS: tuple[type[ModelOutput], ...] = (
    BaseModelOutputWithPooling,
    AlbertForPreTrainingOutput,
    MaskedLMOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
    QuestionAnsweringModelOutput,
    MultipleChoiceModelOutput,
)
for _output in OUTPUTS:  # torch.export flattens what a captured module returns
    torch.export.register_dataclass(_output, serialized_type_name=f"albert_fast.{_output.__name__}")

Output = TypeVar("Output", bound=ModelOutput)


@overload
def returned(output: Output, return_dict: Literal[True]) -> Output: ...
@overload
def returned(output: Output, return_dict: bool) -> Output | tuple[Any, ...]: ...
def returned(output: Output, return_dict: bool) -> Output | tuple[Any, ...]:
    """The output itself, or the tuple of its set fields when ``return_dict`` is False."""
    return output if return_dict else output.to_tuple()
