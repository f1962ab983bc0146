"""Recognise ALBERT's encoder in a typed, captured program: all that one op of our library can compute in its place.

The passes are unrolled in the graph. Each has one ``scaled_dot_product_attention`` and, behind it in the graph, two
LayerNorms; from these the nodes are followed back, and each must be what a pass of ALBERT has in that place. Casts
between float32 and bfloat16 are looked through: the op keeps in float32 what the graph rounds in between.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.fx import Graph, Node

from albert_fast.encoder_op import EncoderSettings
from albert_fast.engine.encoder_parts import INSTEAD, LayerNodes, LinearNodes, Parts, refuse
from albert_fast.engine.linear_groups import argument
from albert_fast.engine.rewriting import value_of
from albert_fast.engine.signature import dtype_name
from albert_fast.errors import EngineError

aten = torch.ops.aten


@dataclass(frozen=True)
class EncoderGraph:
    """What ``recognise`` finds.

    Attributes:
        embedded: what the map from embedding to hidden size reads, ``[batch, length, embedding_size]``.
        attention_mask: ``[batch, length]`` int64, as the graph has it.
        last: the last hidden state.
        first_tokens: where nobody reads more of ``last``, the ``select`` nodes that take its first token; else none.
        mapping: of embedding to hidden size.
        layers: the distinct layers, in the order of their first pass.
    """

    embedded: Node
    attention_mask: Node
    last: Node
    first_tokens: tuple[Node, ...]
    mapping: LinearNodes
    layers: tuple[LayerNodes, ...]
    settings: EncoderSettings

    @property
    def weight_dtype(self) -> str:
        """Of the layers' weights, ``"int8"``."""
        return dtype_name(value_of(self.layers[0].query.weight).dtype)


def recognise(graph: Graph) -> EncoderGraph:
    """Find the encoder in the graph of a typed program, in fp32, bf16, or int8 with the rest in either.

    Raises:
        EngineError: the graph is not one that the op computes: eager attention, quantized attention, passes or tensors
            kept out of quantization, an activation that the kernel lacks, hidden states that are read from outside. The
            sentence names the node, what it is and what was expected.
    """
    products = [node for node in graph.nodes if node.target is aten.scaled_dot_product_attention.default]
    if not products:
        raise EngineError(
            "the format native computes the encoder as one op and finds its passes by scaled_dot_product_attention, "
            f"which this graph does not call: capture it with attention sdpa, or {INSTEAD}"
        )
    return _Walk(graph).run(products)


class _Walk(Parts):
    """One walk over all passes, from the first to the last."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.place = {node: index for index, node in enumerate(graph.nodes)}
        self.norms = [node for node in graph.nodes if node.target is aten.layer_norm.default]
        self.scales: list[float] = []

    def run(self, products: list[Node]) -> EncoderGraph:
        layers: list[LayerNodes] = []
        schedule: list[int] = []
        hidden = self.first_hidden(products[0])
        embedded, mapping_scale, mapping = self.read_linear(hidden)
        self.inside.add(hidden)
        for product in products:
            hidden, layer = self.one_pass(product, hidden)
            if layer not in layers:
                layers.append(layer)
            schedule.append(layers.index(layer))
        self.check_dtypes(mapping, products[0])
        first_tokens = _first_tokens(hidden)
        settings = EncoderSettings(
            schedule=tuple(schedule),
            num_heads=int(value_of(products[0]).shape[1]),
            attention_scale=self.same["the scale"][0],
            layer_norm_eps=self.same["eps"][0],
            activation=self.same["the activation"][0],
            attention_dtype=dtype_name(value_of(products[0]).dtype),
            input_scales=(mapping_scale, *self.scales) if any(self.scales) else (),
            first_token_only=bool(first_tokens),
        )
        mask = self.mask(self.same["the mask"][0])
        self.close(hidden)
        return EncoderGraph(embedded, mask, hidden, first_tokens, mapping, tuple(layers), settings)

    def check_dtypes(self, mapping: LinearNodes, product: Node) -> None:
        """Refuse combinations of dtypes that the op has no arithmetic for."""
        dtype, attention = self.same["the weights' dtype"][0], value_of(product).dtype
        self.expect(dtype in (attention, torch.int8), product, str(attention), f"the weights' dtype, {dtype}")
        alone = mapping.scale is not None and dtype != torch.int8
        self.expect(not alone, mapping.weight, "int8 with layers that are not", "int8 in the encoder as well")

    def one_pass(self, product: Node, hidden: Node) -> tuple[Node, LayerNodes]:
        """Follow a pass back from its two LayerNorms to its attention; returns its result and its layer."""
        behind = [norm for norm in self.norms if self.place[norm] > self.place[product]][:2]
        if len(behind) < 2:
            refuse(product, f"followed by {len(behind)} LayerNorms", "the two of its pass")
        attended, result = behind
        summed, attention_norm = self.norm(attended)
        dense = self.other_summand(summed, hidden)
        (query, key, value), scale = self.attention(product, hidden)
        context, dense_scale, dense_nodes = self.read_linear(dense)
        self.heads_together(context, product)
        summed, output_norm = self.norm(result)
        ffn_output = self.other_summand(summed, attended)
        middle, output_scale, output_nodes = self.read_linear(ffn_output)
        ffn = self.before_activation(middle)
        source, ffn_scale, ffn_nodes = self.read_linear(ffn)
        self.expect(source is attended, ffn, f"reading {source.name}", f"{attended.name}, its pass's first LayerNorm")
        self.scales += [scale, dense_scale, ffn_scale, output_scale]
        layer = LayerNodes(query, key, value, dense_nodes, attention_norm, ffn_nodes, output_nodes, output_norm)
        for linear in (query, key, value, dense_nodes, ffn_nodes, output_nodes):
            self.same_in_all("the weights' dtype", value_of(linear.weight).dtype, linear.weight)
        return result, layer

    def first_hidden(self, product: Node) -> Node:
        """What query, key and value of the first pass read: the map from embedding to hidden size."""
        source, _scale, _nodes = self.read_linear(self.heads_apart(argument(product, 0)))
        return self.is_a(source, "the map from embedding to hidden size", aten.linear.default)

    def attention(self, product: Node, hidden: Node) -> tuple[list[LinearNodes], float]:
        """Query, key and value of a pass, which all read ``hidden``, and the scale of what they read."""
        self.inside.add(product)
        bias = product.args[3] if len(product.args) > 3 else product.kwargs.get("attn_mask")
        named = [value for name, value in product.kwargs.items() if name not in ("scale", "attn_mask")]
        more = any(product.args[4:]) or any(named)
        self.expect(not more, product, "with dropout, causal or grouped", "attention with a mask alone")
        value = value_of(product)
        self.expect(value.dtype in (torch.float32, torch.bfloat16), product, str(value.dtype), "float32 or bfloat16")
        self.same_in_all("the mask", bias, product)
        self.same_in_all("the scale", product.kwargs.get("scale") or 1 / math.sqrt(int(value.shape[3])), product)
        self.same_in_all("the shape of heads", (int(value.shape[1]), int(value.shape[3]), value.dtype), product)
        found, scales = [], []
        for index in range(3):
            linear = self.heads_apart(argument(product, index))
            source, scale, nodes = self.read_linear(linear)
            self.expect(source is hidden, linear, f"reading {source.name}", f"{hidden.name}, the hidden state before")
            found.append(nodes)
            scales.append(scale)
            self.expect(scale == scales[0], linear, f"reading with scale {scale}", f"the query's, {scales[0]}")
            self.expect(nodes.factors is found[0].factors, linear, "smoothed by other factors", "those of the query")
        return found, scales[0]

    def other_summand(self, summed: Node, residual: Node) -> Node:
        """The linear map that ``residual`` is added to."""
        parts = [self.uncast(argument(summed, index)) for index in (0, 1)]
        found = f"the sum of {parts[0].name} and {parts[1].name}"
        self.expect(residual in parts, summed, found, f"one of them to be {residual.name}")
        return self.is_a(parts[1 - parts.index(residual)], "a linear map", aten.linear.default)

    def close(self, last: Node) -> None:
        """Refuse readers outside of what the op computes but the last hidden state's."""
        for node in self.inside - {last}:
            for user in node.users:
                if user not in self.inside and user.target is not aten._assert_tensor_metadata.default:
                    refuse(node, f"read by {user.name}", "nobody outside the encoder: hidden states are not kept")


def _first_tokens(last: Node) -> tuple[Node, ...]:
    """The nodes that select the first token, where nobody reads anything else of the last hidden state."""
    found, left = [], list(last.users)
    while left:
        user = left.pop()
        if user.target is aten.to.dtype:
            left += user.users
        elif user.target is aten.select.int and user.args[1:] == (1, 0):
            found.append(user)
        else:
            return ()
    return tuple(found)
