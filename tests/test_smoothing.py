"""SmoothQuant for a shared layer: it changes nothing but rounding, helps where channels reach out, and folds away."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import pytest
import torch
from precision_samples import CONFIG, answers, batches_of, captured, graph_of, largest_difference, model_of
from torch.export import ExportedProgram

from albert_fast.precision import Quantization, Scales, prepare
from albert_fast.precision.calibration import Statistics, collect
from albert_fast.precision.folding import folded
from albert_fast.precision.policy import aten
from albert_fast.precision.smoothing import choose, factors, smooth

LAYER = "encoder.albert_layer_groups.0.albert_layers.0"
MAPPING_IN = "encoder.embedding_hidden_mapping_in.input"
HEAD = "sequence-classification"
PARTS = ("encoder", "embeddings", "heads")
PASSES = CONFIG.num_hidden_layers


def usual(*, attention: str = "sdpa") -> Any:
    """A small model none of whose biases is 0."""
    model = model_of(HEAD, attention=attention)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if name.endswith("bias"):
                tensor += 0.1 * torch.randn(tensor.shape, generator=generator)
    return model


@cache
def program_of() -> ExportedProgram:
    return captured(usual())


@cache
def statistics_of() -> Statistics:
    return collect(program_of(), batches_of(HEAD))


def with_outliers(*, attention: str = "sdpa") -> Any:
    """The same function as ``usual`` with outlier channels: thirty times larger where they are made, thirty times
    smaller weights where they are read. Both places are no residual, so nothing else sees them."""
    model = usual(attention=attention)
    layer = model.albert.encoder.albert_layer_groups[0].albert_layers[0]
    norm, mapping_in = model.albert.embeddings.LayerNorm, model.albert.encoder.embedding_hidden_mapping_in
    with torch.no_grad():
        for channel in (3, 11):
            for tensor in (layer.attention.value.weight, layer.attention.value.bias, norm.weight, norm.bias):
                tensor[channel] *= 30
            layer.attention.dense.weight[:, channel] /= 30
            mapping_in.weight[:, channel] /= 30
    return model


def with_outliers_in_the_residual() -> Any:
    """Another model: its LayerNorms put two channels near 30, as trained ones do with a few. The other channels have
    the gain that holds their size beside them, and what reads the two has smaller weights for them."""
    model = usual()
    layer = model.albert.encoder.albert_layer_groups[0].albert_layers[0]
    with torch.no_grad():
        for norm in (layer.attention.LayerNorm, layer.full_layer_layer_norm):
            norm.weight *= 6
            for channel in (5, 20):
                norm.weight[channel] = 1
                norm.bias[channel] = 30
        for channel in (5, 20):
            for linear in (layer.attention.query, layer.attention.key, layer.attention.value, layer.ffn):
                linear.weight[:, channel] /= 30
    return model


def error(program: ExportedProgram, scales: Scales, parts: tuple[str, ...] = PARTS, output: str = "logits") -> float:
    """Root mean squared error of an output in int8."""
    int8, batches = prepare(program, "int8", quantization=Quantization(scales, parts)), batches_of(HEAD)
    mine, theirs = (torch.cat([one[output].flatten() for one in answers(p, batches)]) for p in (int8, program))
    return float((mine - theirs).square().mean().sqrt())


def channels_of(tensor: str) -> int:
    return {f"{LAYER}.ffn_output.input": CONFIG.intermediate_size, MAPPING_IN: CONFIG.embedding_size}.get(
        tensor, CONFIG.hidden_size
    )


@pytest.mark.parametrize(
    ("rest", "keep"),
    [("fp32", ()), ("bf16", ("ffn.input@2", "attention.dense.input@1")), ("fp16", ("attention.dense.input",))],
)
def test_a_factor_of_four_everywhere_changes_not_one_bit(rest: str, keep: tuple[str, ...]) -> None:
    program, plain = program_of(), statistics_of().scales("max")
    fours = dataclasses.replace(
        plain,
        amax={tensor: tuple(one / 4 for one in passes) for tensor, passes in plain.amax.items()},
        smoothing={tensor: (4.0,) * channels_of(tensor) for tensor in plain.amax},
    )
    expected, found = (
        answers(prepare(program, "int8", quantization=Quantization(scales, PARTS, rest, keep)), batches_of(HEAD))
        for scales in (plain, fours)
    )
    assert largest_difference(found, expected) == 0


def test_folding_keeps_what_the_program_computes_and_the_program_given() -> None:
    program = program_of()
    scales = smooth(statistics_of(), program, batches_of(HEAD), alpha=0.9)
    before = {name: tensor.clone() for name, tensor in program.state_dict.items()}
    without, left = folded(program, scales)
    changed = {name for name, tensor in without.state_dict.items() if not torch.equal(tensor, before[name])}
    assert {name.partition("albert.")[2] for name in changed} == {
        f"{LAYER}.attention.value.weight", f"{LAYER}.attention.value.bias", f"{LAYER}.attention.dense.weight",
        "embeddings.LayerNorm.weight", "embeddings.LayerNorm.bias", "encoder.embedding_hidden_mapping_in.weight",
    }  # fmt: skip
    assert set(scales.smoothing) - set(left.smoothing) == {f"{LAYER}.attention.dense.input", MAPPING_IN}
    assert largest_difference(answers(without, batches_of(HEAD)), answers(program, batches_of(HEAD))) < 1e-5
    assert all(torch.equal(tensor, before[name]) for name, tensor in program.state_dict.items())


def test_what_folds_costs_no_operation_and_the_rest_one_multiplication_a_pass() -> None:
    program = program_of()
    scales = smooth(statistics_of(), program, batches_of(HEAD), alpha=0.5)
    plain = dataclasses.replace(scales, smoothing={})

    def multiplications(scales: Scales) -> int:
        graph = prepare(program, "int8", quantization=Quantization(scales, ("encoder",))).graph
        return sum(node.target is aten.mul.Tensor for node in graph.nodes)

    assert multiplications(scales) - multiplications(plain) == 3 * PASSES
    foldable = {tensor: one for tensor, one in scales.smoothing.items() if "dense" in tensor}
    assert len(foldable) == 1
    assert multiplications(dataclasses.replace(scales, smoothing=foldable)) == multiplications(plain)


@pytest.mark.parametrize("alpha", [0.5, None])
def test_a_model_with_outlier_channels_is_as_exact_in_int8_as_the_same_function_without(alpha: float | None) -> None:
    unhurt = error(program_of(), statistics_of().scales("max"))
    program = captured(with_outliers())
    assert largest_difference(answers(program, batches_of(HEAD)), answers(program_of(), batches_of(HEAD))) < 1e-4
    statistics = collect(program, batches_of(HEAD))
    broken = error(program, statistics.scales("max"))
    healed = error(program, smooth(statistics, program, batches_of(HEAD), alpha=alpha, method="max"))
    assert broken > 3 * unhurt
    assert healed < 1.5 * unhurt


@pytest.mark.parametrize(("alpha", "share"), [(0.5, 0.75), (None, 0.7)])
def test_outlier_channels_of_the_residual_are_smoothed_in_the_graph(alpha: float | None, share: float) -> None:
    program, batches = captured(with_outliers_in_the_residual().albert), batches_of(HEAD)
    statistics = collect(program, batches)
    healed = smooth(statistics, program, batches, alpha=alpha, method="max")
    plain, smoothed = (
        error(program, scales, ("encoder",), "last_hidden_state") for scales in (statistics.scales("max"), healed)
    )
    assert smoothed < share * plain


def test_one_smoothing_serves_all_passes_and_each_pass_keeps_its_own_range() -> None:
    statistics = statistics_of()
    scales = smooth(statistics, program_of(), batches_of(HEAD), alpha=0.5, method="max")
    for tensor, smoothing in scales.smoothing.items():
        expected = (statistics.channel_amax[tensor] / torch.tensor(smoothing)).amax(1)
        assert len(smoothing) == channels_of(tensor)
        assert torch.allclose(torch.tensor(scales.amax[tensor]), expected, rtol=1e-4)
    assert len(set(scales.amax[f"{LAYER}.ffn.input"])) == PASSES
    assert scales.method == "max, smoothed"
    assert scales.model == statistics.model


def test_a_folded_value_projection_gives_attention_smaller_values_to_round() -> None:
    program = captured(with_outliers(attention="eager"))
    statistics = collect(program, batches_of(HEAD))
    scales = smooth(statistics, program, batches_of(HEAD), alpha=0.5, method="max")
    values = f"{LAYER}.attention.value.output"
    before, after = statistics.scales("max").amax[values], scales.amax[values]
    assert max(after) / max(scales.amax[f"{LAYER}.attention.dense.input"]) < 3
    assert after != before
    parts = ("encoder", "attention")
    assert error(program, scales, parts) < 0.5 * error(program, statistics.scales("max"), parts)


def test_the_factors_even_out_the_tensor_at_alpha_one_and_the_weight_at_alpha_zero() -> None:
    program, statistics, tensor = program_of(), statistics_of(), f"{LAYER}.ffn.input"
    columns = next(t for n, t in program.state_dict.items() if n.endswith("layers.0.ffn.weight")).abs().amax(0)
    shares = statistics.channel_amax[tensor] / statistics.channel_amax[tensor].amax(1, keepdim=True)
    for alpha, evened in ((1.0, lambda s: shares.amax(0) / s), (0.0, lambda s: columns * s)):
        even = evened(factors(statistics, program, tensor, alpha))
        assert torch.allclose(even, even.mean().expand_as(even), rtol=1e-4)
    assert factors(statistics, program, tensor, 0.5).log().mean().abs() < 1e-5


def test_a_channel_of_zeros_keeps_a_factor_of_one() -> None:
    model = model_of(HEAD)
    with torch.no_grad():
        model.albert.encoder.albert_layer_groups[0].albert_layers[0].ffn.weight[:, 7] = 0
    program = captured(model)
    found = factors(collect(program, batches_of(HEAD)), program, f"{LAYER}.ffn.input", 0.5)
    assert found[7] == 1
    assert found.isfinite().all()
    assert (found > 0).all()


def test_a_decoder_that_is_the_word_table_is_not_smoothed() -> None:
    program, batches = graph_of("masked-lm"), batches_of("masked-lm")
    statistics = collect(program, batches)
    assert "embeddings.word_embeddings.input" in statistics.channel_amax
    scales = smooth(statistics, program, batches, alpha=0.5)
    assert "predictions.dense.input" in scales.smoothing
    assert "embeddings.word_embeddings.input" not in scales.smoothing


def test_the_chosen_alpha_is_that_of_the_smallest_error() -> None:
    outliers = captured(with_outliers())
    found = {one.tensor: one for one in choose(collect(outliers, batches_of(HEAD)), outliers, batches_of(HEAD))}
    context = found[f"{LAYER}.attention.dense.input"]
    assert context.alpha == min(context.errors, key=lambda alpha: context.errors[alpha])
    assert context.errors[context.alpha] < 0.2 * context.error


def test_without_a_gain_the_scales_are_the_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("albert_fast.precision.smoothing.MIN_GAIN", 1.0)
    assert smooth(statistics_of(), program_of(), batches_of(HEAD)) == statistics_of().scales()


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_an_alpha_outside_zero_to_one_is_refused(alpha: float) -> None:
    with pytest.raises(ValueError, match=r"alpha is .*, expected a number from 0 to 1"):
        smooth(statistics_of(), program_of(), batches_of(HEAD), alpha=alpha)
