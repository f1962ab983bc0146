"""The format ``tflite``: the graph as a LiteRT model (TensorFlow Lite), run by LiteRT on the CPU, also where there is
nothing but LiteRT.

Every weight stands once in the file. LiteRT computes in float32; a float16 graph keeps its weights in float16 and they
are widened when the file is loaded, so its activations are not rounded.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from albert_fast._optional import require
from albert_fast.batch import INPUT_NAMES, ShapeProfile
from albert_fast.engine import saved_model, tflite_quantized
from albert_fast.engine.formats import Run, Written
from albert_fast.engine.manifest import Package, Requirements
from albert_fast.engine.signature import float_dtype, weight_dtype
from albert_fast.engine.tensorflow_graph import ID_DTYPES, require_tensorflow, to_tensorflow
from albert_fast.errors import EngineError

SIGNATURE = "serving_default"
OLDEST_TORCH = "2.11"
"""The file needs no torch. This one is what the package asks for."""
OLDEST_RUNTIME = "1.4.0"


def write(
    program: ExportedProgram,
    path: Path,
    *,
    device: str,
    profiles: tuple[ShapeProfile, ...],
    options: Mapping[str, Any],
    tell: Callable[[str], None],
) -> Written:
    """Write the program as a LiteRT model with the signature ``serving_default``.

    Args:
        options: ``{"ids": "int32" | "int64"}``, the dtype of the inputs; of an int8 graph ``{"activations": "dynamic" |
            "static"}``, what rounds the inputs of its linear maps: LiteRT row by row, or the graph's scales.
    Raises:
        ValueError: wrong values of options, or an int8 graph whose rest is not float32.
        MissingDependencyError: TensorFlow, which converts, or LiteRT, which runs, is not installed.
        EngineError: the weights are too many for the format, or LiteRT has no operator for a part of the graph.
    """
    ids, activations = _checked(options)
    int8 = weight_dtype(program) == "int8"
    if "activations" in options and not int8:
        raise ValueError(
            f"the option activations is of int8 graphs, and this one is {weight_dtype(program)}; leave it out"
        )
    if int8 and float_dtype(program) != "float32":
        raise ValueError(
            f"the rest of this int8 graph is {float_dtype(program)}, LiteRT computes in float32; take rest fp32"
        )
    tf = require_tensorflow("write a LiteRT model")
    _require_runtime()
    saved_model.check_size(program)
    tell("translate into a TensorFlow graph")
    graph = to_tensorflow(program, float32_only=True)
    tell("convert to LiteRT")
    with tempfile.TemporaryDirectory(prefix="tflite-", dir=path.parent) as folder:
        weights = {name: weight.placeholder for name, weight in graph.quantized.items()}
        whole = dataclasses.replace(graph, inputs={dtype: ends | weights for dtype, ends in graph.inputs.items()})
        saved_model.save(whole, Path(folder) / saved_model.FILE_NAME, default=ids, tf=tf)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[SIGNATURE])
        if weight_dtype(program) == "float16":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        try:
            model = converter.convert()
        except _converter_error() as error:
            reason = str(error).strip().partition("\n")[0].rstrip(".")
            raise EngineError(f"LiteRT cannot hold this graph: {reason}; choose the format saved_model") from error
    if not int8:
        path.write_bytes(model)
        return Written({"ids": ids, "signature": SIGNATURE})
    tell("put the int8 weights in")
    path.write_bytes(tflite_quantized.store_int8(model, graph.quantized, activations=activations))
    return Written({"ids": ids, "signature": SIGNATURE, "activations": activations})


def read(path: Path, *, device: str, profiles: tuple[ShapeProfile, ...], notes: Mapping[str, Any]) -> Run:
    """Load the file into LiteRT, with as many threads as torch has now. Calls from several threads wait for each other:
    the interpreter holds the tensors of one call.
    """
    runtime = _require_runtime()
    with _as_engine_errors(f"cannot load {path}"):
        interpreter = runtime.Interpreter(model_path=str(path), num_threads=torch.get_num_threads())
        signature = interpreter.get_signature_runner(SIGNATURE)
    dtype, lock = np.dtype(notes["ids"]), Lock()

    def run(input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Mapping[str, Tensor]:
        tensors = zip(INPUT_NAMES, (input_ids, attention_mask, token_type_ids), strict=True)
        given = {name: tensor.numpy().astype(dtype) for name, tensor in tensors}
        with lock, _as_engine_errors("cannot run the graph"):
            answers = signature(**given)
        return {name: torch.from_numpy(answer) for name, answer in answers.items()}

    return run


def stored_weight_bytes(path: Path, notes: Mapping[str, Any]) -> int:
    """Bytes of all constants of the graph, each buffer of the file counted once."""
    schema = require("ai_edge_litert.schema_py_generated", extra="tflite", purpose="look into a LiteRT model")
    model = schema.Model.GetRootAs(path.read_bytes(), 0)
    graphs = [model.Subgraphs(index) for index in range(model.SubgraphsLength())]
    used = {graph.Tensors(index).Buffer() for graph in graphs for index in range(graph.TensorsLength())}
    buffers = [model.Buffers(index) for index in used]
    return sum(buffer.DataLength() or buffer.Size() for buffer in buffers)  # large files keep them behind the graph


def requirements(device: str, options: Mapping[str, Any]) -> Requirements:
    """Any machine, with a LiteRT that knows the operators."""
    _checked(options)
    runtime = Package("ai-edge-litert", OLDEST_RUNTIME, "at least")
    return Requirements(torch=OLDEST_TORCH, torch_rule="at least", packages=(runtime,))


def runs_on(built_for: str, device: str) -> bool:
    """Everywhere that LiteRT runs."""
    return True


def _checked(options: Mapping[str, Any]) -> tuple[str, str]:
    """The values of the options ``ids`` and ``activations``."""
    ids, activations = options.get("ids", "int32"), options.get("activations", "dynamic")
    for name, value, choices in (("ids", ids, ID_DTYPES), ("activations", activations, tflite_quantized.ACTIVATIONS)):
        if value not in choices:
            raise ValueError(f"the option {name} is {value!r}, expected one of {', '.join(choices)}")
    return ids, activations


def _require_runtime() -> Any:
    return require("ai_edge_litert.interpreter", extra="tflite", purpose="run a LiteRT model")


@contextmanager
def _as_engine_errors(what: str) -> Iterator[None]:
    """Turn what LiteRT raises into one sentence."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise EngineError(f"LiteRT {what}: {reason}; export it anew, or install another ai-edge-litert") from error


def _converter_error() -> type[Exception]:
    """What the converter raises."""
    phase = require("tensorflow.lite.python.convert_phase", extra="tflite", purpose="write a LiteRT model")
    raised: type[Exception] = phase.ConverterError
    return raised
