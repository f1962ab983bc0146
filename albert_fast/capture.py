"""capture: a model and a ShapeProfile in, one whole ``torch.export`` graph out, or an error."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from albert_fast.batch import INPUT_NAMES, POSITIONS, ShapeProfile
from albert_fast.heads import HEADS, asked_refusal, head_of
from albert_fast.pretrained import AlbertPreTrainedModel

NUM_CHOICES = 2
"""Choices per row that a multiple-choice program is traced with; the dimension is dynamic, from 1 to 64."""


class _Captured(nn.Module):
    """What is traced: the three inputs every head takes, the positions that some may, and output tensors by name."""

    def __init__(self, model: AlbertPreTrainedModel, outputs: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self.outputs = outputs

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor, positions: Tensor | None = None
    ) -> dict[str, Tensor]:
        output = self.model(
            input_ids,
            attention_mask,
            token_type_ids,
            return_dict=True,
            output_hidden_states=False,
            output_attentions=False,
            **({} if positions is None else {POSITIONS: positions}),
        )
        return {name: output[name] for name in self.outputs if output[name] is not None}


def capture(model: AlbertPreTrainedModel, profile: ShapeProfile, *, asked: bool = False) -> ExportedProgram:
    """Trace a model with ``torch.export`` (strict: no graph break can hide) for all shapes of a profile.

    The passes are unrolled in the graph; the shared layer's weights are placeholders that every pass refers to, so the
    program holds them once.

    Args:
        model: a class of ``heads.HEADS`` in ``eval`` mode; parameters of any floating dtype and device.
        profile: dimensions whose minimum and maximum differ are dynamic, the others static.
        asked: whether scores over the vocabulary are computed at asked positions alone. The program then has a fourth
            input, ``positions``: int64 ``[asked]``, indices into the ``batch * length`` tokens, at least one; the
            outputs in ``asked`` of the head's row are ``[asked, vocab_size]``, in the order of the positions.
    Returns:
        A program called as ``program.module()(input_ids, attention_mask, token_type_ids)``, all int64 ``[batch,
        length]`` (multiple choice ``[batch, choices, length]``); it returns a dict named as in the head's row.
    Raises:
        ValueError: the model is in training mode, the profile is longer than the model's positions, or the head's row
            has nothing to ask for.
    """
    name = head_of(model)
    head, refusal = HEADS[name], asked_refusal(name)
    if asked and refusal is not None:
        raise ValueError(refusal)
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() before capture, dropout cannot be deployed")
    longest = model.config.max_position_embeddings
    if profile.max_length > longest:
        raise ValueError(
            f"the profile {profile} asks for length {profile.max_length}, but the model has {longest} positions "
            f"(max_position_embeddings); choose a maximum of at most {longest}"
        )
    batch, batch_dim = _dimension("batch", profile.min_batch, profile.max_batch, example=3)
    length, length_dim = _dimension("length", profile.min_length, profile.max_length, example=7)
    shape, dims = [batch, length], {0: batch_dim, 1: length_dim}
    if head.ids_rank == 3:
        shape, dims = [batch, NUM_CHOICES, length], {0: batch_dim, 1: Dim("choices", min=1, max=64), 2: length_dim}
    dynamic = {index: dim for index, dim in dims.items() if dim is not None}
    example = torch.ones(shape, dtype=torch.int64, device=model.device)
    examples = [example, example.clone(), torch.zeros_like(example)]
    dynamic_shapes = dict.fromkeys(INPUT_NAMES, dynamic)
    if asked:
        # never static, not for a single token either: by its dimension an output is known as one of asked positions
        count, asked_dim = _dimension("asked", 1, max(2, profile.max_batch * profile.max_length), example=5)
        assert asked_dim is not None
        examples.append(torch.zeros(count, dtype=torch.int64, device=model.device))
        dynamic_shapes[POSITIONS] = {0: asked_dim}
    with torch.no_grad():
        return torch.export.export(
            _Captured(model, _present(model, head.outputs)).eval(),
            tuple(examples),
            dynamic_shapes=dynamic_shapes,
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
