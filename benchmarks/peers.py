"""What others make of the same weights, timed in the same turns: torch.compile, XLA, ONNX Runtime, OpenVINO, NNCF.

All start from transformers' own model. XLA compiles this project's TF class over its weights. OpenVINO and ONNX Runtime
read the ONNX file that ``torch.onnx`` exports of it, with dynamic batch and length. All run with as many threads as
PyTorch has.
"""

from __future__ import annotations

import contextlib
import importlib.util
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers_model import Call, LogitsOnly, export_onnx, feeds, onnx_session, quiet

from albert_fast import Batch

EXPORTED, OPTIMIZED, DYNAMIC, QUANTIZED = "transformers.onnx", "optimized.onnx", "dynamic.onnx", "nncf.bin"
"""Files: as ``torch.onnx`` exports it, after ONNX Runtime's optimizer, quantized by ONNX Runtime and by NNCF."""


@dataclass(frozen=True)
class Peer:
    """One row of ``PEERS``.

    Attributes:
        precision: whose error budget its answers are held to.
        make: from the subject to a function from a batch to its logits.
        needs: packages.
        file: what it runs, by its name in the subject's folder; None without a file.
    """

    precision: str
    make: Callable[[Subject], Call]
    needs: tuple[str, ...]
    file: str | None = None

    def missing(self) -> list[str]:
        """The packages that it needs and this environment lacks."""
        return [package for package in self.needs if importlib.util.find_spec(package) is None]


class Subject:
    """transformers' classifier, and the ONNX file of it, made once.

    Args:
        theirs: transformers' model in float32, in ``eval`` mode.
        calibration: batches for tools that calibrate.
        folder: an empty one, for files.
    """

    def __init__(self, theirs: nn.Module, calibration: list[Batch], folder: Path) -> None:
        self.theirs, self.calibration, self.folder = theirs, calibration, folder
        self._export_s = 0.0

    @cached_property
    def exported(self) -> Path:
        """The ONNX file."""
        began = time.perf_counter()
        path = export_onnx(LogitsOnly(self.theirs), self.folder / EXPORTED)
        self._export_s = time.perf_counter() - began
        return path

    def export(self) -> float:
        """Make the ONNX file unless it is there, and say how many seconds that took."""
        assert self.exported
        return self._export_s


def compiled(subject: Subject) -> Call:
    """``torch.compile`` of transformers' model with dynamic shapes."""
    model = torch.compile(LogitsOnly(subject.theirs), dynamic=True)

    def call(batch: Batch) -> Tensor:
        with torch.inference_mode(), quiet():
            logits: Tensor = model(*batch.tensors())
        return logits

    return call


def xla(subject: Subject) -> Call:
    """``tf.function(jit_compile=True)`` of this project's TF class: one trace, compiled anew for each shape."""
    import tensorflow as tf

    from albert_fast import TFAlbertForSequenceClassification

    with contextlib.suppress(RuntimeError):  # TensorFlow has been started, by an engine that asked for as many threads
        tf.config.threading.set_intra_op_parallelism_threads(torch.get_num_threads())
    subject.theirs.save_pretrained(subject.folder / "checkpoint")
    model = TFAlbertForSequenceClassification.from_pretrained(subject.folder / "checkpoint")

    @tf.function(jit_compile=True, input_signature=[tf.TensorSpec([None, None], tf.int64)] * 3)
    def logits(input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
        return model(input_ids, attention_mask, token_type_ids).logits

    return lambda batch: torch.from_numpy(logits(*(tf.constant(tensor.numpy()) for tensor in batch.tensors())).numpy())


def onnx_runtime(subject: Subject) -> Call:
    """``onnxruntime.transformers.optimizer`` as for BERT, which fuses LayerNorm and GELU, then the session's own."""
    from onnxruntime.transformers.optimizer import optimize_model

    config: Any = subject.theirs.config
    with quiet():
        optimized = optimize_model(
            str(subject.exported), model_type="bert", num_heads=config.num_attention_heads,
            hidden_size=config.hidden_size,
        )  # fmt: skip
        optimized.save_model_to_file(str(subject.folder / OPTIMIZED))
    return onnx_session(subject.folder / OPTIMIZED)


def onnx_runtime_dynamic(subject: Subject) -> Call:
    """``onnxruntime.quantization.quantize_dynamic`` after ``quant_pre_process``, as its own warning asks for."""
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source, quantized = subject.folder / "preprocessed.onnx", subject.folder / DYNAMIC
    with quiet():
        quant_pre_process(subject.exported, source, skip_symbolic_shape=True)
        quantize_dynamic(source, quantized)
    return onnx_session(quantized)


def openvino(subject: Subject, *, precision: str) -> Call:
    """OpenVINO, told to compute in ``"f32"`` or ``"bf16"`` and to answer one request as fast as it can."""
    import openvino as ov

    return _openvino(ov.convert_model(subject.exported), precision)


def nncf(subject: Subject) -> Call:
    """``nncf.quantize`` with ``model_type=TRANSFORMER`` on OpenVINO; what it leaves runs in bf16."""
    with quiet():
        import nncf
        import openvino as ov

        texts = [feeds(batch) for batch in subject.calibration]
        model = nncf.quantize(
            ov.convert_model(subject.exported), nncf.Dataset(texts), subset_size=len(texts),
            model_type=nncf.ModelType.TRANSFORMER,
        )  # fmt: skip
        ov.save_model(model, subject.folder / "nncf.xml")
    return _openvino(model, "bf16")


def _openvino(model: Any, precision: str) -> Call:
    import openvino as ov

    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = ov.Core().compile_model(model, "CPU", settings).create_infer_request()

    def call(batch: Batch) -> Tensor:
        request.infer(feeds(batch), share_inputs=True)
        return torch.from_numpy(request.get_output_tensor(0).data.copy())

    return call


_ONNX = ("onnx", "onnxscript")
PEERS: Mapping[str, Peer] = {
    "transformers, torch.compile": Peer("fp32", compiled, ()),
    "TF class, XLA": Peer("fp32", xla, ("tensorflow", "h5py")),
    "ONNX Runtime": Peer("fp32", onnx_runtime, (*_ONNX, "onnxruntime"), OPTIMIZED),
    "ONNX Runtime dynamic int8": Peer("int8", onnx_runtime_dynamic, (*_ONNX, "onnxruntime"), DYNAMIC),
    "OpenVINO": Peer("fp32", partial(openvino, precision="f32"), (*_ONNX, "openvino"), EXPORTED),
    "OpenVINO bf16": Peer("bf16", partial(openvino, precision="bf16"), (*_ONNX, "openvino"), EXPORTED),
    "OpenVINO, NNCF int8": Peer("int8", nncf, (*_ONNX, "openvino", "nncf"), QUANTIZED),
}
"""Whoever is installed is timed; on CUDA none of them is."""
