"""Linear maps on CPU: pack each weight once for oneDNN in the graph itself, and decide by measuring whether it pays.

A compiler that packs weights by itself packs the shared layer's once per use: twelve copies of ALBERT-base. Here the
graph says it explicitly: one packing op per weight, whose result every pass uses. The compiler folds the packing op
into a constant, so the file holds each weight once, in the packed layout.

Whether oneDNN's packed GEMM is faster than the plain one (MKL) depends on the CPU: clearly on AMD Zen 5, not on Zen 3.
So it is measured where the engine is built.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.nn import functional as F

aten, mkldnn = torch.ops.aten, torch.ops.mkldnn

PACKED_PAYS_FROM = 1.05
"""Packed weights are chosen when they are at least this much faster: they cost portability between CPUs."""
_MAX_TOKENS = 512
_ROUNDS = 5


@dataclass(frozen=True)
class LinearWeight:
    """One weight that every use of reads as a linear map: its placeholder's name, ``[out, in]``, number of uses."""

    name: str
    out_features: int
    in_features: int
    uses: int


def packable_weights(program: ExportedProgram) -> list[LinearWeight]:
    """Float32 and bfloat16 parameters that nothing but ``aten.linear`` uses, as its weight.

    A word table that is also the decoder has another use, so it is left alone and stays one tensor in the file.
    """
    parameters = program.graph_signature.inputs_to_parameters
    found = []
    for node in program.graph.nodes:
        if node.op != "placeholder" or node.name not in parameters or not node.users:
            continue
        value = node.meta["val"]
        if value.dim() != 2 or value.dtype not in (torch.float32, torch.bfloat16):
            continue
        if all(user.target is aten.linear.default and user.args.index(node) == 1 for user in node.users):
            out_features, in_features = value.shape
            found.append(LinearWeight(node.name, int(out_features), int(in_features), len(node.users)))
    return found


def is_available() -> bool:
    """Whether this torch has oneDNN's packed linear."""
    return torch.backends.mkldnn.is_available() and hasattr(mkldnn, "_linear_pointwise")


def measure_speedup(weights: list[LinearWeight], tokens: int, dtype: torch.dtype) -> float:
    """How many times faster the passes' linear maps are with packed weights, on this CPU and its threads now.

    Takes the best of a few interleaved rounds of each distinct shape, weighted by its uses, on at most 512 tokens.
    """
    plain_s = packed_s = 0.0
    shapes: dict[tuple[int, int], int] = {}
    for weight in weights:
        shape = (weight.out_features, weight.in_features)
        shapes[shape] = shapes.get(shape, 0) + weight.uses
    with torch.inference_mode():
        for (out_features, in_features), uses in shapes.items():
            x = torch.randn(min(tokens, _MAX_TOKENS), in_features).to(dtype)
            w, bias = torch.randn(out_features, in_features).to(dtype), torch.randn(out_features).to(dtype)
            plain, packed = _interleaved_best(_plain(x, w, bias), _packed(x, w, bias))
            plain_s, packed_s = plain_s + uses * plain, packed_s + uses * packed
    return plain_s / packed_s if packed_s else 1.0


def pack_weights(program: ExportedProgram) -> ExportedProgram:
    """Rewrite every linear map over ``packable_weights`` to oneDNN's packed form; a GELU behind it moves into it.

    The program given is not changed; the new one shares its tensors. It is for lowering with constant folding on: run
    as it is, it packs at every call.
    """
    _register_fakes()
    graph_module = copy.deepcopy(program.graph_module)
    graph = graph_module.graph
    names = {weight.name for weight in packable_weights(program)}
    packed: dict[Node, Node] = {}
    last_placeholder = [node for node in graph.nodes if node.op == "placeholder"][-1]
    for placeholder in [node for node in graph.nodes if node.op == "placeholder" and node.name in names]:
        with graph.inserting_after(last_placeholder):
            op = graph.call_function(mkldnn._reorder_linear_weight.default, (placeholder,))
        op.meta["val"] = placeholder.meta["val"]
        packed[placeholder] = op
    signature = copy.deepcopy(program.graph_signature)
    for node in list(graph.nodes):
        if node.target is aten.linear.default and node.args[1] in packed:
            signature.replace_all_uses(*_replace_linear(graph_module, node, packed[node.args[1]]))
    graph_module.recompile()
    return ExportedProgram(
        root=graph_module,
        graph=graph,
        graph_signature=signature,
        state_dict=program.state_dict,
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants=program.constants,
    )


def _replace_linear(graph_module: GraphModule, node: Node, packed: Node) -> tuple[str, str]:
    """``linear(x, w, b)`` -> reshape to 2-D, packed linear, reshape back; the compiler wants two dimensions here.

    Returns the names of the node that is gone and of the one that stands in its place.
    """
    graph = graph_module.graph
    x, weight, bias = node.args[0], node.args[1], node.args[2] if len(node.args) > 2 else None
    assert isinstance(x, Node) and isinstance(weight, Node)
    last, attribute, algorithm = node, "none", ""
    users = list(node.users)
    if len(users) == 1 and users[0].target is aten.gelu.default:
        last, attribute = users[0], "gelu"
        algorithm = str(last.kwargs.get("approximate", last.args[1] if len(last.args) > 1 else "none"))
    out_features, in_features = (int(size) for size in weight.meta["val"].shape)
    leading = x.meta["val"].dim() - 1
    with graph.inserting_before(node):
        sizes = [_call(graph, aten.sym_size.int, x, index) for index in range(leading)]
        rows = x if leading == 1 else _call(graph, aten.reshape.default, x, [-1, in_features])
        y = _call(graph, mkldnn._linear_pointwise.default, rows, packed, bias, attribute, [], algorithm)
        result = y if leading == 1 else _call(graph, aten.reshape.default, y, [*sizes, out_features])
    result.meta["val"] = last.meta["val"]
    last.replace_all_uses_with(result)
    replaced = last.name
    graph.erase_node(last)
    if last is not node:
        graph.erase_node(node)
    return replaced, result.name


def _call(graph: torch.fx.Graph, op: Callable[..., object], *args: object) -> Node:
    """A node that calls ``op``, with the fake value that the rest of the graph is checked against."""
    node = graph.call_function(op, args)  # type: ignore[arg-type]

    def value(argument: object) -> object:
        if isinstance(argument, Node):
            return argument.meta["val"]
        return [value(item) for item in argument] if isinstance(argument, list) else argument

    node.meta["val"] = op(*(value(argument) for argument in args))
    return node


def _register_fakes() -> None:
    """torch 2.13 has no fake kernel for the packing op; its packed tensor passes for one of the weight's own shape."""
    name = "mkldnn::_reorder_linear_weight"
    if not torch._C._dispatch_has_kernel_for_dispatch_key(name, "Meta") and name not in _registered:
        torch.library.register_fake(name, lambda weight, batch_size=None: torch.empty_like(weight))
        _registered.add(name)


_registered: set[str] = set()


def _plain(x: Tensor, weight: Tensor, bias: Tensor) -> Callable[[], Tensor]:
    return lambda: F.linear(x, weight, bias)


def _packed(x: Tensor, weight: Tensor, bias: Tensor) -> Callable[[], Tensor]:
    packed = mkldnn._reorder_linear_weight(weight)
    return lambda: mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


def _interleaved_best(first: Callable[[], Tensor], second: Callable[[], Tensor]) -> tuple[float, float]:
    """Best seconds of two functions, called in turn; the first call of each is not counted."""
    best = [float("inf"), float("inf")]
    for round_index in range(_ROUNDS + 1):
        for index, function in enumerate((first, second)):
            started = time.perf_counter()
            function()
            if round_index:
                best[index] = min(best[index], time.perf_counter() - started)
    return best[0], best[1]
