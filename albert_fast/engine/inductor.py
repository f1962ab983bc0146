"""The format ``inductor``: ``torch.compile`` in this process, one whole graph, the shared layer compiled once.

The layer is a nested compile region: every pass calls the same compiled code, so compile time does not grow with depth.
Sizes that vary in the profile are dynamic. Batch 1, length 1 and one asked position get code of their own when they
first occur.
"""

from __future__ import annotations

import copy
import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from albert_fast.batch import ShapeProfile
from albert_fast.engine.eager import make as make_eager
from albert_fast.engine.formats import Run

if TYPE_CHECKING:
    from albert_fast.functional import LayerSettings, LayerWeights, TransformerLayer


def make(model: nn.Module, *, outputs: tuple[str, ...], profile: ShapeProfile, asked: bool = False) -> Run:
    """Compile ``model`` for the profile's sizes; it is not changed. Takes from seconds to a minute."""
    compiled = _compile(make_eager(_with_nested_layer(model), outputs=outputs, profile=profile))
    varying = {0: profile.min_batch < profile.max_batch, -1: profile.min_length < profile.max_length}

    def run(*inputs: Tensor) -> Mapping[str, Tensor]:
        ids, positions = (_dynamic(tensor, varying) for tensor in inputs[:3]), inputs[3:]
        return compiled(*ids, *(_dynamic(tensor, {0: True}) for tensor in positions))

    shape = [min(max(2, profile.min_batch), profile.max_batch), min(max(7, profile.min_length), profile.max_length)]
    if _takes_choices(model):
        shape.insert(1, 2)
    device = next(model.parameters()).device
    with torch.inference_mode():
        example = torch.ones(shape, dtype=torch.int64, device=device)
        positions = [torch.zeros(2, dtype=torch.int64, device=device)] if asked else []
        run(example, example.clone(), torch.zeros_like(example), *positions)
    return cast(Run, run)


def _with_nested_layer(model: nn.Module) -> nn.Module:
    """A model of the same parameters whose every pass calls one nested compile region."""
    from albert_fast.model import AlbertModel

    copied = copy.copy(model)
    copied._modules = dict(model._modules)
    base = copied if isinstance(copied, AlbertModel) else copy.copy(cast("AlbertModel", model.albert))
    base.apply_layer = _nested(base.apply_layer, base.layer_settings())
    if base is not copied:
        copied.albert = base
    return copied


def _nested(apply_layer: TransformerLayer, settings: LayerSettings) -> TransformerLayer:
    """``apply_layer`` as one region. Only tensors go in and out: anything else makes the tracer visit it every pass."""
    from albert_fast.functional import Affine, LayerWeights

    def region(x_BSD: Tensor, bias: Tensor | None, *weights: Tensor) -> Tensor:
        pairs = [Affine(weight, bias_) for weight, bias_ in zip(weights[::2], weights[1::2], strict=True)]
        return apply_layer(x_BSD, bias, LayerWeights(*pairs), settings)[0]

    compiled_once = torch.compiler.nested_compile_region(region)

    def apply(x_BSD: Tensor, bias: Tensor | None, layer: LayerWeights, _: LayerSettings) -> tuple[Tensor, None]:
        return compiled_once(x_BSD, bias, *(tensor for pair in layer for tensor in pair)), None

    return apply


def _compile(run: Run) -> Callable[..., Mapping[str, Tensor]]:
    """Compile a fresh function: variants are limited per function, and engines must not count for each other."""

    def call(*inputs: Tensor) -> Mapping[str, Tensor]:
        return run(*inputs)

    own = types.FunctionType(call.__code__.replace(), call.__globals__, call.__name__, closure=call.__closure__)
    compiled = torch.compile(own, fullgraph=True)
    return cast(Callable[..., Mapping[str, Tensor]], compiled)


def _dynamic(tensor: Tensor, varying: Mapping[int, bool]) -> Tensor:
    """A copy of the tensor that tells the compiler which of its sizes vary.

    A copy, so that it is an inference tensor whoever made the original: the compiler tells the two kinds apart.
    """
    copied = tensor.clone()
    torch._dynamo.maybe_mark_dynamic(copied, [index % tensor.dim() for index, varies in varying.items() if varies])
    return copied


def _takes_choices(model: nn.Module) -> bool:
    from albert_fast.heads import HEADS, head_of

    return HEADS[head_of(model)].ids_rank == 3
