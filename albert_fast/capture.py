"""capture: a model and a ShapeProfile in, one whole ``torch.export`` graph out, or an error."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from albert_fast.batch import INPUT_NAMES, ShapeProfile
from albert_fast.heads import HEADS, head_of
from albert_fast.pretrained import AlbertPreTrainedModel

NUM_CHOICES = 2
"""Choices per row that a multiple-choice program is traced with; the dimension is dynamic, from 1 to 64."""


class _Captured(nn.Module):
    """What is traced: the three inputs every head takes, and its output tensors by name."""

    def __init__(self, model: AlbertPreTrainedModel, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.outputs = outputs

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> dict[str, Tensor]:
        output = self.model(
            input_ids,
            attention_mask,
            token_type_ids,
            return_dict=True,
            output_hidden_states=False,
            output_attentions=False,
        )
        return {name: output[name] for name in self.outputs if output[name] is not None}


def capture(model: AlbertPreTrainedModel, profile: ShapeProfile) -> ExportedProgram:
    """Trace a model with ``torch.export`` (strict: no graph break can hide) for all shapes of a profile.

    The passes are unrolled in the graph; the shared layer's weights are placeholders that every pass refers to, so the
    program holds them once.

    Args:
        model: a class of ``heads.HEADS`` in ``eval`` mode; parameters of any floating dtype and device.
        profile: dimensions whose minimum and maximum differ are dynamic, the others static.
    Returns:
        A program called as ``program.module()(input_ids, attention_mask, token_type_ids)``, all int64 ``[batch,
        length]`` (multiple choice ``[batch, choices, length]``); it returns a dict named as in the head's row.
    Raises:
        ValueError: the model is in training mode, or the profile is longer than the model's positions.
    """
    head = HEADS[head_of(model)]
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() before capture, dropout cannot be deployed")
    positions = model.config.max_position_embeddings
    if profile.max_length > positions:
        raise ValueError(
            f"the profile {profile} asks for length {profile.max_length}, but the model has {positions} positions "
            f"(max_position_embeddings); choose a maximum of at most {positions}"
        )
    batch, batch_dim = _dimension("batch", profile.min_batch, profile.max_batch, example=3)
    length, length_dim = _dimension("length", profile.min_length, profile.max_length, example=7)
    shape, dims = [batch, length], {0: batch_dim, 1: length_dim}
    if head.ids_rank == 3:
        shape, dims = [batch, NUM_CHOICES, length], {0: batch_dim, 1: Dim("choices", min=1, max=64), 2: length_dim}
    dynamic = {index: dim for index, dim in dims.items() if dim is not None}
    example = torch.ones(shape, dtype=torch.int64, device=model.device)
    with torch.no_grad():
        return torch.export.export(
            _Captured(model, _present(model, head.outputs)).eval(),
            (example, example.clone(), torch.zeros_like(example)),
            dynamic_shapes={name: dynamic for name in INPUT_NAMES},
            strict=True,
        )


def _present(model: AlbertPreTrainedModel, outputs: tuple[str, ...]) -> tuple[str, ...]:
    """The head's outputs, without the pooler's where the model has none."""
    without_pooler = getattr(model, "pooler", ...) is None
    return tuple(name for name in outputs if not (without_pooler and name == "pooler_output"))


def _dimension(name: str, low: int, high: int, *, example: int) -> tuple[int, Dim | None]:
    """An example size and its ``Dim``, or None for a static one. Sizes 0 and 1 would be specialised by the tracer."""
    if low == high:
        return low, None
    return max(low, min(example, high)), Dim(name, min=low, max=high)
