"""A quantized program without building it: the typed graph runs, and chosen sites are rounded to int8 on the way.

What is asked of an int8 program before it is settled which sites it keeps can be asked of this: any choice of sites
runs over one graph and one rounded copy of each weight, and gives the numbers of ``int8.prepare`` with that choice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node
from torch.utils._pytree import tree_unflatten

from albert_fast.batch import Batch
from albert_fast.precision import fp32, half
from albert_fast.precision.folding import folded
from albert_fast.precision.int8 import QMAX, REST_DTYPES, qd, quantized_weight
from albert_fast.precision.policy import aten
from albert_fast.precision.quantization import Quantization
from albert_fast.precision.running import GraphRunner
from albert_fast.precision.sites import Site
from albert_fast.precision.sites import sites as all_sites

Outputs = dict[str, Tensor]


class Simulation:
    """Runs a program as ``int8.prepare`` would make it, with any choice of the quantized sites.

    Args:
        program: as captured, in float32.
        quantization: its ``keep`` stays as it is in every choice.
        keep_float32: as in ``half.prepare``.
    Attributes:
        places: ``tensor@pass`` of all that is quantized, in the order of the graph.
    Raises:
        ValueError: as ``int8.prepare``.
    """

    def __init__(self, program: ExportedProgram, quantization: Quantization, keep_float32: Sequence[str] = ()) -> None:
        fp32.prepare(program, torch.float32)
        quantized = quantization.sites(program)
        program, self._scales = folded(program, quantization.scales)
        rest = REST_DTYPES[quantization.rest]
        self._typed = program if rest is torch.float32 else half.prepare(program, rest, keep_float32)
        self._exact, self._rest = program, rest
        self._sites = quantized
        self._tables = _word_tables(program) if "embeddings" in quantization.parts else frozenset()
        self._rounded: dict[str, Tensor] = {}
        self._factors = {
            tensor: 1 / torch.tensor(numbers, device=next(iter(program.state_dict.values())).device)
            for tensor, numbers in self._scales.smoothing.items()
        }
        self.readers: dict[str, list[Site]] = {}
        for site in all_sites(program):
            self.readers.setdefault(site.node, []).append(site)
        nodes = {node.name: node for node in self._typed.graph.nodes}
        self.sources: dict[Node, list[Site]] = {}
        for site in {site.place: site for site in quantized}.values():
            self.sources.setdefault(_source(nodes[site.node].args[site.argument]), []).append(site)
        self.places = tuple(dict.fromkeys(site.place for site in quantized))

    def run(self, batch: Batch, keep: Collection[str] = ()) -> Outputs:
        """The outputs by name, when the sites of these places stay unrounded; a weight that no other reads, too."""
        rounded = frozenset(self.places).difference(keep)
        return _Runner(self, self._typed, rounded, self.weights(rounded)).run_batch(batch)

    def run_weights_only(self, batch: Batch) -> Outputs:
        """The outputs when every weight is rounded and nothing else."""
        return _Runner(self, self._typed, frozenset(), self.weights(self.places)).run_batch(batch)

    def run_each_alone(self, batch: Batch, tell: Callable[[str, Outputs], None]) -> None:
        """For every place the outputs when every weight is rounded, and that place alone beside them.

        Everything before a place is computed once for all places behind it.

        Args:
            tell: told each place with its outputs.
        """
        _Forking(self, self._typed, self.weights(self.places), tell).run_batch(batch)

    def weights(self, rounded: Collection[str]) -> dict[str, Tensor]:
        """The weights that are int8 when these places are rounded, dequantized, by their names."""
        tensors = {site.weight: site.tensor for site in self._sites if site.place in rounded and site.weight}
        tensors.update({name: tensors.get(name, "") for name in self._tables})
        return {name: self._dequantized(name, tensor) for name, tensor in tensors.items()}

    def rounded(self, site: Site, value: Tensor) -> Tensor:
        """A value through the pair of its site, in float32 or the rest's dtype."""
        scale = self._scales.amax[site.tensor][site.pass_index] / QMAX
        arguments = (scale, 0, -QMAX, QMAX, torch.int8)
        quantized = qd.quantize_per_tensor(self.smoothed(site, value.to(torch.float32)), *arguments)
        pair: Tensor = qd.dequantize_per_tensor(quantized, *arguments, out_dtype=self._rest)
        return pair

    def smoothed(self, site: Site, value: Tensor) -> Tensor:
        """A float32 value divided by the smoothing of its channels, where the scales have one."""
        factors = self._factors.get(site.tensor)
        return value if factors is None else value * factors

    def _dequantized(self, name: str, tensor: str) -> Tensor:
        if name not in self._rounded:
            weight = self._exact.state_dict[name].detach().to(torch.float32)
            numbers = self._scales.smoothing.get(tensor)
            if numbers is not None:
                weight = weight * torch.tensor(numbers, device=weight.device)
            int8, scale = quantized_weight(weight)
            self._rounded[name] = qd.dequantize_per_channel(
                int8, scale, None, 0, -QMAX, QMAX, torch.int8, out_dtype=self._rest
            )
        return self._rounded[name]


class _Runner(GraphRunner):
    """The typed graph with some places rounded and some weights replaced."""

    def __init__(
        self, simulation: Simulation, typed: ExportedProgram, rounded: frozenset[str], weights: dict[str, Tensor]
    ) -> None:
        super().__init__(typed)
        self.simulation, self.typed = simulation, typed
        self._places, self._weights = rounded, weights
        self._parameters = typed.graph_signature.inputs_to_parameters
        self._pairs: dict[str, Tensor] = {}

    def run_node(self, n: Node) -> Any:
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        read = list(args)
        for site in self.simulation.readers.get(n.name, ()):
            read[site.argument] = self._input(site, read[site.argument])
        value = getattr(self, n.op)(n.target, tuple(read), kwargs)
        if n.op == "placeholder":
            return self._weights.get(self._parameters.get(n.name, ""), value)
        self.look_at(n, value)
        return value

    def look_at(self, n: Node, value: Any) -> None:
        """Round a value for the places that read it, as soon as it is there: it may be gone when they come."""
        for site in self.simulation.sources.get(n, ()):
            if site.place in self._places:
                self._pairs[site.place] = self.simulation.rounded(site, value)

    def _input(self, site: Site, value: Tensor) -> Tensor:
        if site.place in self._places:
            return self._pairs[site.place]
        if site.weight in self._weights:  # it has been multiplied for all passes
            return self.simulation.smoothed(site, value.to(torch.float32)).to(value.dtype)
        return value


class _Forking(_Runner):
    """Runs with nothing rounded but weights, and from each place on once more with that place rounded."""

    def __init__(
        self,
        simulation: Simulation,
        typed: ExportedProgram,
        weights: dict[str, Tensor],
        tell: Callable[[str, Outputs], None],
    ) -> None:
        super().__init__(simulation, typed, frozenset(), weights)
        self._tell = tell
        self._order = list(typed.graph.nodes)

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        for site in self.simulation.sources.get(n, ()):
            branch = _Runner(self.simulation, self.typed, frozenset({site.place}), self._weights)
            branch.look_at(n, value)
            done: dict[Node, Any] = dict.fromkeys(self._order[: self._order.index(n)])  # not run again, read or not
            outputs = branch.run(initial_env={**done, **self.env, n: value})
            out_spec = self.typed.call_spec.out_spec
            assert out_spec is not None
            self._tell(site.place, tree_unflatten(list(outputs), out_spec))
        return value


def _source(node: Any) -> Node:
    """The value itself where the graph reads it in 16 bits: int8 is rounded from the exact one."""
    assert isinstance(node, Node)
    if node.target is aten.to.dtype:
        source = node.args[0]
        assert isinstance(source, Node)
        if source.meta["val"].dtype == torch.float32:
            return source
    return node


def _word_tables(program: ExportedProgram) -> frozenset[str]:
    names = program.graph_signature.inputs_to_parameters
    tables = (names.get(n.args[0].name, "") for n in program.graph.nodes if n.target is aten.embedding.default)
    return frozenset(name for name in tables if "word_embeddings" in name)
