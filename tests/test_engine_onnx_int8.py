"""The ONNX graph of an int8 program: standard Q/DQ, every weight once, int8 products in ONNX Runtime, its numbers."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_samples import build_small, facts, references, small_model
from quantized_samples import ALL_PARTS, BUDGET, assert_same_numbers, quantized

from albert_fast.batch import Batch
from albert_fast.engine import FORMATS, build, load, onnx_file, onnx_fused, onnx_graph, signature
from albert_fast.engine.onnx_runtime import stand_in
from albert_fast.heads import HEADS

onnx, _, onnxruntime = (
    pytest.importorskip(package, reason=FORMATS["onnx"].missing()) for package in FORMATS["onnx"].imports
)
PASSES, LINEAR_MAPS = 6, 6


@cache
def graph(head: str = "pretraining", activations: str = "uint8", **changes: Any) -> Any:
    """The ONNX graph of a quantized program; look at it, change nothing."""
    return onnx_graph.to_onnx(quantized(head, **changes), activations=activations)


def constants(model: Any) -> dict[str, np.ndarray]:
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def nodes(model: Any, operator: str) -> list[Any]:
    return [node for node in model.graph.node if node.op_type == operator]


def optimized(model: Any, folder: Path) -> Counter[str]:
    """What ONNX Runtime makes of a graph when it loads it."""
    onnx_file.save(model, folder / "graph.onnx")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(folder / "graph.onnx"), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


@pytest.mark.parametrize("head", HEADS)
def test_the_graph_is_standard_onnx_with_every_weight_once(head: str) -> None:
    model = graph(head, parts=ALL_PARTS)
    onnx.checker.check_model(model, full_check=True)
    assert {opset.domain for opset in model.opset_import} <= {""}
    stored = sum(onnx_file.tensor_bytes(tensor) for tensor in onnx_file.tensors(model.graph))
    # beside: a scale for each tensor and pass, and the numbers that shapes are made of
    assert stored <= signature.distinct_weight_bytes(quantized(head, parts=ALL_PARTS)) + 4 * 40 + 8 * 40


@pytest.mark.parametrize("head", HEADS)
def test_onnx_runtime_answers_as_the_program_does(head: str) -> None:
    run, _ = stand_in(graph(head, parts=ALL_PARTS))
    assert_same_numbers(run, head, parts=ALL_PARTS)


def test_either_spelling_of_the_activations_holds_the_same_numbers() -> None:
    models = [graph(), graph(activations="int8")]
    for model in models:
        assert_same_numbers(stand_in(model)[0], "pretraining")
    zero_points = [{int(constants(m)[node.input[2]]) for node in nodes(m, "QuantizeLinear")} for m in models]
    assert zero_points == [{128}, {0}]


def test_a_weight_is_dequantized_by_one_node_in_the_order_of_use_and_stored_transposed() -> None:
    model = graph()
    weights = [node for node in nodes(model, "DequantizeLinear") if node.input[0] in constants(model)]
    names = [re.sub(r".*layers\.0\.", "", node.input[0]) for node in weights]
    attention = [f"attention.{name}.weight.T" for name in ("query", "key", "value", "dense")]
    assert names == [*attention, "ffn.weight.T", "ffn_output.weight.T"]
    for node in weights:
        weight, scale = (constants(model)[name] for name in node.input[:2])
        assert weight.dtype == np.int8 and scale.dtype == np.float32
        assert node.attribute[0].i == 1 and scale.shape == weight.shape[1:]
    assert not any(node.input[0] in {one.output[0] for one in weights} for node in nodes(model, "Transpose"))


def test_query_key_and_value_read_one_pair_and_every_pass_has_its_own_scale() -> None:
    model = graph()
    pairs = nodes(model, "QuantizeLinear")
    readers = Counter(name for node in nodes(model, "MatMul") for name in node.input)
    dequantized = [node for node in nodes(model, "DequantizeLinear") if node.input[0] not in constants(model)]
    assert Counter(readers[node.output[0]] for node in dequantized) == {3: PASSES, 1: 3 * PASSES}
    assert len({node.input[1] for node in pairs}) == len(pairs) == 4 * PASSES


def test_onnx_runtime_multiplies_int8_in_every_pass(tmp_path: Path) -> None:
    found = optimized(graph(), tmp_path)
    assert found["MatMulIntegerToFloat"] == PASSES * LINEAR_MAPS
    assert found["DequantizeLinear"] == 0
    assert found["QuantizeLinear"] == 4 * PASSES


def test_a_tied_decoder_and_its_table_are_one_int8_matrix_that_both_read(tmp_path: Path) -> None:
    model = graph("masked-lm", parts=ALL_PARTS)
    table = "albert.embeddings.word_embeddings.weight.T"
    assert constants(model)[table].dtype == np.int8
    readers = [(node.op_type, node.attribute[0].i) for node in model.graph.node if table in node.input]
    assert sorted(readers) == [("DequantizeLinear", 1), ("Gather", 1)]
    found = optimized(model, tmp_path)
    assert found["MatMulIntegerToFloat"] == PASSES * LINEAR_MAPS + 3  # and the map in, the head's, the decoder
    assert found["DequantizeLinear"] == 0


def test_attention_multiplies_uint8_by_int8(tmp_path: Path) -> None:
    changes: dict[str, Any] = dict(attention="eager", parts=("encoder", "attention"))
    model = graph("masked-lm", **changes)
    onnx.checker.check_model(model, full_check=True)
    zero_points = Counter(str(constants(model)[node.input[2]].dtype) for node in nodes(model, "QuantizeLinear"))
    assert zero_points == {"uint8": 6 * PASSES, "int8": 2 * PASSES}
    assert_same_numbers(stand_in(model)[0], "masked-lm", **changes)


def test_a_kept_pass_reads_the_shared_weight_dequantized() -> None:
    keep = ("ffn.input@5", "attention.input@0")
    model = graph("masked-lm", keep=keep)
    assert len(nodes(model, "QuantizeLinear")) == 4 * PASSES - 2
    assert_same_numbers(stand_in(model)[0], "masked-lm", keep=keep)


@pytest.mark.parametrize("rest", ["fp16", "bf16"])
def test_scales_stay_float32_where_the_rest_is_16_bits(rest: str) -> None:
    """TensorRT writes the sums of a product with 16-bit scales in 16 bits, and they reach 2**24."""
    model = graph(rest=rest)
    found = [*nodes(model, "QuantizeLinear"), *nodes(model, "DequantizeLinear")]
    assert {constants(model)[node.input[1]].dtype for node in found} == {np.dtype(np.float32)}
    onnx.checker.check_model(model, full_check=True)


def test_the_fused_form_keeps_every_pair(tmp_path: Path) -> None:
    plain = graph("masked-lm")
    fused, count = onnx_fused.fuse(plain)
    assert count == 3 * PASSES
    for operator in ("QuantizeLinear", "DequantizeLinear"):
        assert len(nodes(fused, operator)) == len(nodes(plain, operator))
    assert optimized(fused, tmp_path)["MatMulIntegerToFloat"] == PASSES * LINEAR_MAPS


def build_int8(path: Path, head: str = "pretraining", **options: Any) -> Any:
    model = small_model(head)
    return build(
        quantized(head), path, format="onnx", facts=facts(model), references=references(model),
        budget=BUDGET, options=options,
    )  # fmt: skip


def test_an_engine_file_is_written_loaded_and_near_eager(tmp_path: Path) -> None:
    manifest = build_int8(tmp_path / "e.onnx")
    assert manifest.notes["activations"] == "uint8"
    engine = load(tmp_path / "e.onnx")
    assert_same_numbers(lambda *tensors: engine(Batch(*tensors)), "pretraining")


def test_the_spelling_of_the_activations_can_be_chosen_for_int8_alone(tmp_path: Path) -> None:
    assert build_int8(tmp_path / "e.onnx", activations="int8").notes["activations"] == "int8"
    with pytest.raises(ValueError, match="activations is 'float'"):
        build_int8(tmp_path / "e.onnx", activations="float")
    with pytest.raises(ValueError, match="for precision int8, and this graph is float32"):
        build_small(tmp_path / "f.onnx", format="onnx", options={"activations": "uint8"})


def test_a_rest_in_bfloat16_is_refused_before_any_work(tmp_path: Path) -> None:
    model = small_model("masked-lm")
    with pytest.raises(ValueError, match="quantize with rest fp32"):
        build(
            quantized("masked-lm", rest="bf16"), tmp_path / "e.onnx", format="onnx", facts=facts(model),
            references=references(model), budget=BUDGET,
        )  # fmt: skip
