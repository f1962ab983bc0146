"""fp16 and bf16: the captured graph with its matrix products in 16 bits, its LayerNorms and softmaxes in float32."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Graph, Node

from albert_fast.precision import fp32
from albert_fast.precision.plan import Plan, decide
from albert_fast.precision.policy import Runs, aten, is_floating, is_mask_bias, needs_row, runs


def prepare(program: ExportedProgram, dtype: torch.dtype, keep_float32: Sequence[str] = ()) -> ExportedProgram:
    """Return a program of the same inputs, outputs and shapes that computes in ``dtype`` what ``policy.POLICY`` says.

    Weights are ``dtype``, those of LayerNorms float32; weights that share memory share it again. Inputs stay int64 and
    all outputs float32, so that an engine's caller sees no difference: NumPy reads them, bf16 or not. For masked-LM
    logits the last cast doubles what is written, ``[batch, length, vocab_size]`` numbers. The names of the graph's
    nodes stay; casts are added between them. The program given is not changed.

    Beside any token that is seen, a padded one weighs exactly 0, as in float32. A row of nothing but padding stays
    finite; in float16 with ``sdpa`` attention it weighs its tokens by their scores and not evenly, for a bias of -32752
    swallows no score.

    Args:
        program: as captured, in float32.
        dtype: ``torch.float16`` or ``torch.bfloat16``.
        keep_float32: names or patterns of tensors that are not rounded, see ``plan.decide``; those that do not fit
            float16 are found by ``ranges.overflowing``.
    Raises:
        ValueError: the program is not float32, an op has no row in the policy, a name fits nothing, or a number does
            not fit ``dtype``.
    """
    fp32.prepare(program, torch.float32)
    graph_module = copy.deepcopy(program.graph_module)
    graph = graph_module.graph
    for node in [node for node in graph.nodes if node.target is aten._assert_tensor_metadata.default]:
        graph.erase_node(node)  # it says what dtype its input had in float32
    plan = decide(graph, dtype, keep_float32)
    signature = copy.deepcopy(program.graph_signature)
    tensors = _Weights(program, plan)
    casts = _Casts(graph, plan)
    for node in list(graph.nodes):
        if needs_row(node):
            _retype(node, casts)
    for old, new in casts.of_outputs().items():
        signature.replace_all_uses(old, new)
    with torch.no_grad():
        _propagate(graph, plan)
    graph_module.recompile()
    return ExportedProgram(
        root=graph_module,
        graph=graph,
        graph_signature=signature,
        state_dict=tensors.converted(program.state_dict),
        range_constraints=program.range_constraints,
        module_call_graph=program.module_call_graph,
        example_inputs=program.example_inputs,
        constants=tensors.converted(program.constants),
    )


class _Casts:
    """The casts of a graph: each value is cast to a dtype at most once."""

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self.graph, self.plan = graph, plan
        self._made: dict[tuple[Node, torch.dtype], Node] = {}

    def given(self, node: Node, before: Node) -> Node:
        """The value of ``node`` as its readers get it: rounded where the plan says so."""
        return self._cast(node, self.plan.computed[node], self.plan.given[node], before)

    def to(self, node: Node, dtype: torch.dtype, before: Node) -> Node:
        """What readers get of ``node``, in ``dtype``."""
        return self._cast(self.given(node, before), self.plan.given[node], dtype, before)

    def of_outputs(self) -> dict[str, str]:
        """Make every floating output float32; returns old names of outputs with their new ones."""
        renamed: dict[str, str] = {}
        output = self.graph.output_node()

        def cast(node: Node) -> Node:
            if not is_floating(node):
                return node
            result = self._cast(node, self.plan.computed[node], torch.float32, output)
            if result is not node:
                renamed[node.name] = result.name
            return result

        output.args = torch.fx.map_arg(output.args, cast)
        return renamed

    def _cast(self, node: Node, found: torch.dtype, wanted: torch.dtype, before: Node) -> Node:
        if found == wanted:
            return node
        if (node, wanted) not in self._made:
            name = f"{node.name}_{str(wanted).removeprefix('torch.')}"
            with self.graph.inserting_before(before):
                cast = self.graph.create_node("call_function", aten.to.dtype, (node, wanted), name=name)
            cast.meta = {key: value for key, value in node.meta.items() if key != "val"}
            self._made[node, wanted] = cast
        return self._made[node, wanted]


def _retype(node: Node, casts: _Casts) -> None:
    """Make a node run in the dtype of the plan: cast what it reads, and set what it says of dtypes itself."""
    computed = casts.plan.computed[node]
    moves_only = runs(node) is Runs.AS_GIVEN

    def read(source: Node) -> Node:
        if not is_floating(source):
            return source
        return casts.given(source, node) if moves_only else casts.to(source, computed, node)

    is_cast, is_mask = node.target is aten.to.dtype, is_mask_bias(node)
    node.args, node.kwargs = torch.fx.map_arg(node.args, read), torch.fx.map_arg(node.kwargs, read)
    if is_cast:
        node.args = (node.args[0], computed)
    limit = torch.finfo(computed).max
    for index, value in enumerate(node.args):
        if isinstance(value, float) and abs(value) > limit:
            if not is_mask:
                raise ValueError(
                    f"{node.target} (node {node.name}) has the constant {value:g}, which does not fit {computed}; "
                    f"keep_float32={node.name!r} leaves it in float32"
                )
            node.update_arg(index, math.copysign(limit / 2, value))  # as functional.attention_bias has it


def _propagate(graph: Graph, plan: Plan) -> None:
    """Renew the fake values that the rest of the graph is checked against, by running every op on them."""

    def value(node: Node) -> Any:
        return node.meta["val"]

    for node in graph.nodes:
        if node.op == "placeholder" and is_floating(node):
            node.meta["val"] = node.meta["val"].to(plan.computed[node])
        elif node.op == "call_function":
            node.meta["val"] = node.target(*torch.fx.map_arg(node.args, value), **torch.fx.map_arg(node.kwargs, value))
            node.meta.pop("tensor_meta", None)


class _Weights:
    """The program's tensors in the dtypes of the plan; what was one tensor under two names stays one."""

    def __init__(self, program: ExportedProgram, plan: Plan) -> None:
        signature = program.graph_signature
        names = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        tensors = {**program.state_dict, **program.constants}
        self.half = plan.half
        self._dtypes = {_memory(tensors[names[n.name]]): dtype for n, dtype in plan.computed.items() if n.name in names}
        self._made: dict[tuple[Any, ...], Tensor] = {}

    def converted(self, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """The tensors by name; a name that the graph does not read goes the way of the tensor it shares memory with.

        Raises:
            ValueError: finite numbers of a weight would become infinite.
        """
        is_ours = {n: isinstance(t, Tensor) and t.is_floating_point() for n, t in tensors.items()}
        return {name: self._convert(name, t) if is_ours[name] else t for name, t in tensors.items()}

    def _convert(self, name: str, tensor: Tensor) -> Tensor:
        memory = _memory(tensor)
        dtype = self._dtypes.get(memory, self.half)
        if dtype == tensor.dtype:
            return tensor
        if memory not in self._made:
            exact = tensor.detach()
            rounded = exact.to(dtype)
            if bool((exact.isfinite() & ~rounded.isfinite()).any()):
                raise ValueError(
                    f"the weight {name} holds {float(exact.abs().max()):.3g}, which does not fit {dtype} (at most "
                    f"{torch.finfo(dtype).max:g}); export with precision bf16, or name its placeholder in keep_float32"
                )
            self._made[memory] = nn.Parameter(rounded, False) if isinstance(tensor, nn.Parameter) else rounded
        return self._made[memory]


def _memory(tensor: Tensor) -> tuple[Any, ...]:
    """What two names of one tensor have in common."""
    return tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride()
