"""The encoder in a typed graph: what is read off it in every precision and head, and refusals that name the node."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engine_samples import PROFILE, small_config, small_program
from quantized_samples import exact_program, quantized, scales_of, smoothed
from torch.export import ExportedProgram

from albert_fast.batch import ShapeProfile
from albert_fast.capture import capture
from albert_fast.engine.encoder_graph import EncoderGraph, recognise
from albert_fast.engine.rewriting import Rewriting
from albert_fast.errors import EngineError
from albert_fast.heads import HEADS
from albert_fast.precision import prepare

READ_FIRST_TOKEN = ("sequence-classification", "multiple-choice")
aten, qd = torch.ops.aten, torch.ops.quantized_decomposed


def found_in(program: ExportedProgram) -> EncoderGraph:
    return recognise(program.graph)


def captured(head: str = "base", profile: ShapeProfile = PROFILE, **changes: Any) -> ExportedProgram:
    return capture(HEADS[head].model_class(small_config(**changes)).eval(), profile)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("head", HEADS)
def test_the_encoder_of_every_head_is_recognised(head: str, precision: str) -> None:
    found = found_in(prepare(small_program(head), precision))
    settings = found.settings
    assert settings.schedule == (0,) * 6 and len(found.layers) == 1
    assert (settings.num_heads, settings.attention_scale, settings.layer_norm_eps) == (4, 0.25, 1e-12)
    assert settings.activation == "gelu_tanh" and settings.input_scales == ()
    assert settings.first_token_only == (head in READ_FIRST_TOKEN) == bool(found.first_tokens)
    dtype = {"fp32": "float32", "bf16": "bfloat16"}[precision]
    assert settings.attention_dtype == found.weight_dtype == dtype
    assert found.embedded.target is aten.layer_norm.default  # in float32, whatever is behind it
    assert found.attention_mask.meta["val"].dim() == 2


@pytest.mark.parametrize("rest", ["fp32", "bf16"])
def test_an_int8_encoder_has_four_scales_in_each_pass(rest: str) -> None:
    found = found_in(quantized(rest=rest))
    scales, amax = found.settings.input_scales, scales_of().amax
    assert len(scales) == 1 + 4 * 6 and scales[0] == 0.0
    layer = next(name for name in amax if name.endswith(".attention.input")).removesuffix("attention.input")
    for index, end in enumerate(("attention.input", "attention.dense.input", "ffn.input", "ffn_output.input")):
        assert scales[1 + index :: 4] == tuple(value / 127 for value in amax[layer + end])
    assert found.weight_dtype == "int8"
    assert found.settings.attention_dtype == {"fp32": "float32", "bf16": "bfloat16"}[rest]


def test_an_int8_map_from_the_embeddings_has_a_scale_too() -> None:
    found = found_in(quantized(parts=("encoder", "embeddings", "heads")))
    assert found.settings.input_scales[0] > 0 and found.mapping.scale is not None


def test_quantized_heads_leave_an_encoder_in_floating_point() -> None:
    found = found_in(quantized(parts=("heads",)))
    assert found.settings.input_scales == () and found.weight_dtype == "float32"


@pytest.mark.parametrize("rest", ["fp32", "bf16"])
def test_factors_of_smoothing_belong_to_the_maps_that_read_what_they_multiply(rest: str) -> None:
    layer = found_in(smoothed(rest=rest)).layers[0]
    maps = (layer.query, layer.key, layer.value, layer.ffn, layer.ffn_output)
    names = [one.factors.name for one in maps if one.factors is not None]
    ends = ("attention_input", "attention_input", "attention_input", "ffn_input", "ffn_output_input")
    assert [name.endswith(f"{end}_smoothing") for name, end in zip(names, ends, strict=True)] == [True] * 5
    assert layer.dense.factors is None  # divided out of the value projection before
    assert found_in(quantized(rest=rest)).layers[0].ffn.factors is None


def test_several_layers_come_in_the_order_of_their_first_pass() -> None:
    program = captured(num_hidden_groups=2, inner_group_num=2, num_hidden_layers=4)
    found = found_in(program)
    assert found.settings.schedule == (0, 1, 0, 1, 2, 3, 2, 3)
    names = [program.graph_signature.inputs_to_parameters[layer.ffn.weight.name] for layer in found.layers]
    places = [(group, layer) for group in (0, 1) for layer in (0, 1)]
    assert [name.partition("albert_layer_groups.")[2] for name in names] == [
        f"{group}.albert_layers.{layer}.ffn.weight" for group, layer in places
    ]


def test_a_graph_of_one_shape_is_recognised_as_one_of_many() -> None:
    assert found_in(captured(profile=ShapeProfile(2, 2, 2, 7, 7, 7))).settings.schedule == (0,) * 6


@pytest.mark.parametrize(
    ("act", "name"),
    [("gelu", "gelu"), ("gelu_new", "gelu_tanh"), ("relu", "relu"), ("silu", "silu"), ("linear", "linear")],
)
def test_activations_that_the_kernel_has_are_read_off(act: str, name: str) -> None:
    assert found_in(captured(hidden_act=act, num_hidden_layers=1)).settings.activation == name


@pytest.mark.parametrize("act", ["quick_gelu", "mish", "relu6", "sigmoid", "tanh"])
def test_other_activations_are_refused_by_their_node(act: str) -> None:
    with pytest.raises(EngineError, match=r"is aten\.\w+\.\w+, the activation, expected GELU .*choose the format"):
        found_in(captured(hidden_act=act, num_hidden_layers=1))


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (lambda: exact_program(attention="eager"), "does not call: capture it with attention sdpa"),
        (lambda: quantized(attention="eager", parts=("encoder", "attention")), "capture it with attention sdpa"),
        (lambda: quantized(keep=("ffn.input@2",)), r"linear_\d+ is reading what is kept in floating point.*keep empty"),
        (lambda: quantized(keep=("ffn.input",)), "ffn_weight is with the weights' dtype torch.float32, expected"),
        (lambda: quantized(parts=("embeddings",)), "mapping_in_weight is int8 with layers that are not"),
        (lambda: prepare(small_program(), "fp16"), "query_weight is torch.float16, expected float32, bfloat16 or int8"),
    ],
)
def test_what_the_op_does_not_compute_is_refused(program: Any, message: str) -> None:
    with pytest.raises(EngineError, match=message + ".*exported_program"):
        found_in(program())


def test_products_before_rounding_that_are_not_smoothing_are_refused() -> None:
    rewriting = Rewriting(quantized())
    first = rewriting.find(qd.quantize_per_tensor.default)[0]
    with rewriting.graph.inserting_before(first):
        first.update_arg(0, rewriting.call(aten.mul.Tensor, first.args[0], 2.0))
    with pytest.raises(
        EngineError, match=r"mul_tensor is a product with 2\.0, expected one with the factors of smooth"
    ):
        recognise(rewriting.graph)
    rewriting = Rewriting(smoothed())
    key = rewriting.find(aten.linear.default)[2]  # behind the map of embeddings and the query
    dequantize = key.args[0]
    with rewriting.graph.inserting_before(key):
        quantize = dequantize.args[0]
        other = next(node for node in rewriting.graph.nodes if node.name.endswith("ffn_input_smoothing"))
        product = rewriting.call(aten.mul.Tensor, quantize.args[0].args[0], other)
        rounded = rewriting.call(quantize.target, product, *quantize.args[1:])
        key.update_arg(0, rewriting.call(dequantize.target, rounded, *dequantize.args[1:]))
    with pytest.raises(EngineError, match=r"linear_\d+ is smoothed by other factors, expected those of the query"):
        recognise(rewriting.graph)


def changed(change: Any) -> ExportedProgram:
    """A small program with one thing in its graph changed."""
    program = captured(num_hidden_layers=2)
    nodes = {node.name: node for node in program.graph.nodes}
    change(program.graph, nodes)
    return program


def _other_eps(graph: Any, nodes: Any) -> None:
    nodes["layer_norm_3"].update_arg(4, 1e-5)


def _causal(graph: Any, nodes: Any) -> None:
    node = nodes["scaled_dot_product_attention_1"]
    node.args = (*node.args, 0.0, True)


def _other_residual(graph: Any, nodes: Any) -> None:
    nodes["add_4"].update_arg(0, nodes["linear"])


def _hidden_state_read(graph: Any, nodes: Any) -> None:
    with graph.inserting_before(next(reversed(graph.nodes))):
        graph.call_function(aten.relu.default, (nodes["layer_norm_2"],)).meta["val"] = nodes["layer_norm_2"].meta["val"]


def _other_scale(graph: Any, nodes: Any) -> None:
    nodes["scaled_dot_product_attention_1"].kwargs = {"scale": 0.3}


def _key_of_another_state(graph: Any, nodes: Any) -> None:
    nodes["linear_8"].update_arg(0, nodes["linear"])


def _mask_the_other_way(graph: Any, nodes: Any) -> None:
    nodes["eq"].update_arg(1, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_other_eps, "layer_norm_3 is with eps 1e-05, expected 1e-12 as at layer_norm_1"),
        (_causal, "scaled_dot_product_attention_1 is with dropout, causal or grouped"),
        (_other_residual, "add_4 is the sum of linear and linear_10, expected one of them to be layer_norm_2"),
        (_hidden_state_read, "layer_norm_2 is read by relu_default, expected nobody outside"),
        (_other_scale, "scaled_dot_product_attention_1 is with the scale 0.3, expected 0.25"),
        (_key_of_another_state, "linear_8 is reading linear, expected layer_norm_2"),
        (_mask_the_other_way, "eq is equal to 1, expected equal to 0"),
    ],
)
def test_a_graph_that_is_not_alberts_is_refused_by_the_node_that_differs(change: Any, message: str) -> None:
    with pytest.raises(EngineError, match=message):
        found_in(changed(change))
