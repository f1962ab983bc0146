"""precision: a captured graph turned into a 16-bit one answers alike, keeps its face, and holds every weight once."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch
from precision_samples import (
    CONFIG,
    HALVES,
    answers,
    batches_of,
    captured,
    graph_of,
    largest_difference,
    model_of,
    prepared_graph,
)
from torch import nn
from torch.export import ExportedProgram

from albert_fast.attention import ATTENTION
from albert_fast.batch import Batch, ShapeProfile
from albert_fast.config import ACTIVATION_NAMES
from albert_fast.engine.measure import measure
from albert_fast.engine.signature import distinct_weight_bytes
from albert_fast.heads import HEADS
from albert_fast.model import AlbertModel
from albert_fast.precision import PRECISIONS, precision, prepare

aten = torch.ops.aten
PRODUCTS = (aten.linear.default, aten.matmul.default, aten.scaled_dot_product_attention.default)


Graph = tuple[str, ExportedProgram, str, ExportedProgram]


def assert_close(prepared: ExportedProgram, program: ExportedProgram, name: str, batches: list[Batch]) -> None:
    """The prepared program stays within its row's budget; the argmax of random weights means nothing."""
    budget = PRECISIONS[name].budget
    error = measure(answers(prepared, batches), answers(program, batches))
    assert error.max_abs <= budget.max_abs
    assert error.mean_abs <= budget.mean_abs
    assert error.cosine >= budget.cosine


def nodes_of(program: ExportedProgram, *targets: Any) -> list[torch.fx.Node]:
    found = [node for node in program.graph.nodes if node.target in targets]
    assert found
    return found


def dtypes_read(node: torch.fx.Node) -> set[torch.dtype]:
    values = [source.meta["val"] for source in node.all_input_nodes]
    return {value.dtype for value in values if isinstance(value, torch.Tensor) and value.is_floating_point()}


@pytest.fixture(
    scope="module", params=[(h, a, n) for h in HEADS for a in ATTENTION for n in HALVES], ids=lambda p: "-".join(p)
)
def graph(request: pytest.FixtureRequest) -> Graph:
    """A head, its captured graph, a precision, and the graph in it."""
    head, attention, name = request.param
    return head, graph_of(head, attention), name, prepared_graph(name, head, attention)


def test_every_head_and_attention_answers_as_in_float32_within_the_rows_budget(graph: Graph):
    head, program, name, prepared = graph
    assert_close(prepared, program, name, batches_of(head))
    for answer in answers(prepared, batches_of(head)):
        assert tuple(answer) == HEADS[head].outputs
        assert {tensor.dtype for tensor in answer.values()} == {torch.float32}


def test_inputs_and_their_ranges_stay_as_captured(graph: Graph):
    _, program, _, prepared = graph
    inputs = program.graph_signature.user_inputs
    assert prepared.graph_signature.user_inputs == inputs
    assert prepared.range_constraints == program.range_constraints
    found, expected = ([n.meta["val"] for n in p.graph.nodes if n.name in inputs] for p in (prepared, program))
    assert [str(value.shape) for value in found] == [str(value.shape) for value in expected]
    assert {value.dtype for value in found} == {torch.int64}


def test_every_node_of_the_captured_graph_keeps_its_name(graph: Graph):
    _, program, _, prepared = graph
    checks = {node.name for node in program.graph.nodes if node.target is aten._assert_tensor_metadata.default}
    assert {n.name for n in program.graph.nodes} - checks <= {n.name for n in prepared.graph.nodes}


def test_products_read_and_make_16_bits_and_norms_softmaxes_and_residual_sums_float32(graph: Graph):
    _, _, name, prepared = graph
    half = PRECISIONS[name].dtype
    for node in nodes_of(prepared, *PRODUCTS):
        assert dtypes_read(node) == {half} == {node.meta["val"].dtype}
    for node in nodes_of(prepared, aten.layer_norm.default):
        assert dtypes_read(node) == {torch.float32} == {node.meta["val"].dtype}
    residuals = [
        n for n in nodes_of(prepared, aten.add.Tensor) if aten.layer_norm.default in {u.target for u in n.users}
    ]
    assert len(residuals) >= 2 * CONFIG.num_hidden_layers
    assert all(dtypes_read(node) == {torch.float32} for node in residuals)
    for node in (n for n in prepared.graph.nodes if n.target is aten.softmax.int):
        assert dtypes_read(node) == {torch.float32}


@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
def test_every_activation_goes_to_16_bits(activation):
    program = captured(model_of("masked-lm", hidden_act=activation, num_hidden_layers=1))
    for name in HALVES:
        assert_close(prepare(program, name), program, name, batches_of("masked-lm"))


@pytest.mark.parametrize(
    "changes",
    [
        dict(num_hidden_layers=6, num_hidden_groups=2, inner_group_num=2),
        dict(embedding_size=48),
        dict(num_attention_heads=1),
    ],
    ids=str,
)
def test_every_shape_of_config_goes_to_16_bits(changes):
    program = captured(model_of("base", **changes))
    for name in HALVES:
        assert_close(prepare(program, name), program, name, batches_of("base"))


def test_a_model_without_pooler_goes_to_16_bits():
    program = captured(AlbertModel(CONFIG, add_pooling_layer=False).eval())
    for name in HALVES:
        prepared = prepare(program, name)
        assert_close(prepared, program, name, batches_of("base"))
        assert list(answers(prepared, batches_of("base"))[0]) == ["last_hidden_state"]


def test_a_static_profile_stays_static():
    profile = ShapeProfile(2, 2, 2, 16, 16, 16)
    program = captured(model_of(), profile)
    for name in HALVES:
        prepared = prepare(program, name)
        assert_close(prepared, program, name, batches_of(profile=profile))
        ids = next(node for node in prepared.graph.nodes if node.name == "input_ids")
        assert list(ids.meta["val"].shape) == [2, 16]


@pytest.mark.parametrize("name", HALVES)
def test_every_weight_is_held_once_in_16_bits_and_those_of_norms_in_float32(name):
    program, prepared = graph_of(), prepared_graph(name)
    state = prepared.state_dict
    assert list(state) == list(program.state_dict)
    for weight, tensor in state.items():
        assert tensor.dtype == (
            torch.float32 if "layer_norm" in weight.lower() or "LayerNorm" in weight else precision(name).dtype
        )
    assert state["model.predictions.decoder.weight"] is state["model.albert.embeddings.word_embeddings.weight"]
    norms = sum(t.numel() for t in state.values() if t.dtype == torch.float32)
    assert distinct_weight_bytes(prepared) == (distinct_weight_bytes(program) + 4 * norms) // 2


def test_the_float32_program_is_left_as_it_was():
    program = graph_of()
    before = {name: (tensor.data_ptr(), tensor.dtype) for name, tensor in program.state_dict.items()}
    text, batches = str(program.graph), batches_of()
    expected = answers(program, batches)
    prepare(program, "bf16")
    assert {name: (tensor.data_ptr(), tensor.dtype) for name, tensor in program.state_dict.items()} == before
    assert str(program.graph) == text
    assert largest_difference(answers(program, batches), expected) == 0


def test_a_saved_program_answers_as_before_it_was_saved(graph: Graph):
    head, _, _, prepared = graph
    file = io.BytesIO()
    torch.export.save(prepared, file)
    loaded = torch.export.load(io.BytesIO(file.getvalue()))
    batches = batches_of(head)
    assert largest_difference(answers(loaded, batches), answers(prepared, batches)) == 0


@pytest.mark.parametrize("name", HALVES)
@pytest.mark.parametrize("attention", ATTENTION)
def test_a_padded_token_changes_no_answer_and_a_row_of_padding_stays_finite(attention, name):
    run = prepared_graph(name, "base", attention).module(check_guards=False)
    ids, mask = torch.randint(5, 120, (3, 12)), torch.ones(3, 12, dtype=torch.int64)
    mask[1, 7:], mask[2] = 0, 0
    other = ids.clone()
    other[1, 7:] = 5
    with torch.inference_mode():
        first, second = (run(x, mask, torch.zeros_like(x))["last_hidden_state"] for x in (ids, other))
    assert torch.equal(first[1, :7], second[1, :7])
    assert bool(first.isfinite().all())


def test_the_mask_fits_float16_in_sdpa_and_stays_as_captured_where_the_softmax_is_explicit():
    for attention, expected in (
        ("sdpa", torch.finfo(torch.float16).min / 2),
        ("eager", torch.finfo(torch.float32).min / 2),
    ):
        prepared = prepared_graph("fp16", "base", attention)
        constants = [node.args[1] for node in nodes_of(prepared, aten.mul.Tensor) if not 0 < node.args[1] < 1]
        assert constants == [expected]


def test_a_mean_and_a_sum_run_in_float32():
    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 8)

        def forward(self, x):
            return self.linear(self.linear(self.linear.weight).mean(0) + self.linear.weight.sum([1])) * x[:, :1]

    program = torch.export.export(Pooled(), (torch.ones(8, 8, dtype=torch.int64),))
    prepared = prepare(program, "fp16")
    for node in nodes_of(prepared, aten.mean.dim, aten.sum.dim_IntList):
        assert dtypes_read(node) == {torch.float32}


class WithOp(nn.Module):
    def __init__(self, op: Any) -> None:
        super().__init__()
        self.linear, self.op = nn.Linear(4, 4), op

    def forward(self, ids):
        return self.op(self.linear(self.linear.weight)) + ids


@pytest.mark.parametrize(
    ("op", "named"),
    [
        (torch.erf, r"aten\.erf\.default \(node erf\)"),
        (lambda x: x.to(torch.float64), r"aten\.to\.dtype \(node to\)"),
        (lambda x: x.argmax(-1), r"aten\.argmax\.default \(node argmax\)"),
        (lambda x: x.sum([1], dtype=torch.int64), r"aten\.sum\.dim_IntList \(node sum_1\)"),
    ],
    ids=["erf", "float64", "argmax", "integer sum"],
)
def test_an_op_without_a_row_is_refused_by_its_name(op, named):
    with torch.no_grad():
        program = torch.export.export(WithOp(op), (torch.ones(4, 4, dtype=torch.int64),))
    with pytest.raises(ValueError, match=rf"holds the op {named}, and no row of .*POLICY.*add one"):
        prepare(program, "bf16")


def test_a_constant_beyond_float16_is_refused_unless_it_stays_in_float32():
    program = torch.export.export(WithOp(lambda x: (x * 1e6) @ x), (torch.ones(4, 4, dtype=torch.int64),))
    with pytest.raises(
        ValueError, match=r"aten\.mul\.Tensor \(node mul\) has the constant 1e\+06, .*keep_float32='mul'"
    ):
        prepare(program, "fp16")
    prepare(program, "bf16")
    prepare(program, "fp16", keep_float32=["mul"])


def test_a_weight_beyond_float16_is_named():
    model = model_of("base")
    model.pooler.weight.data[0, 0] = 1e5
    program = captured(model)
    with pytest.raises(ValueError, match=r"the weight model\.pooler\.weight holds 1e\+05, which does not fit .*bf16"):
        prepare(program, "fp16")
    kept = prepare(program, "fp16", keep_float32=["p_model_pooler_weight"])
    assert kept.state_dict["model.pooler.weight"].dtype == torch.float32


@pytest.mark.parametrize("name", PRECISIONS)
def test_a_program_that_is_not_float32_is_refused(name):
    program = captured(model_of("base").to(torch.bfloat16))
    with pytest.raises(ValueError, match=r"float32 weights, but \d+ are not.*bfloat16.*dtype=torch\.float32"):
        prepare(program, name)


def test_an_unknown_precision_lists_those_there_are():
    with pytest.raises(ValueError, match=r"'int3', expected one of fp32, fp16, bf16"):
        prepare(graph_of(), "int3")
