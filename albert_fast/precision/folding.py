"""Smoothing that costs nothing: factors that can be divided out of the weights that make a tensor.

Two inputs of linear maps are made by nothing but weights of their own, channel by channel, so that dividing those
weights divides the input exactly, in every pass:

    attention.dense.input               the rows of the value projection: attention only averages over tokens
    embedding_hidden_mapping_in.input   the weight and bias of the embeddings' LayerNorm

What query, key, value and ffn read is the residual as well, and what ffn_output reads comes out of an activation: those
are multiplied in the graph.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram

from albert_fast.precision.scales import Scales
from albert_fast.precision.sites import canonical

MAKERS: Mapping[str, str] = {
    "attention.dense.input": "attention.value",
    "encoder.embedding_hidden_mapping_in.input": "embeddings.LayerNorm",
}
"""End of a tensor's name -> what the end is replaced with to name the module whose channels it has."""


def makers(program: ExportedProgram, tensor: str) -> list[str]:
    """Weight and bias whose channels are those of a tensor, as the program's state dict calls them; else none."""
    for end, module in MAKERS.items():
        if tensor.endswith(end):
            wanted = tensor.removesuffix(end) + module
            return [name for name in program.state_dict if canonical(name).rpartition(".")[0] == wanted]
    return []


def folded(program: ExportedProgram, scales: Scales) -> tuple[ExportedProgram, Scales]:
    """Take into the weights what can be taken: a program that computes the same, and the scales that are left for it.

    Args:
        program: as captured, in float32; it is not changed, and returned itself where there is nothing to fold.
        scales: their ``model`` stays that of the program given.
    """
    tensors: dict[str, Any] = dict(program.state_dict)
    left = dict(scales.smoothing)
    for tensor, numbers in scales.smoothing.items():
        found = makers(program, tensor)
        if not found:
            continue
        factors = torch.tensor(numbers)
        for name in found:
            _multiply(tensors, name, 1 / factors, dim=0)
        _multiply(tensors, _reader(program, tensor), factors, dim=1)
        del left[tensor]
    if len(left) == len(scales.smoothing):
        return program, scales
    return with_tensors(program, tensors), dataclasses.replace(scales, smoothing=left)


def with_tensors(program: ExportedProgram, tensors: dict[str, Any]) -> ExportedProgram:
    """The same program around a graph of its own and these weights."""
    graph_module = copy.deepcopy(program.graph_module)
    return ExportedProgram(
        root=graph_module,
        graph=graph_module.graph,
        graph_signature=copy.deepcopy(program.graph_signature),
        state_dict=tensors,
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants=program.constants,
    )


def _multiply(tensors: dict[str, Any], name: str, factors: torch.Tensor, dim: int) -> None:
    weight = tensors[name].detach()
    shape = [-1 if index == dim else 1 for index in range(weight.dim())]
    tensors[name] = nn.Parameter(weight * factors.to(weight.device).view(shape), requires_grad=False)


def _reader(program: ExportedProgram, tensor: str) -> str:
    """The weight that reads a tensor, as this program calls it."""
    weight = f"{tensor.removesuffix('.input')}.weight"
    return next(name for name in program.state_dict if canonical(name) == weight)
