"""int8 in a LiteRT file: the converted float graph, edited so that its linear maps read int8 weights.

Every int8 weight was an input of the converted graph; it becomes a constant, stored once, with one scale a channel.
How a linear map multiplies with it depends on ``activations``:

    dynamic  FULLY_CONNECTED of a float32 input and an int8 weight: LiteRT itself rounds each row of the input to int8,
             by the range that it finds there when it runs, and multiplies int8 by int8. The graph's scales are left out
    static   QUANTIZE and DEQUANTIZE with the scale of the pass, and FULLY_CONNECTED with the weight behind a
             DEQUANTIZE: the graph to the letter. LiteRT's kernels multiply the rounded numbers in float32

LiteRT's FULLY_CONNECTED of an int8 input makes an int8 output, and no scale for it is known here; its BATCH_MATMUL into
int32 would need none, and is 10 times slower than float32 (LiteRT 2.3, x86).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from albert_fast._optional import require
from albert_fast.engine.tensorflow_quantized import QuantizedWeight

ACTIVATIONS = ("dynamic", "static")
FILE_IDENTIFIER = b"TFL3"
_PURPOSE = "write int8 into a LiteRT model"
_VERSIONS = {"FULLY_CONNECTED": 12, "DEQUANTIZE": 5}
"""The first version of an operator that knows int8 with one scale a channel."""


def store_int8(model: bytes, weights: Mapping[str, QuantizedWeight], *, activations: str) -> bytes:
    """Put int8 weights in the place of the inputs that stand for them.

    Args:
        model: a LiteRT model with one signature, whose inputs are the program's and, for each weight, its name.
        activations: ``"dynamic"`` or ``"static"``.
    """
    schema = require("ai_edge_litert.schema_py_generated", extra="tflite", purpose=_PURPOSE)
    flatbuffers = require("flatbuffers", extra="tflite", purpose=_PURPOSE)
    editor = _Editor(schema, schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0)))
    for name, weight in weights.items():
        editor.make_constant(name, weight)
    editor.multiply(dynamic=activations == "dynamic")
    builder = flatbuffers.Builder(len(model))
    builder.Finish(editor.model.Pack(builder), FILE_IDENTIFIER)
    return bytes(builder.Output())


class _Editor:
    """Edits a model in the objects of its schema, where operators name tensors by their index."""

    def __init__(self, schema: Any, model: Any) -> None:
        self.schema, self.model, self.graph = schema, model, model.subgraphs[0]
        self._kinds = {code: kind for kind, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
        self._weights: set[int] = set()
        self._codes: dict[str, int] = {}

    def make_constant(self, name: str, weight: QuantizedWeight) -> None:
        """Take an input out of the signature and give its tensor the int8 numbers."""
        (signature,) = self.model.signatureDefs
        (entry,) = [entry for entry in signature.inputs if entry.name.decode() == name]
        signature.inputs.remove(entry)
        index = int(entry.tensorIndex)
        self.graph.inputs = np.array([tensor for tensor in self.graph.inputs if tensor != index], np.int32)
        tensor = self.graph.tensors[index]
        tensor.buffer = self._stored(weight.numbers)
        self._make_int8(tensor, weight.scale)
        self._weights.add(index)

    def multiply(self, *, dynamic: bool) -> None:
        """Let every linear map read the int8 weights, and drop the pairs that nobody reads any more."""
        pairs = self._pairs()
        for quantize in pairs.values():
            rounded = self.graph.tensors[quantize.outputs[0]]
            self._make_int8(rounded, rounded.quantization.scale)  # was uint8 around 128: the same numbers
        operators: list[Any] = []
        exact: dict[int, int] = {}
        for operator in self.graph.operators:
            if self._weights.isdisjoint(int(tensor) for tensor in operator.inputs):
                operators.append(operator)
                continue
            assert self._kind(operator) == "FULLY_CONNECTED", f"a linear map became {self._kind(operator)}"
            x, weight, *bias = (int(tensor) for tensor in operator.inputs)
            if dynamic and x in pairs:
                x = int(pairs[x].inputs[0])
                operator.opcodeIndex = self._code("FULLY_CONNECTED")
            else:  # reads its input in float32, rounded by a pair or, where it was kept, not at all
                if weight not in exact:
                    exact[weight] = self._in_float32(weight)
                    operators.append(self._dequantize(weight, exact[weight]))
                weight = exact[weight]
            operator.inputs = np.array([x, weight, *bias], np.int32)
            operators.append(operator)
        for kind in ("DEQUANTIZE", "QUANTIZE"):  # a pair is read by its DEQUANTIZE
            read = {int(tensor) for operator in operators for tensor in operator.inputs}
            operators = [
                operator for operator in operators if self._kind(operator) != kind or int(operator.outputs[0]) in read
            ]
        self.graph.operators = operators

    def _pairs(self) -> dict[int, Any]:
        """The output of every DEQUANTIZE behind a QUANTIZE -> that QUANTIZE."""
        made = {int(tensor): operator for operator in self.graph.operators for tensor in operator.outputs}
        sources = {
            tensor: made.get(int(operator.inputs[0]))
            for tensor, operator in made.items()
            if self._kind(operator) == "DEQUANTIZE"
        }
        return {tensor: one for tensor, one in sources.items() if one is not None and self._kind(one) == "QUANTIZE"}

    def _make_int8(self, tensor: Any, scale: np.ndarray) -> None:
        """int8, symmetric, with one scale for all of the tensor or one for each row."""
        made = self.schema.QuantizationParametersT()
        made.scale, made.zeroPoint = np.asarray(scale, np.float32), np.zeros(len(scale), np.int64)
        tensor.type, tensor.quantization = self.schema.TensorType.INT8, made

    def _in_float32(self, weight: int) -> int:
        """A new tensor of a weight's shape."""
        of, tensor = self.graph.tensors[weight], self.schema.TensorT()
        tensor.name, tensor.shape, tensor.hasRank = of.name + b"/dequantized", of.shape, True
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def _dequantize(self, source: int, target: int) -> Any:
        operator = self.schema.OperatorT()
        operator.opcodeIndex = self._code("DEQUANTIZE")
        operator.inputs, operator.outputs = np.array([source], np.int32), np.array([target], np.int32)
        return operator

    def _stored(self, numbers: np.ndarray) -> int:
        """The buffer that holds the numbers; one that is there already, as a word table's, serves again."""
        content = np.frombuffer(numbers.tobytes(), np.uint8)
        for index, buffer in enumerate(self.model.buffers):
            if buffer.data is not None and np.array_equal(buffer.data, content):
                return index
        made = self.schema.BufferT()
        made.data = content
        self.model.buffers.append(made)
        return len(self.model.buffers) - 1

    def _code(self, kind: str) -> int:
        """The operator code of a kind, in the version that is needed here."""
        if kind not in self._codes:
            made = self.schema.OperatorCodeT()
            made.builtinCode, made.version = getattr(self.schema.BuiltinOperator, kind), _VERSIONS[kind]
            made.deprecatedBuiltinCode = made.builtinCode
            self.model.operatorCodes.append(made)
            self._codes[kind] = len(self.model.operatorCodes) - 1
        return self._codes[kind]

    def _kind(self, operator: Any) -> str:
        kind: str = self._kinds[self.model.operatorCodes[operator.opcodeIndex].builtinCode]
        return kind
