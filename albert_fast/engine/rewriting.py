"""Rewriting a typed program before it is lowered: a copy of its graph, edited node by node and made a program again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.fx import Graph, Node

aten = torch.ops.aten


class Rewriting:
    """An editable copy of a program; the program given is not changed, and its tensors are shared.

    Attributes:
        graph: to be edited, with ``call`` and ``replace``.
    """

    def __init__(self, program: ExportedProgram) -> None:
        self._program = program
        self._module = copy.deepcopy(program.graph_module)
        self._signature = copy.deepcopy(program.graph_signature)
        self._constants = dict(program.constants)
        self._state_dict = dict(program.state_dict)
        self.graph: Graph = self._module.graph

    def find(self, *targets: Callable[..., Any]) -> list[Node]:
        """The nodes that call one of these ops, in order."""
        return [node for node in self.graph.nodes if node.target in targets]

    def first_op(self) -> Node:
        """The first node behind the placeholders; what stands before it depends on weights alone."""
        return next(node for node in self.graph.nodes if node.op != "placeholder")

    def call(self, op: Callable[..., Any], *args: Any, **kwargs: Any) -> Node:
        """A node at the graph's insertion point that calls ``op``, with the fake value of its result."""
        node = self.graph.call_function(op, args, kwargs)
        node.meta["val"] = op(*torch.fx.map_arg(args, value_of), **torch.fx.map_arg(kwargs, value_of))
        return node

    def rows(self, x: Node) -> Node:
        """``x`` as a matrix, one row a token: itself, or reshaped."""
        value = x.meta["val"]
        return x if value.dim() == 2 else self.call(aten.reshape.default, x, [-1, int(value.shape[-1])])

    def like(self, y: Node, x: Node) -> Node:
        """The matrix ``y`` of ``rows(x)`` with the leading dimensions of ``x`` again."""
        leading = x.meta["val"].dim() - 1
        if leading == 1:
            return y
        sizes = [self.call(aten.sym_size.int, x, index) for index in range(leading)]
        return self.call(aten.reshape.default, y, [*sizes, int(y.meta["val"].shape[-1])])

    def constant(self, name: str, value: Tensor) -> Node:
        """A new constant of the program."""
        inputs = self._signature.user_inputs
        first = next(node for node in self.graph.nodes if node.op == "placeholder" and node.name == inputs[0])
        with self.graph.inserting_before(first):
            node = self.graph.placeholder(f"c_{name}")
        node.meta["val"] = first.meta["val"].fake_mode.from_tensor(value, static_shapes=True)
        self._constants[name] = value
        specs = self._signature.input_specs
        index = next(i for i, spec in enumerate(specs) if spec.kind is InputKind.USER_INPUT)
        specs.insert(index, InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(node.name), name))
        return node

    def tensor(self, placeholder: Node) -> Tensor:
        """The weight of the program that a placeholder stands for."""
        weight: Tensor = self._state_dict[self._signature.inputs_to_parameters[placeholder.name]]
        return weight.detach()

    def forget_unread(self) -> None:
        """Take out of the program all that leads to no output: assertions, attention (which could have dropout, so that
        ``finished`` keeps it), and weights that nothing reads any more.
        """
        self.graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
        parameters = self._signature.inputs_to_parameters
        for node in [node for node in self.graph.nodes if node.name in parameters and not node.users]:
            del self._state_dict[parameters[node.name]]
            self._signature.input_specs = [s for s in self._signature.input_specs if s.arg.name != node.name]
            self.graph.erase_node(node)

    def replace(self, old: Node, new: Node) -> None:
        """Let every reader of ``old``, the program's outputs among them, read ``new``; ``old`` goes."""
        old.replace_all_uses_with(new)
        self._signature.replace_all_uses(old.name, new.name)
        self.graph.erase_node(old)

    def finished(self) -> ExportedProgram:
        """The edited graph as a program, without what nothing reads."""
        self.graph.eliminate_dead_code()
        self.graph.lint()
        self._module.recompile()
        return ExportedProgram(
            root=self._module,
            graph=self.graph,
            graph_signature=self._signature,
            state_dict=self._state_dict,
            range_constraints=self._program.range_constraints,
            module_call_graph=self._program.module_call_graph,
            example_inputs=self._program.example_inputs,
            constants=self._constants,
        )


def value_of(node: Node) -> Any:
    """The fake tensor, or the number, that a node stands for."""
    return node.meta["val"]


def register_fake(name: str, fake: Callable[..., Tensor]) -> None:
    """A fake kernel for an op of torch that lacks one, as the packing ops do in torch 2.13; once."""
    if not torch._C._dispatch_has_kernel_for_dispatch_key(name, "Meta") and name not in _registered:
        torch.library.register_fake(name, fake)
        _registered.add(name)


_registered: set[str] = set()
