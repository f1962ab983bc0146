"""The format ``saved_model``: a TensorFlow SavedModel in one file, for TF Serving and whatever else loads one.

A SavedModel is a folder whose ``saved_model.pb`` holds the graph and whose ``variables/`` hold weights. Here weights
are constants of the graph, each once, so that the one file is all of it, and TensorFlow packs them for its kernels.
``saved_model.pb`` is what the file is called in the folder that TF Serving is shown.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from albert_fast._optional import require
from albert_fast.batch import INPUT_NAMES, ShapeProfile
from albert_fast.engine.formats import Run, Written
from albert_fast.engine.manifest import Package, Requirements
from albert_fast.engine.signature import distinct_weight_bytes
from albert_fast.engine.tensorflow_graph import ID_DTYPES, TensorFlowGraph, require_tensorflow, to_tensorflow
from albert_fast.errors import EngineError

FILE_NAME = "saved_model.pb"
LARGEST_BYTES = 2_000_000_000
"""A protocol buffer ends at 2 GiB."""
OLDEST_TORCH = "2.11"
"""The file needs no torch. This one is what the package asks for."""
OLDEST_TENSORFLOW = "2.16.0"
XLA_CHOICES = ("no", "yes")
_PURPOSE = "write or run a SavedModel"


def write(
    program: ExportedProgram,
    path: Path,
    *,
    device: str,
    profiles: tuple[ShapeProfile, ...],
    options: Mapping[str, Any],
    tell: Callable[[str], None],
) -> Written:
    """Write the program as a SavedModel with the signatures ``int32``, ``int64`` and ``serving_default``.

    Args:
        options: ``{"ids": "int64" | "int32"}``, the dtype of ids that ``serving_default`` takes; ``{"xla": "no" |
            "yes"}``, whether ``load`` has XLA compile the graph, once for each shape that it meets.
    Raises:
        ValueError: wrong values of options.
        MissingDependencyError: TensorFlow is not installed.
        EngineError: the weights do not fit one protocol buffer.
    """
    ids, xla = _checked(options)
    tf = require_tensorflow(_PURPOSE)
    check_size(program)
    tell("translate into a TensorFlow graph")
    save(to_tensorflow(program), path, default=ids, tf=tf)
    return Written({"ids": ids, "xla": xla, "signatures": ["serving_default", *sorted(ID_DTYPES)]})


def check_size(program: ExportedProgram) -> None:
    """Refuse weights that do not fit one protocol buffer, with ``EngineError``."""
    weight_bytes = distinct_weight_bytes(program)
    if weight_bytes > LARGEST_BYTES:
        raise EngineError(
            f"the weights take {weight_bytes} bytes, and a SavedModel in one file holds at most {LARGEST_BYTES}; "
            "choose a smaller precision or the format exported_program"
        )


def save(graph: TensorFlowGraph, path: Path, *, default: str, tf: Any) -> None:
    """Write a graph as a SavedModel in one file; ``default`` is the dtype of ids of ``serving_default``."""
    v1 = tf.compat.v1
    meta = v1.MetaGraphDef(graph_def=graph.graph.as_graph_def())
    meta.meta_info_def.tags.append(tf.saved_model.SERVING)
    meta.meta_info_def.tensorflow_version = tf.__version__
    for name, dtype in (("serving_default", default), *((dtype, dtype) for dtype in ID_DTYPES)):
        signature = meta.signature_def[name]
        signature.method_name = tf.saved_model.PREDICT_METHOD_NAME
        for ends, tensors in ((signature.inputs, graph.inputs[dtype]), (signature.outputs, graph.outputs)):
            for key, tensor in tensors.items():
                ends[key].name = tensor.name
                ends[key].dtype = tensor.dtype.as_datatype_enum
                ends[key].tensor_shape.CopyFrom(tensor.shape.as_proto())
    saved = _proto()(saved_model_schema_version=1, meta_graphs=[meta])
    path.write_bytes(saved.SerializeToString(deterministic=True))


def read(path: Path, *, device: str, profiles: tuple[ShapeProfile, ...], notes: Mapping[str, Any]) -> Run:
    """Load the file into TensorFlow.

    TensorFlow has one pool of threads for the whole process. It gets as many as torch has now, and runs as many ops at
    a time at most, unless something has started it before.
    """
    tf = require_tensorflow(_PURPOSE)
    try:
        tf.config.threading.set_intra_op_parallelism_threads(torch.get_num_threads())
        tf.config.threading.set_inter_op_parallelism_threads(torch.get_num_threads())
    except RuntimeError:  # it has been started, and keeps the threads that it has
        pass
    with tempfile.TemporaryDirectory(prefix="albert-fast-") as folder, _as_engine_errors(tf, f"cannot load {path}"):
        (Path(folder) / FILE_NAME).symlink_to(path.absolute())
        call = tf.saved_model.load(folder).signatures["int64"]
    compiled = tf.function(lambda *given: call(**_named(given)), jit_compile=True) if notes["xla"] == "yes" else None

    def run(input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Mapping[str, Tensor]:
        given = [tf.constant(tensor.numpy()) for tensor in (input_ids, attention_mask, token_type_ids)]
        with _as_engine_errors(tf, "cannot run the graph"):
            answers = call(**_named(given)) if compiled is None else compiled(*given)
        return {name: torch.from_numpy(answer.numpy()) for name, answer in answers.items()}

    return run


def pool_threads() -> int:
    """How many threads TensorFlow computes with in this process."""
    tf = require_tensorflow(_PURPOSE)
    return int(tf.config.threading.get_intra_op_parallelism_threads()) or os.cpu_count() or 1  # 0 is all of them


def stored_weight_bytes(path: Path, notes: Mapping[str, Any]) -> int:
    """Bytes of all constants of the graph."""
    tf = require_tensorflow(_PURPOSE)
    nodes = [node for meta in _parsed(path).meta_graphs for node in meta.graph_def.node if node.op == "Const"]
    tensors = [node.attr["value"].tensor for node in nodes]
    return sum(tf.TensorShape(t.tensor_shape).num_elements() * tf.as_dtype(t.dtype).size for t in tensors)


def requirements(device: str, options: Mapping[str, Any]) -> Requirements:
    """Any machine, with a TensorFlow that has been seen to run such files."""
    _checked(options)
    runtime = Package("tensorflow-cpu or tensorflow", OLDEST_TENSORFLOW, "at least")
    return Requirements(torch=OLDEST_TORCH, torch_rule="at least", packages=(runtime,))


def runs_on(built_for: str, device: str) -> bool:
    """Everywhere that TensorFlow runs."""
    return True


def _checked(options: Mapping[str, Any]) -> tuple[str, str]:
    """The values of the options ``ids`` and ``xla``."""
    ids, xla = options.get("ids", "int64"), options.get("xla", "no")
    for name, value, choices in (("ids", ids, ID_DTYPES), ("xla", xla, XLA_CHOICES)):
        if value not in choices:
            raise ValueError(f"the option {name} is {value!r}, expected one of {', '.join(choices)}")
    return ids, xla


def _named(given: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(INPUT_NAMES, given, strict=True))


def _proto() -> Any:
    return require("tensorflow.core.protobuf.saved_model_pb2", extra="tensorflow", purpose=_PURPOSE).SavedModel


def _parsed(path: Path) -> Any:
    return _proto().FromString(path.read_bytes())


@contextmanager
def _as_engine_errors(tf: Any, what: str) -> Iterator[None]:
    """Turn what TensorFlow raises into one sentence."""
    try:
        yield
    except (tf.errors.OpError, OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise EngineError(
            f"TensorFlow {tf.__version__} {what}: {reason}; export it anew, or install another tensorflow"
        ) from error
