"""ONNX Runtime: a graph on disk as a ``Run``, on the CPU or a CUDA device, and as a stand-in for another runtime's."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from albert_fast._optional import require
from albert_fast.engine import onnx_bfloat16, onnx_file
from albert_fast.engine.formats import Run
from albert_fast.engine.signature import INPUT_DIMENSIONS
from albert_fast.errors import EngineError

_DTYPES: Mapping[str, tuple[torch.dtype, Any]] = {
    "tensor(int64)": (torch.int64, np.int64),
    "tensor(int32)": (torch.int32, np.int32),
    "tensor(float)": (torch.float32, np.float32),
    "tensor(float16)": (torch.float16, np.float16),
    "tensor(bfloat16)": (torch.bfloat16, 16),  # numpy has none, so the number of ONNX's
}
_STATUSES = (
    "EPFail", "EngineError", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "ModelLoaded", "NoModel",
    "NoSuchFile", "NotImplemented", "RuntimeException",
)  # fmt: skip

_NOISE = re.compile(
    r"^\[ONNXRuntimeError\] : \d+ : \w+ : |Load model from \S+ failed: ?|/onnxruntime_src/\S+ .*?\) (?=[A-Z])"
)
"""Parts of a message that say where in ONNX Runtime's sources it was written, or what the sentence around it says."""


def require_onnx_runtime(device: str = "cpu") -> Any:
    """The ``onnxruntime`` module, where it can run on ``device``.

    Raises:
        MissingDependencyError: onnxruntime is not installed.
        EngineError: a CUDA device was asked for, and this onnxruntime is built without it.
    """
    module = require("onnxruntime", extra="onnx", purpose="run an ONNX graph")
    provider, available = _provider(device), module.get_available_providers()
    if provider not in available:
        raise EngineError(
            f"device {device!r} needs ONNX Runtime's {provider}, this onnxruntime {module.__version__} has "
            f"{', '.join(available)}: pip uninstall onnxruntime, then pip install onnxruntime-gpu"
        )
    return module


def open_session(path: Path, *, device: str) -> Any:
    """An ``onnxruntime.InferenceSession`` on exactly that device, on CPU with as many threads as torch has.

    Raises:
        MissingDependencyError, EngineError: as ``require_onnx_runtime``; or the file is damaged, is newer than this
            onnxruntime, or the device cannot be used.
    """
    runtime = require_onnx_runtime(device)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what goes wrong is raised
    provider, asked = _provider(device), torch.device(device)
    settings = {"device_id": asked.index or 0, "use_tf32": 0} if asked.type == "cuda" else {}
    next_step = "copy it again, export it anew, or install a newer onnxruntime"
    with _as_engine_errors(f"ONNX Runtime {runtime.__version__} cannot load {path}", next_step):
        session = runtime.InferenceSession(str(path), options, providers=[(provider, settings)], enable_fallback=0)
    if provider not in session.get_providers():
        raise EngineError(
            f"ONNX Runtime {runtime.__version__} did not start {provider}, it offers "
            f"{', '.join(session.get_providers())}; check that its CUDA and cuDNN releases are installed"
        )
    return session


def run_of(session: Any, *, device: str) -> Run:
    """A session as a function of tensors on its device; each call has outputs of its own, and threads may share it."""
    place = torch.device(device)
    names = [value.name for value in session.get_inputs()]
    dtype, element = _DTYPES[session.get_inputs()[0].type]
    outputs = [(value.name, value.shape, *_DTYPES[value.type]) for value in session.get_outputs()]

    def bind(bound: Callable[..., None], name: str, tensor: Tensor, element: Any) -> None:
        bound(name, place.type, place.index or 0, element, tuple(tensor.shape), tensor.data_ptr())

    def run(*inputs: Tensor) -> Mapping[str, Tensor]:
        given = [tensor.to(dtype).contiguous() for tensor in inputs]
        sizes: dict[Any, int] = {}
        for tensor in given:
            sizes |= zip(INPUT_DIMENSIONS[tensor.dim()], tensor.shape, strict=True)
        binding, answers = session.io_binding(), {}
        for name, tensor in zip(names, given, strict=True):
            bind(binding.bind_input, name, tensor, element)
        for name, shape, output_dtype, output_element in outputs:
            answers[name] = torch.empty([sizes.get(d, d) for d in shape], dtype=output_dtype, device=place)
            bind(binding.bind_output, name, answers[name], output_element)
        if place.type == "cuda":
            torch.cuda.current_stream(place).synchronize()  # ONNX Runtime has a stream of its own, and waits for that
        with _as_engine_errors("ONNX Runtime cannot run the graph", "try a smaller batch"):
            session.run_with_iobinding(binding)
        return answers

    return run


def stand_in(graph: Any) -> tuple[Run, str]:
    """Run another runtime's graph on this CPU, to measure its error where its own device is missing.

    Args:
        graph: an ``onnx.ModelProto``, or the path of an ONNX file.
    Returns:
        The ``Run``, on CPU tensors, and what it is, in words. ONNX Runtime has no bfloat16 kernels for the CPU, so a
        graph in bfloat16 runs in float32 and is rounded.
    Raises:
        MissingDependencyError: onnx or onnxruntime is not installed.
        EngineError: ONNX Runtime cannot load the graph.
    """
    onnx = require("onnx", extra="onnx", purpose="run an ONNX graph")
    require_onnx_runtime()
    model = onnx.load(graph) if isinstance(graph, str | Path) else graph
    words = "its ONNX graph, by ONNX Runtime on CPU"
    if onnx_bfloat16.is_in(model):
        model = onnx_bfloat16.emulated(model)
        words = f"{words}, in float32 rounded to bfloat16 after every operator"
    with tempfile.TemporaryDirectory(prefix="albert-fast-") as folder:
        path = Path(folder) / "stand_in.onnx"
        onnx_file.save(model, path)
        return run_of(open_session(path, device="cpu"), device="cpu"), words


def _provider(device: str) -> str:
    return {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}[torch.device(device).type]


@contextmanager
def _as_engine_errors(what: str, next_step: str) -> Iterator[None]:
    """Turn what ONNX Runtime raises, a class for each status or RuntimeError, into one sentence."""
    statuses = require("onnxruntime.capi.onnxruntime_pybind11_state", extra="onnx", purpose="run an ONNX graph")
    raised = (RuntimeError, *(getattr(statuses, name) for name in _STATUSES))
    try:
        yield
    except raised as error:
        reason = " ".join(_NOISE.sub("", str(error)).split()).rstrip(".")
        raise EngineError(f"{what}: {reason}; {next_step}") from error
