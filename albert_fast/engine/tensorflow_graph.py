"""A captured program as a TensorFlow graph: every weight a constant, once, under the checkpoint's name.

Inside, values ``[batch, length, size]`` are kept as tokens end to end, ``[tokens, size]``, as long as the ops treat
every token alike: a product of two matrices with its bias and activation is what TensorFlow, XLA and LiteRT fuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import Node
from torch.fx.node import map_aggregate

from albert_fast._optional import require
from albert_fast.engine import tensorflow_ops, tensorflow_quantized
from albert_fast.engine.signature import output_names, weight_dtype
from albert_fast.engine.tensorflow_quantized import QuantizedWeight

ID_DTYPES = ("int64", "int32")
Tensor = Any


def require_tensorflow(purpose: str) -> Any:
    """The ``tensorflow`` module.

    Raises:
        MissingDependencyError: it is not installed.
    """
    return require("tensorflow", extra="tensorflow", purpose=purpose)


@dataclass(frozen=True)
class TensorFlowGraph:
    """A ``tf.Graph`` with its ends.

    Attributes:
        inputs: for each dtype of ids the tensors to feed, by name: ``{"int32": {"input_ids": ..., ...}, ...}``.
        outputs: the tensors to fetch, by name.
        quantized: int8 weights by name, each an input as well.
    """

    graph: Any
    inputs: dict[str, dict[str, Tensor]]
    outputs: dict[str, Tensor]
    quantized: dict[str, QuantizedWeight] = field(default_factory=dict)


def to_tensorflow(program: ExportedProgram, *, float32_only: bool = False) -> TensorFlowGraph:
    """Translate a program into a TensorFlow graph.

    Args:
        program: called with ``(input_ids, attention_mask, token_type_ids)``, returns a dict of tensors. What is dynamic
            in it is dynamic in the graph.
        float32_only: compute everything in float32, from the program's own weights; for runtimes that know no other.
            Only then may the program be quantized: its int8 weights are inputs of the graph, in float32.
    Raises:
        MissingDependencyError: TensorFlow is not installed.
        NotImplementedError: the graph holds an op, or a form of one, that has no row in ``tensorflow_ops``.
    """
    tf = require_tensorflow("write a TensorFlow graph")
    names = [str(name) for name in program.graph_signature.user_inputs]
    graph = tf.Graph()
    with graph.as_default():
        narrow, wide = _inputs(tf, program, names)
        translation = _Translation(tf, program, wide, float32_only)
        outputs = translation.outputs()
    return TensorFlowGraph(graph, {"int32": narrow, "int64": wide}, outputs, translation.quantized)


def _inputs(tf: Any, program: ExportedProgram, names: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The int32 inputs, and the int64 ones that they become and that may be fed in their place."""
    values = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    narrow, wide = {}, {}
    for name in names:
        shape = [size if isinstance(size, int) else None for size in values[name].shape]
        narrow[name] = tf.compat.v1.placeholder(tf.int32, shape, f"{name}_int32")
        cast = tf.cast(narrow[name], tf.int64)
        wide[name] = tf.compat.v1.placeholder_with_default(cast, shape, name)
    return narrow, wide


class _Value:
    """A tensor as it is, or as tokens end to end, or both; each is made when it is asked for."""

    def __init__(self, translation: _Translation, sizes: list[Any], **given: Tensor) -> None:
        self._translation, self.sizes, self._layouts = translation, sizes, given

    def whole(self) -> Tensor:
        """In its own shape."""
        if "whole" not in self._layouts:
            self._layouts["whole"] = self._translation.reshape(self._layouts["flat"], self.sizes)
        return self._layouts["whole"]

    def flat(self) -> Tensor:
        """``[tokens, size]``."""
        if "flat" not in self._layouts:
            self._layouts["flat"] = self._translation.reshape(self._layouts["whole"], [-1, self.sizes[-1]])
        return self._layouts["flat"]

    def any(self) -> Tensor:
        """In a layout that is there already."""
        return next(iter(self._layouts.values()))


class _Translation:
    """Walks over a program's nodes inside of a ``tf.Graph``."""

    def __init__(self, tf: Any, program: ExportedProgram, inputs: dict[str, Tensor], float32_only: bool) -> None:
        self.tf, self._program, self._float32_only = tf, program, float32_only
        self.quantized: dict[str, QuantizedWeight] = {}
        self._rows, self._per_token = tensorflow_ops.ROWS, tensorflow_ops.PER_TOKEN
        self._weight_ops: set[Any] = set()
        if float32_only and weight_dtype(program) == "int8":
            self._rows = {**self._rows, **tensorflow_quantized.rows(self.quantized)}
            self._per_token = self._per_token | tensorflow_quantized.per_token()
            self._weight_ops = tensorflow_quantized.weight_ops()
        self._packed: dict[tuple[Any, ...], Tensor] = {}
        self._symbols: dict[Any, Tensor] = {}
        self._values: dict[Node, Any] = {}
        self._weights: dict[tuple[Any, ...], Tensor] = {}
        signature = program.graph_signature
        self._tensors = {**program.state_dict, **program.constants}
        self._names = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        for node in program.graph.nodes:
            if node.op == "placeholder" and node.name in inputs:
                self._learn_sizes(node, inputs[node.name])
        for node in program.graph.nodes:
            if node.op == "placeholder":
                tensor = inputs[node.name] if node.name in inputs else self._weight(self._names[node.name])
                self._values[node] = _Value(self, self._sizes(node), whole=tensor)
            elif node.op == "call_function" and node.users:
                self._values[node] = self._call(node)

    def outputs(self) -> dict[str, Tensor]:
        """The program's outputs by name; the tensors have those names in the graph too."""
        by_name = {node.name: value for node, value in self._values.items()}
        nodes = [by_name[str(name)] for name in self._program.graph_signature.user_outputs]
        names = output_names(self._program)
        return {name: self.tf.identity(value.whole(), name=name) for name, value in zip(names, nodes, strict=True)}

    def reshape(self, x: Tensor, sizes: list[Any]) -> Tensor:
        """``x`` in another shape."""
        return self.tf.reshape(x, self.packed(sizes))

    def packed(self, sizes: list[Any]) -> Any:
        """Sizes as the shape that ``tf.reshape`` takes; one unknown size is told by the others."""
        unknown = [index for index, size in enumerate(sizes) if not isinstance(size, int)]
        if len(unknown) == 1 and -1 not in sizes[: unknown[0]] + sizes[unknown[0] + 1 :]:
            return [-1 if index in unknown else size for index, size in enumerate(sizes)]
        if not unknown:
            return list(sizes)
        key = tuple(size if isinstance(size, int) else size.ref() for size in sizes)
        if key not in self._packed:
            self._packed[key] = self.tf.stack(list(sizes))
        return self._packed[key]

    def dtype(self, dtype: torch.dtype) -> Any:
        """TensorFlow's dtype; float32 for every floating one where nothing else is wanted."""
        if self._float32_only and dtype.is_floating_point:
            return self.tf.float32
        return self.tf.as_dtype(str(dtype).removeprefix("torch."))

    def _learn_sizes(self, node: Node, tensor: Tensor) -> None:
        """Each symbol of the input's shape -> the scalar that holds it when the graph runs."""
        shape = None
        for axis, size in enumerate(node.meta["val"].shape):
            if isinstance(size, int) or size.node.expr in self._symbols:
                continue
            shape = self.tf.shape(tensor) if shape is None else shape
            self._symbols[size.node.expr] = shape[axis]

    def _sizes(self, node: Node) -> list[Any]:
        value = node.meta["val"]
        if not isinstance(value, torch.Tensor):
            return []
        return [size if isinstance(size, int) else self._size(size.node.expr) for size in value.shape]

    def _size(self, expression: Any) -> Any:
        """What an expression of symbols is in this graph."""
        if expression not in self._symbols:
            assert expression.is_Mul or expression.is_Add, f"no size of an ALBERT is {expression}"
            parts = [int(part) if part.is_Integer else self._size(part) for part in expression.args]
            total = parts[0]
            for part in parts[1:]:
                total = total * part if expression.is_Mul else total + part
            self._symbols[expression] = total
        return self._symbols[expression]

    def _weight(self, name: str) -> Tensor:
        """A constant; names that share memory share it."""
        tensor = self._tensors[name].detach().cpu()
        memory = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.shape, tensor.stride())
        if memory not in self._weights:
            wanted = self.dtype(tensor.dtype)
            numbers = tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor
            array = numbers.contiguous().numpy().astype(wanted.as_numpy_dtype)
            self._weights[memory] = self.tf.constant(array, wanted, name=name.removeprefix("model.").replace(".", "/"))
        return self._weights[memory]

    def _call(self, node: Node) -> Any:
        target: Any = node.target
        if target is torch.ops.aten.sym_size.int:
            return self._values[node.args[0]].sizes[node.args[1]]  # type: ignore[index]
        if not isinstance(node.meta.get("val"), torch.Tensor | tuple | list):
            return target(*torch.fx.map_arg(node.args, self._values.__getitem__))  # arithmetic of sizes
        if target in tensorflow_ops.RESHAPES:
            sizes = self._sizes(node)
            return _Value(self, sizes, whole=self.reshape(self._values[node.all_input_nodes[0]].any(), sizes))
        if target not in self._rows:
            raise NotImplementedError(
                f"the graph holds the op {target} (node {node.name}), and no row of "
                "albert_fast.engine.tensorflow_ops.ROWS says what it is in TensorFlow; add one, or choose the format "
                "exported_program"
            )
        flat = target in self._per_token and self._is_per_token(node)

        def given(argument: Any) -> Any:
            if isinstance(argument, torch.dtype):
                return self.dtype(argument)
            value = self._values[argument] if isinstance(argument, Node) else argument
            if not isinstance(value, _Value):
                return value
            return value.flat() if flat and len(value.sizes) > 2 else value.whole()

        made = self._rows[target](self.tf, *map_aggregate(node.args, given), **map_aggregate(node.kwargs, given))
        if not self.tf.is_tensor(made):
            return made  # several tensors; getitem takes them apart
        return _Value(self, self._sizes(node), **{"flat" if flat else "whole": made})

    def _is_per_token(self, node: Node) -> bool:
        """Whether tokens may come end to end: the result is ``[batch, length, size]``, and so is all but weights."""
        sizes = self._sizes(node)
        if len(sizes) != 3:
            return False
        others = [
            self._sizes(source)
            for source in node.all_input_nodes
            if source.name not in self._names and source.target not in self._weight_ops
        ]
        return all(len(other) == 3 and _same(other[:2], sizes[:2]) for other in others)


def _same(a: Sequence[Any], b: Sequence[Any]) -> bool:
    return all(x is y or (isinstance(x, int) and isinstance(y, int) and x == y) for x, y in zip(a, b, strict=True))
