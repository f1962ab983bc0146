"""A captured graph in TensorFlow: the table of ops, every weight once, tokens end to end."""

from __future__ import annotations

import copy
from collections import Counter

import numpy as np
import pytest
import torch
from engine_samples import (
    PROFILE,
    batch_of,
    eager_answers,
    small_config,
    small_program,
)
from tensorflow_samples import tf

from albert_fast.batch import INPUT_NAMES, Batch
from albert_fast.capture import capture
from albert_fast.engine import tensorflow_ops
from albert_fast.engine.signature import distinct_weight_bytes
from albert_fast.engine.tensorflow_graph import TensorFlowGraph, to_tensorflow
from albert_fast.heads import HEADS
from albert_fast.precision import prepare


def answers_of(graph: TensorFlowGraph, batch: Batch, ids: str = "int64") -> dict[str, np.ndarray]:
    feeds = {graph.inputs[ids][name]: tensor.numpy() for name, tensor in zip(INPUT_NAMES, batch.tensors(), strict=True)}
    with tf.compat.v1.Session(graph=graph.graph) as session:
        return session.run(graph.outputs, feeds)


def batch_for(head: str) -> Batch:
    return batch_of(2, 9) if HEADS[head].ids_rank == 2 else batch_of(2, 3, 9)


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 2e-5), ("fp16", 0.05), ("bf16", 0.2)])
@pytest.mark.parametrize("head", HEADS)
def test_the_graph_computes_what_the_program_computes(head: str, precision: str, bound: float) -> None:
    program, batch = prepare(small_program(head), precision), batch_for(head)
    found = answers_of(to_tensorflow(program), batch)
    with torch.inference_mode():
        expected = program.module()(*batch.tensors())
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert found[name].dtype.name == str(tensor.dtype).removeprefix("torch.")
        np.testing.assert_allclose(found[name], tensor, atol=bound, rtol=0, err_msg=name)


def test_attention_written_out_has_its_rows_too() -> None:
    torch.manual_seed(3)
    model = HEADS["base"].model_class(small_config(), attn_implementation="eager").eval()
    program, batch = capture(model, PROFILE), batch_of(2, 9)
    assert torch.ops.aten.softmax.int in {node.target for node in program.graph.nodes}
    found = answers_of(to_tensorflow(program), batch)
    for name, tensor in eager_answers(model, batch).items():
        np.testing.assert_allclose(found[name], tensor, atol=2e-5, rtol=0)


def test_every_weight_is_one_constant_under_its_name() -> None:
    program = small_program("masked-lm")
    nodes = [node for node in to_tensorflow(program).graph.as_graph_def().node if node.op == "Const"]
    stored = Counter(node.name for node in nodes)
    names = {name.removeprefix("model.").replace(".", "/") for name in program.state_dict}
    tied = {"predictions/decoder/weight", "predictions/decoder/bias"}  # word table and predictions.bias by other names
    assert names - stored.keys() == tied
    weights = sum(tf.make_ndarray(node.attr["value"].tensor).nbytes for node in nodes if node.name in names)
    assert weights == distinct_weight_bytes(program)


def test_two_names_of_one_tensor_are_one_constant() -> None:
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Parameter(torch.randn(97, 4))
            self.second = torch.nn.Parameter(self.first.data)

        def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> dict[str, torch.Tensor]:
            look_up = torch.nn.functional.embedding
            return {"out": look_up(ids, self.first) + look_up(types, self.second) + mask[..., None].float()}

    batch = batch_of(2, 9)
    program = torch.export.export(Twice(), batch.tensors())
    assert len(program.graph_signature.parameters) == 2
    nodes = to_tensorflow(program).graph.as_graph_def().node
    assert sum(node.op == "Const" and tf.make_ndarray(node.attr["value"].tensor).size == 97 * 4 for node in nodes) == 1


def test_linear_maps_see_tokens_end_to_end() -> None:
    operations = to_tensorflow(small_program("base")).graph.get_operations()
    assert {op.outputs[0].shape.rank for op in operations if op.type in ("MatMul", "BiasAdd")} == {2}
    kinds = Counter(op.type for op in operations)
    passes, reshapes_a_pass = 6, 4  # query, key, value in; context out
    assert kinds["MatMul"] == 6 * passes + 2
    assert kinds["Reshape"] <= reshapes_a_pass * passes + 12


def test_an_op_without_a_row_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {op: row for op, row in tensorflow_ops.ROWS.items() if op is not torch.ops.aten.gelu.default}
    monkeypatch.setattr(tensorflow_ops, "ROWS", rows)
    with pytest.raises(NotImplementedError, match=r"aten\.gelu\.default \(node gelu\).*exported_program"):
        to_tensorflow(small_program("base"))


def test_float32_only_widens_weights_and_rounds_no_activation() -> None:
    program, batch = prepare(small_program("base"), "fp16"), batch_of(1, 9)
    graph = to_tensorflow(program, float32_only=True)
    assert {t.dtype for op in graph.graph.get_operations() for t in op.outputs if t.dtype.is_floating} == {tf.float32}
    widened = copy.deepcopy(prepare(small_program("base"), "fp32").module())  # fp32 keeps the program's own weights
    widened.load_state_dict({name: tensor.float() for name, tensor in program.state_dict.items()}, strict=False)
    with torch.inference_mode():
        expected = widened(*batch.tensors())["last_hidden_state"]
    np.testing.assert_allclose(answers_of(graph, batch)["last_hidden_state"], expected, atol=1e-3, rtol=0)
