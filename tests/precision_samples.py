"""What the tests of precision share: small models whose numbers are of a size that trained ones have."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from albert_fast.batch import Batch, ShapeProfile
from albert_fast.capture import capture
from albert_fast.config import AlbertConfig
from albert_fast.heads import HEADS
from albert_fast.precision import PRECISIONS, prepare
from albert_fast.recipe.references import reference_batches

PROFILE = ShapeProfile(1, 4, 8, 1, 16, 64)
CONFIG = AlbertConfig(
    vocab_size=120, embedding_size=16, hidden_size=48, num_hidden_layers=5, num_attention_heads=4, intermediate_size=80,
    max_position_embeddings=64, initializer_range=0.1,
)  # fmt: skip
HALVES = [name for name, row in PRECISIONS.items() if row.dtype in (torch.float16, torch.bfloat16)]

Answers = dict[str, Tensor]


def model_of(head: str = "pretraining", *, attention: str = "sdpa", **changes: Any) -> Any:
    """A model in float32 with random weights, the same in every test."""
    torch.manual_seed(3)
    return HEADS[head].model_class(CONFIG.replace(**changes), attn_implementation=attention).eval()


def batches_of(head: str = "pretraining", profile: ShapeProfile = PROFILE) -> list[Batch]:
    """The batches that export measures on: pairs, padded rows, one token, the longest length."""
    return reference_batches(CONFIG, head, profile)


def answers(program: ExportedProgram, batches: list[Batch]) -> list[Answers]:
    """What a program says to each batch."""
    run = program.module(check_guards=False)
    with torch.inference_mode():
        return [run(*batch.tensors()) for batch in batches]


def captured(model: Any, profile: ShapeProfile = PROFILE) -> ExportedProgram:
    """The model's float32 graph."""
    return capture(model, profile)


@cache
def graph_of(head: str = "pretraining", attention: str = "sdpa") -> ExportedProgram:
    """The graph of an unchanged model; look at it and run it, change nothing."""
    return captured(model_of(head, attention=attention))


@cache
def prepared_graph(name: str, head: str = "pretraining", attention: str = "sdpa") -> ExportedProgram:
    """The same graph in a precision."""
    return prepare(graph_of(head, attention), name)


def largest_difference(found: list[Answers], expected: list[Answers]) -> float:
    """Over all batches and outputs; a NaN is infinitely far."""
    differences = [(f[name] - e[name]).abs().max() for f, e in zip(found, expected, strict=True) for name in e]
    return float(torch.stack(differences).nan_to_num(nan=float("inf")).max())
