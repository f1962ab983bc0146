"""Put ALBERT's encoder into a program as one op, its weights packed as the op reads them, each stored once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node

from albert_fast.encoder_op import linear_tensors
from albert_fast.engine.encoder_graph import EncoderGraph, recognise
from albert_fast.engine.encoder_parts import LinearNodes
from albert_fast.engine.rewriting import Rewriting, value_of

aten = torch.ops.aten


def fuse(program: ExportedProgram) -> tuple[ExportedProgram, EncoderGraph]:
    """The program with its encoder as one call of ``albert_fast::encoder``, and what was found.

    The packed weights are constants of the new program, and the unpacked ones have left it: it holds one copy. The
    program given is not changed; the two share the other tensors.

    Raises:
        EngineError: see ``encoder_graph.recognise``.
        MissingDependencyError: the op library is not built.
    """
    rewriting = Rewriting(program)
    found = recognise(rewriting.graph)
    tensors = [rewriting.constant(f"encoder_{name}", value) for name, value in _packed(rewriting, found)]
    with rewriting.graph.inserting_before(found.last):
        embedded = _cast(rewriting, found.embedded, torch.float32)
        encoded = rewriting.call(
            torch.ops.albert_fast.encoder.default, embedded, found.attention_mask, tensors, *found.settings.arguments()
        )
    for select in found.first_tokens:
        with rewriting.graph.inserting_before(select):
            first = rewriting.call(aten.select.int, encoded, 1, 0)
            rewriting.replace(select, _cast(rewriting, first, value_of(select).dtype))
    if not found.first_tokens:
        rewriting.replace(found.last, encoded)
    rewriting.forget_unread()
    return rewriting.finished(), found


def _cast(rewriting: Rewriting, node: Node, dtype: torch.dtype) -> Node:
    return node if value_of(node).dtype == dtype else rewriting.call(aten.to.dtype, node, dtype)


def _packed(rewriting: Rewriting, found: EncoderGraph) -> Iterator[tuple[str, Tensor]]:
    """The op's tensors in its order, by name."""
    yield from _linear(rewriting, "mapping", found.mapping)
    for index, layer in enumerate(found.layers):
        name = f"layer_{index}"
        yield from _linear(rewriting, f"{name}_qkv", layer.query, layer.key, layer.value)
        yield from _linear(rewriting, f"{name}_dense", layer.dense)
        yield f"{name}_attention_norm_weight", rewriting.tensor(layer.attention_norm.weight).float()
        yield f"{name}_attention_norm_bias", rewriting.tensor(layer.attention_norm.bias).float()
        yield from _linear(rewriting, f"{name}_ffn", layer.ffn)
        yield from _linear(rewriting, f"{name}_ffn_output", layer.ffn_output)
        yield f"{name}_output_norm_weight", rewriting.tensor(layer.output_norm.weight).float()
        yield f"{name}_output_norm_bias", rewriting.tensor(layer.output_norm.bias).float()


def _linear(rewriting: Rewriting, name: str, *parts: LinearNodes) -> Iterator[tuple[str, Tensor]]:
    """Linear maps side by side, as one of the op's."""
    weight = torch.cat([rewriting.tensor(part.weight) for part in parts])
    bias = torch.cat([rewriting.tensor(part.bias).float() for part in parts])
    scales = [rewriting.tensor(part.scale) for part in parts if part.scale is not None]
    factors = None if parts[0].factors is None else rewriting.tensor(parts[0].factors)
    tensors = linear_tensors(weight, bias, torch.cat(scales) if scales else None, factors)
    names = ("weight", "scale", "sums", "bias") if scales else ("weight", "bias")
    names = names if factors is None else ("factors", *names)
    yield from ((f"{name}_{end}", tensor) for end, tensor in zip(names, tensors, strict=True))
