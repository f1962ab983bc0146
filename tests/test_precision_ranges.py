"""ranges and keep_float32: which tensors do not fit float16, and that naming them leaves them in float32."""

from __future__ import annotations

import math

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

from albert_fast.attention import ATTENTION
from albert_fast.engine.signature import distinct_weight_bytes
from albert_fast.precision import PRECISIONS, prepare
from albert_fast.precision.ranges import overflowing

aten = torch.ops.aten


def with_large_feed_forward(**options):
    """A model whose feed-forward grows to some 100,000, as the activations of a few trained models do."""
    model = model_of(**options)
    model.albert.encoder.albert_layer_groups[0].albert_layers[0].ffn.weight.data *= 1e5
    return model


@pytest.mark.parametrize("attention", ATTENTION)
def test_nothing_overflows_in_a_model_of_common_size_though_its_mask_is_huge(attention):
    assert overflowing(graph_of(attention=attention), batches_of()) == {}


@pytest.mark.parametrize("attention", ATTENTION)
def test_tensors_that_float16_cannot_hold_are_named_with_their_size_and_keeping_them_mends_the_answer(attention):
    program, batches = captured(with_large_feed_forward(attention=attention)), batches_of()
    expected = answers(program, batches)
    found = overflowing(program, batches)
    operators = {node.name: node.target for node in program.graph.nodes}
    assert {operators[name] for name in found} <= {aten.linear.default, aten.gelu.default}
    assert len([name for name in found if operators[name] is aten.gelu.default]) == CONFIG.num_hidden_layers
    assert all(amax > 65504 for amax in found.values())
    assert largest_difference(answers(prepare(program, "fp16"), batches), expected) == math.inf
    mended = prepare(program, "fp16", keep_float32=list(found))
    assert largest_difference(answers(mended, batches), expected) <= PRECISIONS["fp16"].budget.max_abs
    assert overflowing(program, batches, torch.bfloat16) == {}


def test_scores_inside_attention_count():
    model = model_of("base")
    attention = model.encoder.albert_layer_groups[0].albert_layers[0].attention
    attention.query.weight.data *= 2000
    attention.key.weight.data *= 2000
    found = overflowing(captured(model), batches_of("base"))
    assert len([name for name in found if name.startswith("scaled_dot_product_attention")]) == CONFIG.num_hidden_layers


def test_a_weight_that_float16_cannot_hold_is_named_first():
    model = model_of("base")
    model.pooler.weight.data[0, 0] = 1e5
    found = overflowing(captured(model), batches_of("base"))
    assert next(iter(found.items())) == ("p_model_pooler_weight", pytest.approx(1e5))


def test_overflowing_wants_a_batch():
    with pytest.raises(ValueError, match=r"batches is empty"):
        overflowing(graph_of(), [])


@pytest.mark.parametrize("name", HALVES)
def test_a_graph_of_which_everything_is_kept_is_the_float32_graph(name):
    program, batches = graph_of(), batches_of()
    kept = prepare(program, name, keep_float32=["*"])
    assert {tensor.dtype for tensor in kept.state_dict.values()} == {torch.float32}
    assert largest_difference(answers(kept, batches), answers(program, batches)) == 0


@pytest.mark.parametrize("name", HALVES)
def test_what_one_pass_keeps_costs_no_second_copy_of_the_shared_weights(name):
    program = graph_of()
    plain, kept = prepared_graph(name), prepare(program, name, keep_float32=["gelu"])
    assert distinct_weight_bytes(kept) == distinct_weight_bytes(plain)
    in_float32 = [
        n.name for n in kept.graph.nodes if n.target is aten.linear.default and n.meta["val"].dtype == torch.float32
    ]
    assert in_float32 == ["linear_6"]  # the one that reads the first pass's gelu


@pytest.mark.parametrize("pattern", ["view_1", "transpose_1", "linear_2"])
def test_a_tensor_is_kept_under_any_of_its_shapes(pattern):
    kept = prepare(graph_of(), "fp16", keep_float32=[pattern])
    dtypes = {
        node.name: node.meta["val"].dtype for node in kept.graph.nodes if isinstance(node.meta.get("val"), torch.Tensor)
    }
    assert {dtypes[name] for name in ("linear_2", "view_1", "transpose_1", "scaled_dot_product_attention")} == {
        torch.float32
    }
    assert dtypes["linear_3"] == torch.float16


def test_a_name_that_fits_no_tensor_is_refused():
    with pytest.raises(ValueError, match=r"keep_float32 names gelu_99, no_such\*, but .*such as"):
        prepare(graph_of(), "fp16", keep_float32=["gelu_99", "gelu", "no_such*"])
