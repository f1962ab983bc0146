"""int8: the captured graph with quantize and dequantize operations (Q/DQ) around its matrix products.

    weight   int8 ``[out, in]``, symmetric, one scale an output channel, one copy for all passes
    input    int8, symmetric, one scale a tensor and pass

Backends read the pair before a ``linear`` as the permission to multiply int8 by int8: TensorRT and ONNX Runtime as it
stands; on x86 with zero point 128, which holds the same numbers.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers torch.ops.quantized_decomposed
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.fx import Graph, Node

from albert_fast.precision import fp32, half
from albert_fast.precision.folding import folded, with_tensors
from albert_fast.precision.policy import aten
from albert_fast.precision.quantization import Quantization
from albert_fast.precision.sites import Site
from albert_fast.precision.sites import sites as all_sites

QMAX = 127
REST_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
qd = torch.ops.quantized_decomposed
Call = Callable[..., Node]
"""``(op, arguments, keywords)`` -> a new node of the graph that is edited."""


@dataclass(frozen=True)
class Grid:
    """The numbers that values are rounded to, and how a graph says so.

    Attributes:
        name: of the precision.
        dtype: of a quantized weight in the program.
        qmax: the largest of its numbers; a scale is a range divided by it.
        stored: float32 weight ``[out, in]`` -> the same in ``dtype``, and the float32 scale of each output channel.
        pair: adds the nodes that round a float32 value: ``(call, value, scale, dtype of the result)``.
        whole: adds the nodes that dequantize a weight: ``(call, weight, scales, dtype of the result)``.
    """

    name: str
    dtype: torch.dtype
    qmax: float
    stored: Callable[[Tensor], tuple[Tensor, Tensor]]
    pair: Callable[[Call, Node, float, torch.dtype], Node]
    whole: Callable[[Call, Node, Node, torch.dtype], Node]


def prepare(
    program: ExportedProgram,
    dtype: torch.dtype,
    keep_float32: Sequence[str] = (),
    quantization: Quantization | None = None,
) -> ExportedProgram:
    """Return a program of the same inputs, outputs and shapes whose quantized matrix products read int8.

    Each quantized value goes through ``quantized_decomposed.quantize_per_tensor`` and ``dequantize_per_tensor``, with
    the scale of its pass as a constant; each quantized weight is int8 in the program, and dequantized once, by
    ``dequantize_per_channel``, for all its readers. A quantized word table is looked up in int8. The program given is
    not changed.

    Args:
        program: as captured, in float32.
        dtype: ``torch.int8``.
        keep_float32: as in ``half.prepare``, where the rest is in 16 bits.
        quantization: what to quantize and with which scales; required.
    Raises:
        ValueError: there is no quantization, or it does not fit this program; the message says why.
    """
    return on_grid(INT8, program, keep_float32, quantization)


def on_grid(
    grid: Grid, program: ExportedProgram, keep_float32: Sequence[str], quantization: Quantization | None
) -> ExportedProgram:
    """``prepare`` for any grid."""
    fp32.prepare(program, torch.float32)
    if quantization is None:
        raise ValueError(f"{grid.name} needs scales: calibrate on text of yours and give the scales file")
    sites = quantization.sites(program)
    program, scales = folded(program, quantization.scales)
    quantization = dataclasses.replace(quantization, scales=scales)
    rest = REST_DTYPES[quantization.rest]
    if rest is torch.float32:
        typed = with_tensors(program, program.state_dict)
    else:
        typed = half.prepare(program, rest, keep_float32)
    editor = _Editor(grid, typed, program, quantization, rest)
    for weight in dict.fromkeys(site.weight for site in sites):
        if weight is not None:
            editor.quantize_weight(weight, next(s.tensor for s in sites if s.weight == weight))
    if "embeddings" in quantization.parts:
        editor.quantize_table()
    weights = {site.weight for site in sites}
    for site in all_sites(program):
        if site in sites:
            editor.quantize_input(site)
        elif site.weight in weights:
            editor.smooth_input(site)
    return editor.finished()


def quantized_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A float32 weight ``[out, in]`` as int8 and its float32 scale of each output channel ``[out]``."""
    amax = weight.abs().amax(1)
    scale = torch.where(amax > 0, amax, torch.ones_like(amax)) / QMAX
    return (weight / scale[:, None]).round().clamp(-QMAX, QMAX).to(torch.int8), scale


def _pair(call: Call, value: Node, scale: float, dtype: torch.dtype) -> Node:
    arguments = (scale, 0, -QMAX, QMAX, torch.int8)
    quantized = call(qd.quantize_per_tensor.default, (value, *arguments))
    return call(qd.dequantize_per_tensor.default, (quantized, *arguments), _out_dtype(dtype))


def _whole(call: Call, weight: Node, scales: Node, dtype: torch.dtype) -> Node:
    arguments = (weight, scales, None, 0, -QMAX, QMAX, torch.int8)
    return call(qd.dequantize_per_channel.default, arguments, _out_dtype(dtype))


def _out_dtype(dtype: torch.dtype) -> dict[str, Any]:
    return {} if dtype == torch.float32 else {"out_dtype": dtype}


INT8 = Grid("int8", torch.int8, QMAX, quantized_weight, _pair, _whole)


class _Editor:
    """Edits the typed graph in place; ``exact`` is the float32 program that the weights are taken from."""

    def __init__(
        self, grid: Grid, typed: ExportedProgram, exact: ExportedProgram, quantization: Quantization, rest: torch.dtype
    ) -> None:
        self.grid, self.typed, self.exact, self.rest = grid, typed, exact, rest
        self.scales = quantization.scales
        self.graph: Graph = typed.graph_module.graph
        self.signature = copy.deepcopy(typed.graph_signature)
        self.tensors: dict[str, Any] = dict(typed.state_dict)
        self.nodes = {node.name: node for node in self.graph.nodes}
        self._inputs: dict[tuple[Node, float], Node] = {}
        self._factors: dict[str, Node] = {}

    def quantize_weight(self, name: str, tensor: str) -> None:
        """Store a weight on the grid and let every reader have the dequantized one, the word table's lookup too."""
        exact = self.exact.state_dict[name]
        smoothing = self.scales.smoothing.get(tensor)
        weight = exact.detach().to(torch.float32)
        if smoothing is not None:
            weight = weight * torch.tensor(smoothing, device=weight.device)
        stored, scale = self.grid.stored(weight)
        shared = [
            n for n, t in self.exact.state_dict.items() if t.data_ptr() == exact.data_ptr() and t.shape == exact.shape
        ]
        for one in shared:  # a tied decoder's weight has two names
            self.tensors[one] = nn.Parameter(stored, requires_grad=False)
        placeholder = self._placeholder(name)
        fake = placeholder.meta["val"]
        placeholder.meta["val"] = torch.empty_like(fake, dtype=self.grid.dtype)
        readers = list(placeholder.users)
        scales = self._add_parameter(placeholder, f"{name}_scale", scale)
        lookups = [reader for reader in readers if reader.target is aten.embedding.default]
        if lookups and smoothing is not None:
            raise ValueError(
                f"the scales smooth {tensor}, but its weight {name} is looked up as well, and what is looked up would "
                "come out multiplied; leave that tensor out of smoothing"
            )
        if len(lookups) < len(readers):
            with self.graph.inserting_before(self._first_op()):
                whole = self.grid.whole(self._call, placeholder, scales, self.rest)
            for reader in readers:
                if reader not in lookups:
                    reader.replace_input_with(placeholder, whole)
        for lookup in lookups:
            self._dequantize_rows(lookup, scales)

    def quantize_table(self) -> None:
        """The word table, which no linear map reads unless it is the decoder too."""
        parameters = self.typed.graph_signature.inputs_to_parameters
        for node in self.graph.nodes:
            if node.target is aten.embedding.default and "word_embeddings" in parameters.get(node.args[0].name, ""):
                name = parameters[node.args[0].name]
                if self.tensors[name].dtype != self.grid.dtype:
                    self.quantize_weight(name, "")
                return

    def quantize_input(self, site: Site) -> None:
        """Put the pair in front of a reader; readers of one value with one scale share it."""
        reader = self.nodes[site.node]
        source = reader.args[site.argument]
        assert isinstance(source, Node)
        wanted = source.meta["val"].dtype
        rounded = source
        if source.target is aten.to.dtype and source.args[0].meta["val"].dtype == torch.float32:  # type: ignore[union-attr]
            source = source.args[0]  # type: ignore[assignment]  # rounded from the exact value, not from 16 bits
        scale = self.scales.amax[site.tensor][site.pass_index] / self.grid.qmax
        if (source, scale) not in self._inputs:
            with self.graph.inserting_before(source.next):
                exact = self._smoothed(self._in_float32(source), site.tensor)
                self._inputs[source, scale] = self.grid.pair(self._call, exact, scale, wanted)
        reader.update_arg(site.argument, self._inputs[source, scale])
        if rounded is not source and not rounded.users:
            self.graph.erase_node(rounded)

    def smooth_input(self, site: Site) -> None:
        """Divide what a kept pass reads as well: its weight has been multiplied for all passes."""
        reader = self.nodes[site.node]
        source = reader.args[site.argument]
        assert isinstance(source, Node)
        if site.tensor in self.scales.smoothing:
            with self.graph.inserting_before(source.next):
                smooth = self._smoothed(self._in_float32(source), site.tensor)
                wanted = source.meta["val"].dtype
                value = smooth if wanted == torch.float32 else self._call(aten.to.dtype, (smooth, wanted))
            reader.update_arg(site.argument, value)

    def finished(self) -> ExportedProgram:
        """The program, with its module compiled anew."""
        self.typed.graph_module.recompile()
        return ExportedProgram(
            root=self.typed.graph_module,
            graph=self.graph,
            graph_signature=self.signature,
            state_dict=self.tensors,
            range_constraints=self.typed.range_constraints,
            module_call_graph=self.typed.module_call_graph,
            example_inputs=self.typed.example_inputs,
            constants=self.typed.constants,
        )

    def _in_float32(self, source: Node) -> Node:
        """What is rounded. Quantize takes 16 bits too, but its fake kernel then fixes dynamic sizes (torch 2.13)."""
        if source.meta["val"].dtype == torch.float32:
            return source
        return self._call(aten.to.dtype, (source, torch.float32))

    def _smoothed(self, source: Node, tensor: str) -> Node:
        """The value divided by the smoothing of its channels, where the scales have one."""
        numbers = self.scales.smoothing.get(tensor)
        if numbers is None:
            return source
        if tensor not in self._factors:
            last = [node for node in self.graph.nodes if node.name in self.signature.inputs_to_parameters][-1]
            factors = 1 / torch.tensor(numbers, device=next(iter(self.exact.state_dict.values())).device)
            self._factors[tensor] = self._add_parameter(last, f"{tensor}_smoothing", factors)
        return self._call(aten.mul.Tensor, (source, self._factors[tensor]))

    def _dequantize_rows(self, lookup: Node, scales: Node) -> None:
        """``table[ids]`` on the grid, times the scale of each row."""
        users = list(lookup.users)
        lookup.meta["val"] = torch.empty_like(lookup.meta["val"], dtype=self.grid.dtype)
        with self.graph.inserting_before(lookup.next):
            column = self._call(aten.unsqueeze.default, (scales, 1))
            rows = self._call(aten.embedding.default, (column, lookup.args[1]))
            numbers = self._call(aten.to.dtype, (lookup, torch.float32))
            exact = self._call(aten.mul.Tensor, (numbers, rows))
            value = exact if self.rest == torch.float32 else self._call(aten.to.dtype, (exact, self.rest))
        for user in users:
            user.replace_input_with(lookup, value)

    def _add_parameter(self, after: Node, name: str, value: Tensor) -> Node:
        """A new weight of the program, behind another one."""
        with self.graph.inserting_after(after):
            node = self.graph.placeholder("p_" + name.replace(".", "_").lower())
        mode = after.meta["val"].fake_mode
        node.meta["val"] = mode.from_tensor(value, static_shapes=True)
        self.tensors[name] = nn.Parameter(value, requires_grad=False)
        specs = self.signature.input_specs
        index = next(i for i, spec in enumerate(specs) if spec.arg.name == after.name)
        specs.insert(index + 1, InputSpec(InputKind.PARAMETER, TensorArgument(node.name), name))
        return node

    def _placeholder(self, parameter: str) -> Node:
        nodes = self.signature.inputs_to_parameters
        return self.nodes[next(node for node, name in nodes.items() if name == parameter)]

    def _first_op(self) -> Node:
        return next(node for node in self.graph.nodes if node.op == "call_function")

    def _call(self, op: Any, arguments: tuple[Any, ...], keywords: dict[str, Any] | None = None) -> Node:
        node = self.graph.call_function(op, arguments, keywords or {})
        node.meta["val"] = op(*torch.fx.map_arg(arguments, lambda n: n.meta["val"]), **(keywords or {}))
        return node
