"""Where a captured graph can be quantized: what its linear maps and attention products read, tensor by tensor and pass.

The passes are unrolled in the graph, so the one shared weight has a node for each pass, and what that node reads has a
range of its own. A tensor's name is its reader's module and ``.input``: ``...attention.input`` is what query, key and
value read, ``...ffn_output.input`` what comes out of the activation.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass

from torch.export import ExportedProgram
from torch.fx import Node

from albert_fast.precision.policy import aten

PARTS = {
    "encoder": "the linear maps of the shared layer, in every pass",
    "embeddings": "the word table, and the map from embedding size to hidden size",
    "heads": "the linear maps behind the encoder",
    "attention": "attention's two matrix products, in a graph that has them (attention='eager')",
}
_LAYER = ".albert_layers."
_MAPPING_IN = "encoder.embedding_hidden_mapping_in"


@dataclass(frozen=True)
class Site:
    """One value as one op reads it.

    Attributes:
        node, argument: name of the reading node, and the place of the value among its arguments.
        tensor: the value's name, the same in all passes.
        pass_index: how many times the tensor came before in the graph: with one shared layer the number of the pass.
        part: row of ``PARTS``.
        weight: name of the weight that the value is multiplied with, as in the program's state dict; None in attention.
    """

    node: str
    argument: int
    tensor: str
    pass_index: int
    part: str
    weight: str | None

    @property
    def place(self) -> str:
        """``tensor@pass``, as ``matches`` reads it."""
        return f"{self.tensor}@{self.pass_index}"


def sites(program: ExportedProgram) -> list[Site]:
    """Every site of a captured program, in the order of its graph; those that read the same value stand together."""
    parameters = program.graph_signature.inputs_to_parameters
    found: list[Site] = []
    passes: Counter[str] = Counter()
    readers = _readers(program)
    seen: set[Node] = set()
    layer, products = "", 0
    for node in program.graph.nodes:
        if node in readers and node not in seen:
            group = readers[node]
            seen.update(group)
            weights = [parameters[_placeholder(reader)] for reader in group]
            tensor = f"{_module_of(weights)}.input"
            for reader, weight in zip(group, weights, strict=True):
                found.append(Site(reader.name, 0, tensor, passes[tensor], _part(weight), weight))
            passes[tensor] += 1
            if _LAYER in tensor and tensor.endswith(".attention.input"):
                layer, products = tensor.removesuffix(".input"), 0
        elif node.target is aten.matmul.default and layer:
            names = (("query.output", "key.output"), ("probabilities", "value.output"))[products]
            for argument, name in enumerate(names):
                tensor = f"{layer}.{name}"
                found.append(Site(node.name, argument, tensor, passes[tensor], "attention", None))
                passes[tensor] += 1
            products += 1
    return found


def canonical(name: str) -> str:
    """A parameter's name without what heads and the tracer put before it: ``encoder.embedding_hidden_mapping_in``."""
    return name.removeprefix("model.").removeprefix("albert.")


def matches(site: Site, patterns: tuple[str, ...]) -> bool:
    """Whether one of the patterns names the site: the end of its tensor's name, and ``@pass`` or nothing for all."""
    for pattern in patterns:
        tensor, _, pass_index = pattern.partition("@")
        if f".{site.tensor}".endswith(f".{tensor}") and pass_index in ("", str(site.pass_index)):
            return True
    return False


def _readers(program: ExportedProgram) -> dict[Node, list[Node]]:
    """Every linear map over a parameter -> all linear maps that read the same value, itself among them."""
    parameters = program.graph_signature.inputs_to_parameters
    by_source: dict[Node, list[Node]] = {}
    for node in program.graph.nodes:
        if node.target is aten.linear.default and _placeholder(node) in parameters:
            by_source.setdefault(node.args[0], []).append(node)
    return {node: group for group in by_source.values() for node in group}


def _placeholder(linear: Node) -> str:
    weight = linear.args[1]
    assert isinstance(weight, Node)
    return weight.name


def _module_of(weights: list[str]) -> str:
    """The module that owns all of these weights: of query, key and value their attention."""
    modules = [canonical(name).removesuffix(".weight") for name in weights]
    return (
        modules[0]
        if len(modules) == 1
        else os.path.commonpath([m.replace(".", "/") for m in modules]).replace("/", ".")
    )


def _part(weight: str) -> str:
    if _LAYER in weight:
        return "encoder"
    return "embeddings" if canonical(weight).startswith(_MAPPING_IN) else "heads"
