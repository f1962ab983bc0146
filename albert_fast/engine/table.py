"""The table of engine formats. A row is plain data; its module is imported when the row is used."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Literal, cast

from albert_fast.engine.formats import FileFormat, Format, Gap, InProcessFormat
from albert_fast.engine.shapes import Cutting

_IDS = "int64 or int32: dtype of the graph's inputs"
_TENSORRT_CODE_BYTES = 15_000_000
"""Kernels of one profile; 24 passes take 13.3 MB in TensorRT-RTX 1.7."""
_ROAD = "onnx or torch-tensorrt: what lowers the graph; torch-tensorrt needs Torch-TensorRT, a GPU and one profile"
_FP8 = "choose int8 here, or the format tensorrt or tensorrt-rtx on a GPU, or exported_program to look at its numbers"


def _no_fp8(runtime: str) -> Gap:
    return Gap("float8_e4m3fn", "*", f"{runtime} multiplies no float8; {_FP8}")


_ROWS = (
    Format(
        "exported_program",
        "file",
        ".pt2",
        "albert_fast.engine.exported_program",
        ("cpu", "cuda"),
        "the captured graph itself, run by PyTorch's own kernels; moves between machines",
        asks=True,
        cutting=Cutting(16),
    ),
    Format(
        "aotinductor",
        "file",
        ".pt2",
        "albert_fast.engine.aotinductor",
        ("cpu", "cuda"),
        "compiled ahead of time by Inductor for this very kind of CPU or GPU",
        options={"linear": "packed, plain or auto: whether weights are packed for oneDNN (CPU)"},
        rest={"cpu": "bf16", "cuda": "fp16"},
        gaps=(
            Gap(
                "int8",
                "cuda",
                "Inductor multiplies no int8 of a Q/DQ graph on a GPU; choose the format tensorrt or tensorrt-rtx",
            ),
            _no_fp8("Inductor's code for this graph"),
        ),
        asks=True,
        cutting=Cutting(24),
    ),
    Format(
        "native",
        "file",
        ".pt2",
        "albert_fast.engine.native",
        ("cpu",),
        "the encoder as one op of our library, which computes no padding; the rest compiled by Inductor for this CPU",
        rest={"cpu": "bf16"},
        gaps=(
            Gap("float16", "*", "native has no float16 arithmetic: few CPUs multiply it; choose bf16, int8 or fp32"),
            _no_fp8("native"),
        ),
        attentions=("sdpa",),
        keeps_sites=False,
        op_library=True,
        asks=True,
        skips_padding=True,
    ),
    Format(
        "onnx",
        "file",
        ".onnx",
        "albert_fast.engine.onnx_format",
        ("cpu", "cuda"),
        "the graph as an ONNX file, run by ONNX Runtime; moves between machines, and other runtimes read it too",
        extra="onnx",
        imports=("onnx", "onnxscript", "onnxruntime"),
        options={
            "ids": _IDS,
            "fused": "no, yes or auto: whether attention and LayerNorms are ONNX Runtime's own operators",
            "activations": "uint8 or int8: how int8 activations are written; uint8 is what x86 multiplies fastest",
        },
        embeds_manifest=True,
        describes=True,
        gaps=(
            Gap(
                "bfloat16",
                "cpu",
                "ONNX Runtime has no bfloat16 kernels for the CPU; choose fp32 or fp16, or the format aotinductor",
            ),
            Gap(
                "int8",
                "cuda",
                "ONNX Runtime has int8 products for a GPU only through TensorRT; choose the format tensorrt or "
                "tensorrt-rtx",
            ),
            _no_fp8("ONNX Runtime"),
        ),
        asks=True,
        cutting=Cutting(16),
    ),
    Format(
        "saved_model",
        "file",
        ".pb",
        "albert_fast.engine.saved_model",
        ("cpu",),
        "a TensorFlow SavedModel in one file, for TF Serving and whatever loads SavedModels; moves between machines",
        extra="tensorflow",
        imports=("tensorflow",),
        options={
            "ids": "int64 or int32: dtype of ids that the signature serving_default takes",
            "xla": "no or yes: whether XLA compiles the loaded graph, once for each shape that it meets",
        },
        gaps=(
            Gap("int8", "*", "TensorFlow has no int8 kernels for the CPU; choose the format tflite or onnx"),
            _no_fp8("TensorFlow"),
        ),
        cutting=Cutting(40),
        uncut={"xla": "yes"},
        one_pool=True,
    ),
    Format(
        "tflite",
        "file",
        ".tflite",
        "albert_fast.engine.tflite",
        ("cpu",),
        "a LiteRT (TensorFlow Lite) model, run by LiteRT; moves between machines, phones among them",
        extra="tflite",
        imports=("tensorflow", "ai_edge_litert"),
        options={
            "ids": _IDS,
            "activations": "dynamic or static: whether LiteRT rounds them row by row, or int8's own scales do",
        },
        gaps=(
            Gap("bfloat16", "*", "LiteRT has no bfloat16 kernels; choose fp32 or fp16, or the format saved_model"),
            _no_fp8("LiteRT"),
        ),
        cutting=Cutting(28),
    ),
    Format(
        "tensorrt",
        "file",
        ".engine",
        "albert_fast.engine.tensorrt",
        ("cuda",),
        "tuned by NVIDIA TensorRT 10 or 11 on the GPU that will run it",
        extra="tensorrt",
        imports=("tensorrt", "onnx", "onnxscript", "onnxruntime"),
        options={
            "ids": _IDS,
            "workspace_mb": "most scratch memory of a kernel, in MB; TensorRT's own limit unless given",
            "timing_cache": "file that keeps the timings of earlier builds; it is made if absent",
            "version_compatible": "true or false: whether later releases may load the file",
            "hardware_compatible": "none, ampere_plus or same_compute_capability: which other GPUs may run the file",
            "strip_weights": "true or false: leave the weights out, to be put in by refitting",
            "optimization_level": "0 (built fastest) to 5 (searched longest); TensorRT's own, 3, unless given",
            "cuda_graphs": "true or false: whether the loaded engine records CUDA graphs of shapes it meets often",
            "road": _ROAD,
        },
        many_profiles=True,
        code_bytes=_TENSORRT_CODE_BYTES,
        describes=True,
    ),
    Format(
        "tensorrt-rtx",
        "file",
        ".engine",
        "albert_fast.engine.tensorrt_rtx",
        ("cuda",),
        "for RTX GPUs of several generations, built on any machine by TensorRT-RTX",
        extra="tensorrt-rtx",
        imports=("tensorrt_rtx", "onnx", "onnxscript", "onnxruntime"),
        options={
            "ids": _IDS,
            "workspace_mb": "most scratch memory of a kernel, in MB; TensorRT's own limit unless given",
            "compute_capabilities": 'GPU kinds to build for, ["8.6", "8.9", "12.0"]; all from Ampere on unless given',
            "strip_weights": "true or false: leave the weights out, to be put in by refitting; needs a driver",
            "cuda_graphs": "true or false: whether the loaded engine records CUDA graphs of shapes it meets often",
            "road": _ROAD,
        },
        many_profiles=True,
        builds_without_device=True,
        code_bytes=_TENSORRT_CODE_BYTES,
        describes=True,
    ),
    Format(
        "torch-tensorrt",
        "file",
        ".pt2",
        "albert_fast.engine.torch_tensorrt_file",
        ("cuda",),
        "the graph compiled by Torch-TensorRT, TensorRT engines inside an archive of torch.export",
        extra="torch-tensorrt",
        imports=("torch_tensorrt",),
        options={
            "require_full_compilation": "true or false: refuse a graph of which TensorRT cannot run every op (true)",
            "workspace_bytes": "most scratch memory that TensorRT may use, 0 for no limit (0)",
            "optimization_level": "how long TensorRT searches for faster kernels, 0 to 5 (its own default)",
            "tf32": "true or false: whether float32 products may be rounded to TF32 (false)",
            "timing_cache": "file in which TensorRT keeps its timings for the next build; TensorRT-RTX has none",
            "engine_cache": "folder in which engines are kept for the next build; they are then built refittable",
        },
        code_bytes=12_000_000,
        gaps=(_no_fp8("A graph compiled by Torch-TensorRT"),),
    ),
    Format(
        "eager",
        "in-process",
        "",
        "albert_fast.engine.eager",
        ("cpu", "cuda"),
        "the model as it is, uncompiled",
        asks=True,
        cutting=Cutting(16),
    ),
    Format(
        "inductor",
        "in-process",
        "",
        "albert_fast.engine.inductor",
        ("cpu", "cuda"),
        "compiled in this process by torch.compile, the shared layer once",
        asks=True,
        cutting=Cutting(24, least=2),
    ),
    Format(
        "torch-tensorrt-jit",
        "in-process",
        "",
        "albert_fast.engine.torch_tensorrt_jit",
        ("cuda",),
        "compiled in this process by torch.compile with Torch-TensorRT as its backend",
        extra="torch-tensorrt",
        imports=("torch_tensorrt",),
    ),
)
FORMATS: Mapping[str, Format] = {row.name: row for row in _ROWS}
"""Engine formats by name. ``[name for name, row in FORMATS.items() if row.kind == "file"]`` can be exported."""


def find_format(name: str, *, kind: Literal["file", "in-process"]) -> Format:
    """The row called ``name``.

    Raises:
        ValueError: no such row, or one of the other kind; the message lists the names that fit.
    """
    fitting = [row.name for row in FORMATS.values() if row.kind == kind]
    if name not in FORMATS:
        raise ValueError(f"format is {name!r}, expected one of {', '.join(fitting)}")
    row = FORMATS[name]
    if row.kind != kind:
        made_by = {"file": "is written to a file by build", "in-process": "lives in one process, made by in_process"}
        raise ValueError(f"format {name!r} {made_by[row.kind]}; expected one of {', '.join(fitting)}")
    return row


def positions_refusal(row: Format) -> str | None:
    """Why a format cannot answer at asked positions alone, in a sentence; None where it can."""
    if row.asks:
        return None
    able = [other.name for other in FORMATS.values() if other.asks and other.kind == row.kind]
    return f"{row.name} takes no positions and answers for every token; choose one of {', '.join(able)}"


def file_format(row: Format) -> FileFormat:
    """The implementation of a ``"file"`` row."""
    return cast(FileFormat, import_module(row.module))


def in_process_format(row: Format) -> InProcessFormat:
    """The implementation of an ``"in-process"`` row."""
    return cast(InProcessFormat, import_module(row.module))
