"""What the INT8 accuracy benchmark compares: this project's precisions, and what other tools make of the weights."""

from __future__ import annotations

import importlib.util
import io
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from int8_subject import Made, Subject
from torch import Tensor
from torch.export import ExportedProgram
from transformers_model import feeds, onnx_session, quiet

from albert_fast import Batch
from albert_fast.precision import prepare
from albert_fast.precision.calibration import DEFAULT_METHOD
from albert_fast.precision.folding import with_tensors
from albert_fast.precision.histogram import METHODS
from albert_fast.precision.int8 import quantized_weight
from albert_fast.precision.quantization import Quantization
from albert_fast.precision.sites import sites
from albert_fast.precision.smoothing import smooth

MAPS = ("encoder", "embeddings", "heads")
ONNX = ("onnx", "onnxscript", "onnxruntime")
NNCF = ("openvino", "nncf", "onnx", "onnxscript")


@dataclass(frozen=True)
class Variant:
    """One row of ``VARIANTS``: what it does, in a few words, and the packages it needs."""

    summary: str
    make: Callable[[Subject], Made]
    needs: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """The packages that it needs and this environment lacks."""
        return [package for package in self.needs if importlib.util.find_spec(package) is None]


def graph(subject: Subject, *, precision: str) -> Made:
    """The typed program of a precision, run by PyTorch."""
    return typed(prepare(subject.program, precision))


def int8(
    subject: Subject,
    *,
    method: str = DEFAULT_METHOD,
    share: float = 99.99,
    merged: bool = False,
    smoothed: bool = False,
    **quantization: Any,
) -> Made:
    """The program with Q/DQ pairs, run by PyTorch.

    Args:
        method, share: of choosing ranges, see ``Statistics.scales``.
        merged: one scale for all passes, as tools have it that observe modules.
        smoothed: with the factors that ``precision.smoothing`` chooses.
        quantization: the rest of ``Quantization``.
    """
    if smoothed:
        scales = smooth(subject.statistics, subject.program, subject.calibration, method=method, share=share)
    else:
        scales = subject.statistics.scales(method, share=share)
    chosen = Quantization(scales.merged() if merged else scales, **quantization)
    return typed(prepare(subject.program, "int8", quantization=chosen))


def weights_alone(subject: Subject) -> Made:
    """The float32 program over the encoder's weights as int8 rounds them: what no scale of an activation changes."""
    tensors = dict(subject.program.state_dict)
    for site in sites(subject.program):
        if site.part == "encoder" and site.weight is not None:
            int8_weight, scale = quantized_weight(subject.program.state_dict[site.weight].detach())
            tensors[site.weight] = torch.nn.Parameter(int8_weight * scale[:, None], requires_grad=False)
    return Made(typed(with_tensors(subject.program, tensors)).run, int8(subject).stored_bytes)


def typed(program: ExportedProgram) -> Made:
    """A program, run by PyTorch; what is stored is its tensors, each once."""
    module = program.module()

    def run(batch: Batch) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = module(*batch.tensors())["logits"]
        return logits.float()

    tensors = {t.data_ptr(): t for t in (*program.state_dict.values(), *program.constants.values()) if t.numel()}
    return Made(run, sum(t.numel() * t.element_size() for t in tensors.values()))


def torch_dynamic(subject: Subject, *, per_channel: bool = False) -> Made:
    """``torch.ao.quantization.quantize_dynamic`` on every ``Linear`` of transformers' model."""
    from torch.ao.quantization import default_dynamic_qconfig, per_channel_dynamic_qconfig, quantize_dynamic

    settings = per_channel_dynamic_qconfig if per_channel else default_dynamic_qconfig
    with quiet():
        quantized = quantize_dynamic(subject.theirs, {torch.nn.Linear: settings})
    file = io.BytesIO()
    torch.save(quantized.state_dict(), file)

    def run(batch: Batch) -> Tensor:
        with torch.inference_mode():
            logits: Tensor = quantized(*batch.tensors())
        return logits

    return Made(run, len(file.getvalue()), {"engine": torch.backends.quantized.engine})


def onnx_dynamic(subject: Subject, *, preprocessed: bool = False, ours: bool = False, **options: Any) -> Made:
    """``onnxruntime.quantization.quantize_dynamic`` on an ONNX file in float32.

    Args:
        preprocessed: after ``quant_pre_process``, as its own warning asks for.
        ours: on this project's engine file instead of what ``torch.onnx`` exports of transformers' model.
        options: of ``quantize_dynamic``.
    """
    import onnx
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source, quantized = subject.engine if ours else subject.exported, subject.scratch / "dynamic.onnx"
    with quiet():
        if preprocessed:
            source = subject.scratch / "preprocessed.onnx"
            quant_pre_process(subject.exported, source, skip_symbolic_shape=True)
        quantize_dynamic(source, quantized, **options)
    ops = Counter(node.op_type for node in onnx.load(quantized, load_external_data=False).graph.node)
    return Made(onnx_session(quantized), quantized.stat().st_size, {"int8_matmuls": ops["MatMulInteger"]})


def nncf_static(subject: Subject, *, transformer: bool = False, batched: bool = False) -> Made:
    """``nncf.quantize`` on OpenVINO's form of the ONNX file that ``torch.onnx`` exports of transformers' model.

    Its defaults quantize the sum of attention scores and padding mask: calibrated without padding, rows with padding go
    wrong; with padding, the mask's -3e38 takes the whole range, and all rows do.

    Args:
        transformer: with ``model_type=TRANSFORMER``, which leaves that sum alone.
        batched: calibrate on whole batches with their padding, not on one text after the other.
    """
    with quiet():
        import nncf
        import openvino

        kind = {"model_type": nncf.ModelType.TRANSFORMER} if transformer else {}
        batches = subject.calibration if batched else [one for batch in subject.calibration for one in rows(batch)]
        texts = [feeds(batch) for batch in batches]
        model = openvino.convert_model(subject.exported)
        quantized = nncf.quantize(model, nncf.Dataset(texts), subset_size=len(texts), **kind)
        file = subject.scratch / "nncf.xml"
        openvino.save_model(quantized, file)  # writes what is left in floating point in 16 bits, as it does by default
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
        compiled = openvino.Core().compile_model(quantized, "CPU", settings)

    def run(batch: Batch) -> Tensor:
        return torch.from_numpy(compiled(feeds(batch))[0].copy())

    ops = Counter(op.get_type_name() for op in quantized.get_ops())
    size = file.stat().st_size + file.with_suffix(".bin").stat().st_size
    return Made(run, size, {"fake_quantize_ops": ops["FakeQuantize"]})


def rows(batch: Batch) -> list[Batch]:
    """Every row as a batch of its own, without its padding: a calibrating tool is not shown padding."""
    found = []
    for ids, mask, types in zip(*batch.tensors(), strict=True):
        length = int(mask.sum())
        found.append(Batch(ids[None, :length], mask[None, :length], types[None, :length]))
    return found


VARIANTS: Mapping[str, Variant] = {
    "fp32": Variant("the captured program", partial(graph, precision="fp32")),
    "bf16": Variant("the typed program", partial(graph, precision="bf16")),
    "fp16": Variant("the typed program", partial(graph, precision="fp16")),
    "int8": Variant(f"encoder quantized, one scale a pass by {DEFAULT_METHOD}", int8),
    "int8, passes merged": Variant("the same with one scale for all passes", partial(int8, merged=True)),
    **{
        f"int8, {method}": Variant(f"as int8, scales by {method}", partial(int8, method=method))
        for method in METHODS
        if method != DEFAULT_METHOD
    },
    "int8, percentile 99.999": Variant("as int8, less clipped", partial(int8, method="percentile", share=99.999)),
    "int8, max, passes merged": Variant("int8, max with one scale for all", partial(int8, method="max", merged=True)),
    "int8, smoothed": Variant("as int8, after one factor a channel for all passes", partial(int8, smoothed=True)),
    "int8, weights alone": Variant("the encoder's weights rounded, nothing else", weights_alone),
    "int8, embeddings and heads too": Variant(
        "as int8, every linear map and the word table", partial(int8, parts=MAPS)
    ),
    "int8 and bf16": Variant("the same, the rest in bf16", partial(int8, parts=MAPS, rest="bf16")),
    "torch dynamic": Variant("quantize_dynamic on transformers' model, its defaults", torch_dynamic),
    "torch dynamic, per channel": Variant(
        "the same with per_channel_dynamic_qconfig", partial(torch_dynamic, per_channel=True)
    ),
    "ONNX Runtime dynamic": Variant("quantize_dynamic on torch.onnx's file, its defaults", onnx_dynamic, ONNX),
    "ONNX Runtime dynamic, pre-processed": Variant(
        "the same after quant_pre_process", partial(onnx_dynamic, preprocessed=True), ONNX
    ),
    "ONNX Runtime dynamic, pre-processed, per channel": Variant(
        "the same with per_channel=True", partial(onnx_dynamic, preprocessed=True, per_channel=True), ONNX
    ),
    "ONNX Runtime dynamic, albert-fast's file": Variant(
        "quantize_dynamic on this project's float32 engine file, its defaults", partial(onnx_dynamic, ours=True), ONNX
    ),
    "NNCF": Variant("nncf.quantize on OpenVINO, its defaults", nncf_static, NNCF),
    "NNCF, transformer": Variant("the same with model_type=TRANSFORMER", partial(nncf_static, transformer=True), NNCF),
    "NNCF, transformer, batched": Variant(
        "the same, calibrated on padded batches", partial(nncf_static, transformer=True, batched=True), NNCF
    ),
}
