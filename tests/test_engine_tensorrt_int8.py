"""TensorRT engines of int8 and fp8 programs, built for real by TensorRT-RTX: 8-bit products, fused attention, size."""

from __future__ import annotations

from collections import Counter
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from engine_samples import PROFILE, facts, references, small_model
from quantized_samples import ALL_PARTS, BUDGET, assert_same_numbers, batches, quantized

from albert_fast.batch import ShapeProfile
from albert_fast.capture import capture
from albert_fast.config import AlbertConfig
from albert_fast.engine import build, read_manifest, signature, tensorrt_build, tensorrt_options
from albert_fast.engine.builder import held_once
from albert_fast.engine.onnx_runtime import stand_in
from albert_fast.engine.tensorrt_modules import TENSORRT, TENSORRT_RTX
from albert_fast.engine.tensorrt_options import Options
from albert_fast.heads import HEADS
from albert_fast.precision import Quantization, prepare
from albert_fast.precision.calibration import collect

needs_rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx: pip install 'albert-fast[tensorrt-rtx]'"
)
pytestmark = pytest.mark.skipif(
    find_spec("onnx") is None or find_spec("onnxruntime") is None, reason="needs onnx: pip install 'albert-fast[onnx]'"
)
HEAD, PASSES = "sequence-classification", 6
ADA = ("8.9",)
CODE_BYTES_PER_PASS = 800_000
"""Kernels that TensorRT-RTX 1.7 writes for one pass and one profile of an 8-bit program with fp16 beside."""
HALF_EXACT = 0.5
"""Half precision moves numbers over the edge between two levels wherever it is computed in another order."""

either = pytest.mark.parametrize(("precision", "dtype"), [("int8", "Int8"), ("fp8", "FP8")])


def module() -> Any:
    import tensorrt_rtx

    return tensorrt_rtx


@cache
def graph(head: str = HEAD, **changes: Any) -> Any:
    return tensorrt_build.graph_of(quantized(head, rest="fp16", **changes), Options())


def built(program: Any, model: Any, path: Path, profile: ShapeProfile = PROFILE) -> dict[str, Any]:
    shapes = tensorrt_build.profile_shapes(program, [profile])
    return tensorrt_build.build(
        TENSORRT_RTX, module(), model, path, device="cuda", shapes=shapes,
        options=Options(compute_capabilities=ADA), tell=lambda text: None,
    )  # fmt: skip


@needs_rtx
@either
def test_every_pass_multiplies_8_bits_and_attention_stays_one_kernel(
    precision: str, dtype: str, tmp_path: Path
) -> None:
    found = built(quantized(HEAD, rest="fp16", precision=precision), graph(precision=precision), tmp_path / "e.engine")
    assert found["fused_attention"] == PASSES
    assert found["products_by_dtype"][dtype] >= 4 * PASSES
    assert set(found["products_by_dtype"]) <= {dtype, "Half"}  # beside: the map from embedding to hidden size


@needs_rtx
@either
def test_embeddings_and_heads_are_built_as_well(precision: str, dtype: str, tmp_path: Path) -> None:
    program = quantized("masked-lm", rest="fp16", precision=precision, parts=ALL_PARTS)
    found = built(program, graph("masked-lm", precision=precision, parts=ALL_PARTS), tmp_path / "e.engine")
    assert found["products_by_dtype"][dtype] >= 4 * PASSES + 3
    assert set(found["products_by_dtype"]) == {dtype}


@either
@pytest.mark.parametrize("parts", [("encoder",), ALL_PARTS])
def test_the_stand_in_answers_as_the_program_does(precision: str, dtype: str, parts: tuple[str, ...]) -> None:
    run, _ = stand_in(graph(precision=precision, parts=parts))
    assert_same_numbers(run, HEAD, precision=precision, rest="fp16", parts=parts, exact=HALF_EXACT)


@either
def test_the_graph_holds_pairs_with_float32_scales_and_no_other_rounding(precision: str, dtype: str) -> None:
    model = graph(precision=precision)
    element = {"int8": 3, "fp8": 17}[precision]
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    counts = Counter(node.op_type for node in model.graph.node)
    assert (counts["QuantizeLinear"], counts["DequantizeLinear"]) == (4 * PASSES, 4 * PASSES + 6)
    assert not {"Div", "Clip"} & set(counts)
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert types[node.input[1]] == 1
            assert types.get(node.input[2] if len(node.input) > 2 else node.input[0]) == element


@needs_rtx
def test_an_int8_engine_file_is_written_and_measured_on_its_stand_in(tmp_path: Path) -> None:
    model, path = small_model(HEAD), tmp_path / "e.engine"
    build(
        quantized(HEAD, rest="fp16"), path, format="tensorrt-rtx", facts=facts(model), references=references(model),
        budget=BUDGET, device="cuda",
    )  # fmt: skip
    manifest = read_manifest(path)
    assert manifest.notes["products_by_dtype"]["Int8"] == 4 * PASSES
    assert manifest.measured_on == "its ONNX graph, by ONNX Runtime on CPU"


@needs_rtx
def test_fp8_asks_for_gpus_that_have_it(tmp_path: Path) -> None:
    model, path = small_model(HEAD), tmp_path / "e.engine"
    program = quantized(HEAD, rest="fp16", precision="fp8")
    arguments: dict[str, Any] = dict(
        format="tensorrt-rtx", facts=facts(model), references=references(model), budget=BUDGET, device="cuda"
    )
    with pytest.raises(ValueError, match=r"8\.0, 8\.6 has no float8: name .* compute_capabilities=8\.9,12\.0"):
        build(program, path, **arguments)
    manifest = build(program, path, options={"compute_capabilities": ["8.9", "12.0"]}, **arguments)
    assert manifest.requires.compute_capabilities == ("8.9", "12.0")
    assert manifest.notes["products_by_dtype"]["FP8"] >= 4 * PASSES


def test_fp8_is_refused_on_a_gpu_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    trt = SimpleNamespace(__version__="10.13", BuilderFlag=SimpleNamespace(), HardwareCompatibilityLevel=None)
    for capability, refused in (("8.0", True), ("8.9", False), ("9.0", False), (None, False)):
        monkeypatch.setattr(tensorrt_options.machine, "compute_capability", lambda found=capability: found)
        if refused:
            with pytest.raises(ValueError, match=r"this GPU \(compute capability 8\.0\) has no float8"):
                tensorrt_options.check_for_module(TENSORRT, trt, Options(), "float8_e4m3fn")
        else:
            tensorrt_options.check_for_module(TENSORRT, trt, Options(), "float8_e4m3fn")


@pytest.mark.slow
@needs_rtx
def test_albert_base_in_int8_holds_each_weight_once(tmp_path: Path) -> None:
    profile = ShapeProfile.parse("1x1:8x128:32x512")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = HEADS[HEAD].model_class(AlbertConfig.published("albert-base-v2")).eval()
    exact = capture(model, profile)
    scales = collect(exact, batches()[:1]).scales("max")
    program = prepare(exact, "int8", quantization=Quantization(scales, rest="fp16"))
    path = tmp_path / "base.engine"
    found = built(program, tensorrt_build.graph_of(program, Options()), path, profile)
    weights = signature.distinct_weight_bytes(program)
    assert found["fused_attention"] == 12
    assert found["products_by_dtype"]["Int8"] == 48  # four a pass: query, key and value are one
    assert held_once(found["weights_bytes"], weights)
    assert path.stat().st_size <= 1.1 * weights + 12 * CODE_BYTES_PER_PASS
