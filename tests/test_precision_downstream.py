"""What is made of a 16-bit graph further down: packages and ONNX files keep its dtypes and hold its weights once."""

from __future__ import annotations

import collections
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from precision_samples import CONFIG, HALVES, answers, batches_of, graph_of, largest_difference, prepared_graph

from albert_fast.attention import ATTENTION
from albert_fast.engine import machine
from albert_fast.engine.cpu_prepack import is_available, pack_weights, packable_weights
from albert_fast.engine.signature import distinct_weight_bytes
from albert_fast.precision import PRECISIONS


@pytest.mark.skipif(machine.compiler() is None, reason="needs a C++ compiler (g++) for torch's ahead-of-time compiler")
def test_a_compiled_bf16_package_answers_within_the_budget(tmp_path: Path) -> None:
    prepared, batches = prepared_graph("bf16", "sequence-classification"), batches_of("sequence-classification")
    path = tmp_path / "model.pt2"
    with torch.no_grad():
        torch._inductor.aoti_compile_and_package(prepared, package_path=str(path))
    run = torch._inductor.aoti_load_package(str(path))
    found = [run(*batch.tensors()) for batch in batches]
    expected = answers(graph_of("sequence-classification"), batches)
    assert {tensor.dtype for answer in found for tensor in answer.values()} == {torch.float32}
    assert largest_difference(found, expected) <= PRECISIONS["bf16"].budget.max_abs


@pytest.mark.skipif(
    not (is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()),
    reason="needs oneDNN with bfloat16: a CPU with AVX-512",
)
def test_all_linear_weights_of_a_bf16_graph_can_be_packed_and_the_packed_graph_answers_alike() -> None:
    prepared, batches = prepared_graph("bf16", "sequence-classification"), batches_of("sequence-classification")
    layer = 6
    assert len(packable_weights(prepared)) == layer + len(("mapping_in", "pooler", "classifier"))
    packed = pack_weights(prepared)
    budget = PRECISIONS["bf16"].budget.max_abs
    assert largest_difference(answers(packed, batches), answers(prepared, batches)) <= budget


def onnx_model(name: str, attention: str) -> Any:
    onnx = pytest.importorskip("onnx", reason="writes an ONNX file: pip install onnx onnxscript")
    pytest.importorskip("onnxscript", reason="writes an ONNX file: pip install onnx onnxscript")
    program = prepared_graph(name, "sequence-classification", attention)
    # Its optimizer stores the transposed weights of so small a model once per use.
    model = torch.onnx.export(program, dynamo=True, opset_version=20, verbose=False, optimize=False).model_proto
    onnx.checker.check_model(model, full_check=True)
    return onnx, model


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("attention", ATTENTION)
def test_a_valid_onnx_file_holds_every_weight_once_in_16_bits(name: str, attention: str) -> None:
    onnx, model = onnx_model(name, attention)
    half = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16}[name]
    program = prepared_graph(name, "sequence-classification", attention)
    width = {onnx.TensorProto.FLOAT: 4, half: 2, onnx.TensorProto.INT64: 8}
    stored = sum(width[tensor.data_type] * math.prod(tensor.dims) for tensor in model.graph.initializer)
    assert stored <= distinct_weight_bytes(program) + 2048
    large = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 2]
    assert {tensor.data_type for tensor in large} == {half}
    assert {output.type.tensor_type.elem_type for output in model.graph.output} == {onnx.TensorProto.FLOAT}
    counts = collections.Counter(node.op_type for node in model.graph.node)
    assert counts["LayerNormalization"] == 2 * CONFIG.num_hidden_layers + 1
    assert counts["Softmax"] == CONFIG.num_hidden_layers
