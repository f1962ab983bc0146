"""int8: where the pairs stand, that a weight is stored once, that a pass has its own scale, that the numbers are right.

The reference is the eager model whose ``F.linear`` is replaced by one that rounds weights and inputs by hand.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from functools import cache
from typing import Any

import pytest
import torch
from precision_samples import CONFIG, answers, batches_of, captured, graph_of, largest_difference, model_of
from torch import Tensor
from torch.export import ExportedProgram
from torch.nn import functional as F

from albert_fast import functional
from albert_fast.precision import PARTS, Quantization, Scales, prepare
from albert_fast.precision.calibration import collect
from albert_fast.precision.int8 import quantized_weight
from albert_fast.precision.policy import aten
from albert_fast.precision.sites import sites

qd = torch.ops.quantized_decomposed
LAYER = "encoder.albert_layer_groups.0.albert_layers.0"
ENCODER = [f"{LAYER}.{name}.input" for name in ("attention", "attention.dense", "ffn", "ffn_output")]
PASSES = CONFIG.num_hidden_layers
_linear = F.linear
EXACT = 2e-4
"""Two float32 computations of the same rounded numbers; a number at the edge between two levels may go either way."""


@cache
def scales_of(head: str = "pretraining", attention: str = "sdpa") -> Scales:
    return collect(graph_of(head, attention), batches_of(head)).scales("max")


def quantized(head: str = "pretraining", attention: str = "sdpa", **changes: Any) -> ExportedProgram:
    settings = {"scales": scales_of(head, attention), **changes}
    return prepare(graph_of(head, attention), "int8", quantization=Quantization(**settings))


def nodes(program: ExportedProgram, op: Any) -> list[torch.fx.Node]:
    return [node for node in program.graph.nodes if node.target is op]


def test_every_weight_of_the_layer_is_int8_once_and_dequantized_once_for_all_passes() -> None:
    program = quantized()
    int8 = {name for name, tensor in program.state_dict.items() if tensor.dtype == torch.int8}
    assert {name.split(f"{LAYER}.")[1] for name in int8} == {
        "attention.query.weight", "attention.key.weight", "attention.value.weight", "attention.dense.weight",
        "ffn.weight", "ffn_output.weight",
    }  # fmt: skip
    found = nodes(program, qd.dequantize_per_channel.default)
    assert len(found) == len(int8)
    assert all(len(node.users) == PASSES for node in found)
    assert not [
        n for n in nodes(program, aten.linear.default) if n.args[1].op == "placeholder" and n.args[1].name in int8
    ]


def test_query_key_and_value_read_one_pair_and_every_pass_has_its_own_scale() -> None:
    program = quantized()
    found = nodes(program, qd.quantize_per_tensor.default)
    expected = [
        amax / 127 for pass_index in range(PASSES) for amax in (scales_of().amax[t][pass_index] for t in ENCODER)
    ]
    assert [node.args[1] for node in found] == expected
    assert len(set(expected)) == len(expected)
    pairs = nodes(program, qd.dequantize_per_tensor.default)
    assert Counter(len(node.users) for node in pairs) == {3: PASSES, 1: 3 * PASSES}
    assert all(node.args[2:] == (0, -127, 127, torch.int8) for node in found)  # symmetric, as TensorRT wants it


def test_the_program_given_is_not_changed() -> None:
    before = [node.format_node() for node in graph_of().graph.nodes]
    expected = answers(graph_of(), batches_of())
    quantized(parts=tuple(p for p in PARTS if p != "attention"))
    assert [node.format_node() for node in graph_of().graph.nodes] == before
    assert largest_difference(answers(graph_of(), batches_of()), expected) == 0


def test_weights_are_rounded_to_the_nearest_of_255_levels_of_their_output_channel() -> None:
    weight = torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0], [1e-3, 2e-3, -4e-3]])
    int8, scale = quantized_weight(weight)
    assert int8.tolist() == [[64, -127, 32], [0, 0, 0], [32, 64, -127]]
    assert torch.allclose(scale, torch.tensor([2.0, 1.0, 4e-3]) / 127)


class _RoundingLinear:
    """``F.linear`` of the eager model: weights and inputs of the layer's maps are rounded, call by call."""

    def __init__(self, scales: Scales, layer_weights: dict[int, str]) -> None:
        self.scales, self.layer_weights = scales, layer_weights
        self.calls: Counter[str] = Counter()

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        name = self.layer_weights.get(weight.data_ptr())
        if name is None:
            return _linear(x, weight, bias)
        tensor = f"{LAYER}.attention.input" if name in ("query", "key", "value") else f"{LAYER}.{name}.input"
        scale = self.scales.amax[tensor][self.calls[name]] / 127
        self.calls[name] += 1
        channel = weight.abs().amax(1, keepdim=True) / 127
        rounded_x = torch.clamp(torch.round(x / scale), -127, 127) * scale
        return _linear(rounded_x, torch.round(weight / channel) * channel, bias)


def test_the_numbers_are_those_of_the_eager_model_rounded_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of()
    names = {
        "query": "attention.query", "key": "attention.key", "value": "attention.value",
        "attention.dense": "attention.dense", "ffn": "ffn", "ffn_output": "ffn_output",
    }  # fmt: skip
    parameters = dict(model.named_parameters())
    pointers = {parameters[f"albert.{LAYER}.{path}.weight"].data_ptr(): name for name, path in names.items()}
    found = answers(quantized(), batches_of())
    for batch, answer in zip(batches_of(), found, strict=True):
        linear = _RoundingLinear(scales_of(), pointers)
        with monkeypatch.context() as patch, torch.inference_mode():
            patch.setattr(functional.F, "linear", linear)
            expected = model(*batch.tensors())
        assert linear.calls["ffn"] == PASSES
        assert all(float((answer[name] - expected[name]).abs().max()) <= EXACT for name in answer)


@pytest.mark.parametrize("rest", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("parts", [("encoder",), ("embeddings",), ("heads",), ("encoder", "embeddings", "heads")])
def test_every_part_stays_near_float32_in_every_rest_and_outputs_are_float32(rest: str, parts: tuple[str, ...]) -> None:
    found = answers(quantized(parts=parts, rest=rest), batches_of())
    expected = answers(graph_of(), batches_of())
    assert all(tensor.dtype == torch.float32 for answer in found for tensor in answer.values())
    difference = largest_difference(found, expected)
    assert 0 < difference <= 0.25


def test_attention_products_are_quantized_in_a_graph_that_shows_them() -> None:
    program = quantized("base", "eager", parts=("encoder", "attention"))
    products = nodes(program, aten.matmul.default)
    assert len(products) == 2 * PASSES
    for product in products:
        assert all(operand.target is qd.dequantize_per_tensor.default for operand in product.args)
    difference = largest_difference(answers(program, batches_of("base")), answers(graph_of("base"), batches_of("base")))
    assert difference <= 0.25


def test_a_word_table_that_is_the_decoder_too_is_one_int8_tensor() -> None:
    program = quantized("masked-lm", parts=("embeddings", "heads"))
    tables = [
        t for name, t in program.state_dict.items() if name.endswith(("word_embeddings.weight", "decoder.weight"))
    ]
    assert {tensor.dtype for tensor in tables} == {torch.int8}
    assert len({tensor.data_ptr() for tensor in tables}) == 1
    lookups = [node for node in nodes(program, aten.embedding.default) if node.meta["val"].dtype == torch.int8]
    assert len(lookups) == 1
    assert nodes(program, aten.linear.default)[-1].args[1].target is qd.dequantize_per_channel.default


def test_a_kept_pass_reads_unrounded_numbers_and_the_same_stored_weight() -> None:
    program = quantized(keep=("ffn_output.input@1", "attention.dense.input"))
    linears = nodes(program, aten.linear.default)
    named = {site.node: site for site in sites(graph_of())}
    for linear in linears:
        site = named[linear.name]
        kept = site.place.endswith("ffn_output.input@1") or site.tensor.endswith("attention.dense.input")
        if site.part == "encoder":
            assert (linear.args[0].target is qd.dequantize_per_tensor.default) is not kept
    assert program.state_dict[f"model.albert.{LAYER}.ffn_output.weight"].dtype == torch.int8
    assert (
        program.state_dict[f"model.albert.{LAYER}.attention.dense.weight"].dtype == torch.float32
    )  # no pass reads int8


@pytest.mark.parametrize("rest", ["fp32", "bf16"])
@pytest.mark.parametrize("keep", [(), ("ffn.input@2",)])
def test_smoothing_divides_what_all_passes_read_and_changes_little(rest: str, keep: tuple[str, ...]) -> None:
    torch.manual_seed(1)
    factors = tuple((torch.rand(CONFIG.hidden_size) * 4 + 0.2).tolist())
    statistics = collect(graph_of(), batches_of())
    amax = dict(statistics.scales("max").amax)
    tensor = f"{LAYER}.ffn.input"
    amax[tensor] = tuple((statistics.channel_amax[tensor] / torch.tensor(factors)).amax(1).tolist())
    smoothed = dataclasses.replace(statistics.scales("max"), amax=amax, smoothing={tensor: factors})
    found = answers(quantized(scales=smoothed, keep=keep, rest=rest), batches_of())
    assert largest_difference(found, answers(graph_of(), batches_of())) <= 0.3


def test_a_smoothed_graph_holds_its_factors_once() -> None:
    tensor = f"{LAYER}.ffn.input"
    smoothed = dataclasses.replace(scales_of(), smoothing={tensor: (2.0,) * CONFIG.hidden_size})
    program = quantized(scales=smoothed)
    (factors,) = [value for name, value in program.state_dict.items() if name.endswith("_smoothing")]
    assert factors.tolist() == [0.5] * CONFIG.hidden_size
    assert len(next(n for n in program.graph.nodes if n.name.endswith("_smoothing")).users) == PASSES


def test_smoothing_of_a_table_that_is_looked_up_is_refused() -> None:
    scales = scales_of("masked-lm")
    tensor = next(site.tensor for site in sites(graph_of("masked-lm")) if "word_embeddings" in (site.weight or ""))
    smoothed = dataclasses.replace(scales, smoothing={tensor: (2.0,) * CONFIG.embedding_size})
    with pytest.raises(ValueError, match="is looked up as well"):
        quantized("masked-lm", parts=("heads",), scales=smoothed)


def test_merged_scales_have_one_range_for_all_passes() -> None:
    merged = scales_of().merged()
    assert all(len(set(values)) == 1 for values in merged.amax.values())
    assert all(max(scales_of().amax[tensor]) == values[0] for tensor, values in merged.amax.items())
    assert merged.digest != scales_of().digest


def test_a_program_saved_and_loaded_answers_the_same(tmp_path: Any) -> None:
    program = quantized(rest="bf16")
    torch.export.save(program, tmp_path / "program.pt2")
    loaded = torch.export.load(tmp_path / "program.pt2")
    assert largest_difference(answers(loaded, batches_of()), answers(program, batches_of())) == 0


def test_scales_of_another_model_are_refused() -> None:
    with torch.random.fork_rng():
        other = model_of("pretraining")
        other.albert.encoder.albert_layer_groups[0].albert_layers[0].ffn.weight.data[0, 0] += 1e-3
    with pytest.raises(ValueError, match="these scales are of another model"):
        prepare(captured(other), "int8", quantization=Quantization(scales_of()))


def test_scales_fit_the_same_encoder_under_another_head() -> None:
    scales = scales_of("base")
    model = model_of("masked-lm")
    model.albert.load_state_dict(model_of("base").state_dict(), strict=False)
    prepare(captured(model), "int8", quantization=Quantization(scales))
    with pytest.raises(ValueError, match=r"no range for predictions\.dense\.input@0, .*calibrate with this head"):
        prepare(captured(model), "int8", quantization=Quantization(scales, parts=("encoder", "heads")))


def test_what_cannot_be_quantized_is_told() -> None:
    with pytest.raises(ValueError, match="int8 needs scales: calibrate"):
        prepare(graph_of(), "int8")
    with pytest.raises(ValueError, match="bf16 does not quantize"):
        prepare(graph_of(), "bf16", quantization=Quantization(scales_of()))
    with pytest.raises(ValueError, match=r"keep names nothing\.input@3, which no quantized tensor is called"):
        quantized(keep=("nothing.input@3",))
    with pytest.raises(ValueError, match=r"nothing is left to quantize of attention .*attention='eager'"):
        quantized(parts=("attention",))
    with pytest.raises(ValueError, match="parts is tail, expected some of encoder"):
        Quantization(scales_of(), parts=("tail",))
    with pytest.raises(ValueError, match="rest is 'int8', expected one of fp32"):
        Quantization(scales_of(), rest="int8")
