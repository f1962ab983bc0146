"""Calibration: the ranges of every tensor and pass are those that hooks see in transformers, padding left out."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from precision_samples import captured, graph_of, model_of
from torch import Tensor

from albert_fast import from_transformers
from albert_fast.batch import Batch
from albert_fast.heads import HEADS
from albert_fast.precision import METHODS, Quantization, prepare
from albert_fast.precision.calibration import Statistics, collect
from albert_fast.precision.sites import sites

LAYER = "encoder.albert_layer_groups.0.albert_layers.0"
LENGTHS = (9, 3, 14, 1, 9, 5, 12)


def rows(*lengths: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Ids and types of texts; every other one is a pair."""
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(2, 120, (length,), generator=generator) for length in lengths]
    return [(one, (torch.arange(len(one)) > len(one) // 2).long() * (i % 2)) for i, one in enumerate(ids)]


def padded(texts: list[tuple[Tensor, Tensor]], length: int) -> Batch:
    ids = torch.full((len(texts), length), 1)
    mask, types = torch.zeros_like(ids), torch.zeros_like(ids)
    for row, (own_ids, own_types) in enumerate(texts):
        ids[row, : len(own_ids)], types[row, : len(own_ids)], mask[row, : len(own_ids)] = own_ids, own_types, 1
    return Batch(ids, mask, types)


def batches(texts: list[tuple[Tensor, Tensor]], size: int, extra: int = 0) -> list[Batch]:
    parts = [texts[start : start + size] for start in range(0, len(texts), size)]
    return [padded(part, max(len(ids) for ids, _ in part) + extra) for part in parts]


@cache
def seen(size: int = 3, extra: int = 0, head: str = "pretraining", attention: str = "eager") -> Statistics:
    return collect(graph_of(head, attention), batches(rows(*LENGTHS), size, extra))


@pytest.mark.parametrize("groups", [1, 2])
def test_the_range_of_every_pass_is_what_hooks_see_in_transformers(groups: int) -> None:
    torch.manual_seed(11)
    config = transformers.AlbertConfig(
        vocab_size=120, embedding_size=16, hidden_size=48, num_hidden_layers=6, num_hidden_groups=groups,
        inner_group_num=2, num_attention_heads=4, intermediate_size=80, max_position_embeddings=64,
        initializer_range=0.1, attn_implementation="eager",
    )  # fmt: skip
    theirs = transformers.AlbertForMaskedLM(config).eval()
    batch = padded(rows(*LENGTHS), max(LENGTHS))
    real = batch.tensors()[1].bool()
    ranges: dict[str, list[float]] = {}
    channels: dict[str, list[Tensor]] = {}

    def note(name: str) -> Any:
        def hook(module: Any, given: tuple[Tensor, ...]) -> None:
            magnitudes = given[0].detach()[real].abs()
            ranges.setdefault(name, []).append(magnitudes.max().item())
            channels.setdefault(name, []).append(magnitudes.amax(0))

        return hook

    for name, module in theirs.named_modules():
        if isinstance(module, torch.nn.Linear) and not name.endswith(("key", "value")) and "pooler" not in name:
            name = name.removeprefix("albert.").replace("attention.query", "attention")
            name = name.replace("predictions.decoder", "embeddings.word_embeddings")  # the tied weight has that name
            module.register_forward_pre_hook(note(f"{name}.input"))
    with torch.no_grad():
        theirs(*batch.tensors())

    found = collect(captured(from_transformers(theirs)), [batch])
    amax = found.scales("max").amax
    assert set(amax) >= set(ranges) and len(ranges) == 3 + 8 * groups
    for tensor, expected in ranges.items():
        assert amax[tensor] == pytest.approx(expected, rel=1e-5), tensor
        torch.testing.assert_close(found.channel_amax[tensor], torch.stack(channels[tensor]), rtol=1e-5, atol=1e-6)
    assert len(amax[f"{LAYER}.ffn_output.input"]) == 6 // groups


def test_the_operands_of_attention_are_seen_as_transformers_multiplies_them() -> None:
    model = model_of(attention="eager")
    batch = padded(rows(*LENGTHS), max(LENGTHS))
    real = batch.tensors()[1].bool()
    with torch.no_grad():
        attentions = model(*batch.tensors(), return_dict=True, output_attentions=True).attentions
    weighted = [(one * real[:, None, :, None]).max().item() for one in attentions]
    amax = seen(len(LENGTHS)).scales("max").amax
    assert amax[f"{LAYER}.attention.probabilities"] == pytest.approx(weighted, rel=1e-5)
    for name in ("query.output", "key.output", "value.output"):
        assert len(amax[f"{LAYER}.attention.{name}"]) == 5
    tokens, pairs = sum(LENGTHS), sum(length**2 for length in LENGTHS)
    counted = {name: seen().histograms[f"{LAYER}.attention.{name}"][4].counts.sum() for name in (
        "input", "query.output", "key.output", "value.output", "probabilities", "dense.input")}  # fmt: skip
    assert counted == {**dict.fromkeys(counted, 48 * tokens), "probabilities": 4 * pairs}


@pytest.mark.parametrize(("size", "extra"), [(1, 0), (7, 0), (2, 20)])
def test_ranges_depend_neither_on_the_batch_size_nor_on_padding(size: int, extra: int) -> None:
    one, other = seen(), seen(size, extra)
    for method in METHODS:
        expected = one.scales(method).amax
        for tensor, found in other.scales(method).amax.items():
            bin_width = max(h.limit for h in one.histograms[tensor]) / 4096
            assert np.abs(np.subtract(found, expected[tensor])).max() <= 1e-5 + bin_width, (method, tensor)
    for tensor, histograms in one.histograms.items():
        for mine, theirs in zip(histograms, other.histograms[tensor], strict=True):
            moved = np.abs(np.cumsum(mine.counts) - np.cumsum(theirs.counts)).max()  # numbers at the edge of a bin
            assert (mine.counts.sum(), mine.limit) == (theirs.counts.sum(), theirs.limit) and moved <= 3, tensor
    for tensor, channels in one.channel_amax.items():
        torch.testing.assert_close(other.channel_amax[tensor], channels, rtol=1e-4, atol=1e-5)


def test_the_same_batches_give_the_same_file() -> None:
    again = collect(graph_of("pretraining", "eager"), batches(rows(*LENGTHS), 3))
    assert again.scales().to_json() == seen().scales().to_json()


def test_the_texts_digest_is_of_ids_and_types_and_their_order_alone() -> None:
    text = seen().text
    assert (text.texts, text.tokens) == (len(LENGTHS), sum(LENGTHS))
    assert seen(1).text == seen(7).text == seen(2, 20).text == text
    program = graph_of("pretraining", "eager")
    texts = rows(*LENGTHS)
    without_types = [(ids, torch.zeros_like(types)) for ids, types in texts]
    joined = [(torch.cat([texts[0][0], texts[1][0]]), torch.cat([texts[0][1], texts[1][1]])), *texts[2:]]
    for other in (texts[::-1], without_types, joined, rows(*LENGTHS, seed=1)):
        assert collect(program, batches(other, 3)).text.sha256 != text.sha256
    two, one = [(torch.tensor([1]), torch.tensor([0]))] * 2, [(torch.tensor([1, 0]), torch.tensor([1, 0]))]
    assert collect(program, batches(two, 2)).text.sha256 != collect(program, batches(one, 1)).text.sha256


def test_a_row_of_all_padding_is_no_text() -> None:
    batch = padded(rows(*LENGTHS), 16)
    ids, mask, types = batch.tensors()
    nothing = torch.zeros(1, 16, dtype=torch.int64)
    longer = Batch(*(torch.cat([part, nothing]) for part in (ids, mask, types)))
    assert collect(graph_of("pretraining", "eager"), [longer]).text == seen().text


def test_a_mask_that_is_left_out_hides_nothing() -> None:
    ids = torch.randint(2, 120, (2, 8))
    assert collect(graph_of(), [Batch(ids)]).text.tokens == 16


@pytest.mark.parametrize("head", HEADS)
def test_every_site_of_every_head_gets_a_range(head: str) -> None:
    program = graph_of(head)
    made = batches(rows(*LENGTHS), 4)
    if HEADS[head].ids_rank == 3:
        made = [Batch(*(part[:, None] for part in batch.tensors())) for batch in made]
    found = collect(program, made, source="here")
    amax = found.scales().amax
    assert {(site.tensor, site.pass_index) for site in sites(program)} == {
        (tensor, index) for tensor, values in amax.items() for index in range(len(values))
    }
    assert (found.text.texts, found.text.tokens, found.text.source) == (len(LENGTHS), sum(LENGTHS), "here")


def test_methods_are_named_in_the_scales_and_clip_as_they_say() -> None:
    by = {name: seen().scales(name) for name in METHODS}
    assert by["percentile"].method == "percentile 99.99" and by["max"].method == "max"
    tensor = f"{LAYER}.ffn_output.input"
    tighter = seen().scales("percentile", share=90)
    assert tighter.method == "percentile 90"
    assert all(low < high for low, high in zip(tighter.amax[tensor], by["percentile"].amax[tensor], strict=True))


def test_a_tensor_of_zeros_alone_gets_a_range_all_the_same() -> None:
    model = model_of()
    with torch.no_grad():
        for name in ("weight", "bias"):
            getattr(model.albert.encoder.albert_layer_groups[0].albert_layers[0].ffn, name).zero_()
    program = captured(model)
    scales = collect(program, batches(rows(*LENGTHS), 3)).scales()
    assert set(scales.amax[f"{LAYER}.ffn_output.input"]) == {1.0}
    prepare(program, "int8", quantization=Quantization(scales))


@pytest.mark.parametrize("wrong", [float("inf"), float("nan")])
def test_a_tensor_that_is_not_finite_is_named_with_its_pass_and_batch(wrong: float) -> None:
    model = model_of()
    with torch.no_grad():
        model.albert.embeddings.word_embeddings.weight[77, 0] = wrong
    texts = [(torch.tensor([5, 6, 7]), torch.zeros(3, dtype=torch.int64))] * 3
    texts[2] = (torch.tensor([5, 77, 7]), texts[0][1])
    message = (
        r"encoder\.embedding_hidden_mapping_in\.input of pass 0 is NaN or infinite in float32, in batch 2 .*damaged"
    )
    with pytest.raises(ValueError, match=message):
        collect(captured(model), batches(texts, 1))


def test_progress_is_told_how_many_texts_are_done() -> None:
    told: list[int] = []
    collect(graph_of(), batches(rows(*LENGTHS), 3), progress=told.append)
    assert told == [3, 6, 7]


def test_what_cannot_be_calibrated_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no calibration text; give at least one batch"):
        collect(graph_of(), [])
    with pytest.raises(ValueError, match="float32"):
        collect(prepare(graph_of(), "bf16"), batches(rows(*LENGTHS), 3))
    with pytest.raises(ValueError, match="method is 'median', expected one of max, percentile, entropy, mse"):
        seen().scales("median")
    for share in (0, -1, 100.5, "99", float("nan")):
        with pytest.raises(ValueError, match=r"percentile is .*, expected a number above 0 and at most 100"):
            seen().scales("percentile", share=share)  # type: ignore[arg-type]
