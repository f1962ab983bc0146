"""The parts of a pass of ALBERT in a typed graph, read one by one: linear maps with their Q/DQ pairs, LayerNorms,
heads, activations, the mask. What is not as it should be is refused in one sentence that names the node.

Casts between float32 and bfloat16 are looked through: the encoder op keeps in float32 what the graph rounds in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers torch.ops.quantized_decomposed
from torch.fx import Node

from albert_fast.encoder_op import QMAX
from albert_fast.engine.linear_groups import argument, gelu_algorithm
from albert_fast.engine.rewriting import value_of
from albert_fast.errors import EngineError

aten, qd = torch.ops.aten, torch.ops.quantized_decomposed

INSTEAD = "choose the format aotinductor or exported_program, which take every graph"
_RESHAPES = (aten.view.default, aten.reshape.default, aten._unsafe_view.default)
_KNOWN_ACTIVATIONS = "GELU (gelu, gelu_new), relu, silu or none"


@dataclass(frozen=True)
class LinearNodes:
    """The placeholders of a linear map; ``scale`` and ``factors``, of its input's channels, are of an int8 weight."""

    weight: Node
    bias: Node
    scale: Node | None = None
    factors: Node | None = None


@dataclass(frozen=True)
class NormNodes:
    """The placeholders of a LayerNorm."""

    weight: Node
    bias: Node


@dataclass(frozen=True)
class LayerNodes:
    """Everything that a layer owns."""

    query: LinearNodes
    key: LinearNodes
    value: LinearNodes
    dense: LinearNodes
    attention_norm: NormNodes
    ffn: LinearNodes
    ffn_output: LinearNodes
    output_norm: NormNodes


class Parts:
    """Reads parts of one graph, and remembers.

    Attributes:
        inside: every node that has been read: those that the op will stand for.
        same: what all passes have in common, by name, and the node where it was seen first.
    """

    def __init__(self) -> None:
        self.inside: set[Node] = set()
        self.same: dict[str, tuple[Any, Node]] = {}

    def heads_apart(self, node: Node) -> Node:
        """The linear map behind ``linear -> view [B, S, N, H] -> transpose(1, 2)``."""
        node = self.is_a(node, "heads before tokens", aten.transpose.int)
        self.expect(node.args[1:] in ((1, 2), (2, 1)), node, f"transposing {node.args[1:]}", "1 and 2")
        view = self.is_a(argument(node, 0), "[batch, length, heads, head size]", *_RESHAPES)
        return self.is_a(self.uncast(argument(view, 0)), "a linear map", aten.linear.default)

    def heads_together(self, node: Node, product: Node) -> None:
        """Check ``product -> transpose(1, 2) -> reshape [B, S, D]``."""
        node = self.is_a(node, "[batch, length, hidden size]", *_RESHAPES)
        transpose = self.is_a(argument(node, 0), "tokens before heads", aten.transpose.int)
        source = self.uncast(argument(transpose, 0))
        right = transpose.args[1:] in ((1, 2), (2, 1)) and source is product
        self.expect(right, transpose, f"moving {source.name}", f"tokens of {product.name} before its heads")

    def read_linear(self, linear: Node) -> tuple[Node, float, LinearNodes]:
        """What a linear map reads, the scale of its Q/DQ pair (0.0 where it has none), and its placeholders."""
        self.inside.add(linear)
        weight, scale_node = argument(linear, 1), None
        if weight.target is qd.dequantize_per_channel.default:
            self.inside.add(weight)
            symmetric = bool(weight.args[2] is None and weight.args[3] == 0)
            self.expect(symmetric, weight, "with zero points or scales of columns", "a scale for each row alone")
            weight, scale_node = argument(weight, 0), argument(weight, 1)
        dtype = value_of(weight).dtype
        self.expect(weight.op == "placeholder", weight, "computed", "a weight of the program")
        fitting = dtype == torch.int8 if scale_node is not None else dtype in (torch.float32, torch.bfloat16)
        self.expect(fitting, weight, str(dtype), "float32, bfloat16 or int8")
        bias = linear.args[2] if len(linear.args) > 2 else None
        if not isinstance(bias, Node) or bias.op != "placeholder":
            refuse(linear, "without a bias of the program", "one")
        source, input_scale, factors = self.read_pair(self.uncast(argument(linear, 0)))
        if scale_node is not None and input_scale == 0.0:
            refuse(linear, "reading what is kept in floating point", "int8 in every pass: leave keep empty")
        self.expect(
            scale_node is not None or input_scale == 0.0, linear, "reading int8 with a weight that is not", "both int8"
        )
        return source, input_scale, LinearNodes(weight, bias, scale_node, factors)

    def read_pair(self, node: Node) -> tuple[Node, float, Node | None]:
        """What a Q/DQ pair rounds, its scale, and the factors of smoothing; the node itself, 0.0 and None without."""
        if node.target is not qd.dequantize_per_tensor.default:
            return node, 0.0, None
        self.inside.add(node)
        quantize = self.is_a(argument(node, 0), "the other half of a Q/DQ pair", qd.quantize_per_tensor.default)
        self.expect(quantize.args[2:5] == (0, -QMAX, QMAX), quantize, f"{quantize.args[2:5]}", "symmetric, +-127")
        scale = quantize.args[1]
        assert isinstance(scale, float)
        source = self.uncast(argument(quantize, 0))
        if source.target is not aten.mul.Tensor:
            return source, scale, None
        self.inside.add(source)
        factors = source.args[1]
        if not isinstance(factors, Node) or factors.op != "placeholder":
            refuse(source, f"a product with {factors}", "one with the factors of smoothing")
        return self.uncast(argument(source, 0)), scale, factors

    def norm(self, node: Node) -> tuple[Node, NormNodes]:
        """What a LayerNorm reads, and its placeholders."""
        self.inside.add(node)
        weight, bias, eps = argument(node, 2), argument(node, 3), node.args[4] if len(node.args) > 4 else 1e-5
        self.same_in_all("eps", eps, node)
        self.expect(weight.op == bias.op == "placeholder", node, "of computed weights", "a LayerNorm of the program")
        return self.is_a(self.uncast(argument(node, 0)), "a residual's sum", aten.add.Tensor), NormNodes(weight, bias)

    def before_activation(self, node: Node) -> Node:
        """The first linear map of a feed-forward, from what the second reads."""
        names: dict[Any, Callable[[Node], str]] = {
            aten.gelu.default: lambda gelu: "gelu_tanh" if gelu_algorithm(gelu) == "tanh" else "gelu",
            aten.relu.default: lambda _: "relu",
            aten.silu.default: lambda _: "silu",
            aten.linear.default: lambda _: "linear",
        }
        if node.target not in names:
            refuse(node, f"{called(node)}, the activation", _KNOWN_ACTIVATIONS)
        self.inside.add(node)
        self.same_in_all("the activation", names[node.target](node), node)
        if node.target is aten.linear.default:
            return node
        return self.is_a(self.uncast(argument(node, 0)), "a linear map", aten.linear.default)

    def mask(self, bias: Any) -> Node:
        """The mask ``[batch, length]`` that ``attention_bias`` has made its bias of."""
        if not isinstance(bias, Node):
            raise EngineError(f"the format native packs tokens by the mask, and this graph has none; {INSTEAD}")
        node = self.is_a(self.uncast(bias), "the mask's bias", aten.mul.Tensor)
        factor = node.args[1]
        self.expect(isinstance(factor, float) and factor < -1e4, node, f"times {factor}", "a large negative number")
        node = self.is_a(self.uncast(argument(node, 0)), "[batch, 1, 1, length]", aten.unsqueeze.default)
        node = self.is_a(argument(node, 0), "where the mask is 0", aten.eq.Scalar)
        self.expect(bool(node.args[1] == 0), node, f"equal to {node.args[1]}", "equal to 0")
        node = self.is_a(argument(node, 0), "[batch, 1, length]", aten.unsqueeze.default)
        mask = argument(node, 0)
        value = value_of(mask)
        self.expect(value.dtype == torch.int64 and value.dim() == 2, mask, f"{value.dtype}", "[batch, length] of int64")
        return mask

    def uncast(self, node: Node) -> Node:
        """What a node was before casts between float32 and bfloat16."""
        while node.target is aten.to.dtype and node.args[1] in (torch.float32, torch.bfloat16):
            self.inside.add(node)
            node = argument(node, 0)
        return node

    def is_a(self, node: Node, what: str, *targets: Callable[..., Any]) -> Node:
        """The node, after checking which op it calls."""
        names = " or ".join(str(target) for target in targets)
        self.expect(node.target in targets, node, called(node), f"{what}, {names}")
        self.inside.add(node)
        return node

    def expect(self, right: bool, node: Node, found: str, expected: str) -> None:
        if not right:
            refuse(node, found, expected)

    def same_in_all(self, what: str, value: Any, node: Node) -> None:
        """Check that all passes have one value."""
        first, where = self.same.setdefault(what, (value, node))
        if first != value:
            refuse(node, f"with {what} {value}", f"{first} as at {where.name}, for the op takes one")


def called(node: Node) -> str:
    """What a node is, in words."""
    return str(node.target) if node.op == "call_function" else f"a {node.op}"


def refuse(node: Node, found: str, expected: str) -> NoReturn:
    """Raise ``EngineError``: a node is ``found``, and ``expected`` was wanted."""
    raise EngineError(
        f"the format native computes the encoder as one op and cannot take this graph: {node.name} is {found}, "
        f"expected {expected}; or {INSTEAD}"
    )
