"""What the reports are told: ranges, errors pass by pass, accuracy and changed answers, against hand-made ones."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from precision_samples import CONFIG, batches_of, captured, graph_of, model_of
from small_checkpoint import SENTENCES, write_small_checkpoint
from torch.export import ExportedProgram

from albert_fast.batch import Batch
from albert_fast.cli import main
from albert_fast.precision import Quantization, prepare
from albert_fast.precision.calibration import Statistics, collect
from albert_fast.precision.histogram import Histogram
from albert_fast.precision.running import GraphRunner
from albert_fast.precision.scales import CalibrationText, Scales
from albert_fast.report import Labelled, calibration_page, export_page, gather
from albert_fast.report.comparing import accuracy, confusion_changes, error_per_pass, hidden_states, predictions
from albert_fast.report.data import FileSize, Kept, TensorRange

HEAD = "sequence-classification"
LAYER = "encoder.albert_layer_groups.0.albert_layers.0"
PASSES = CONFIG.num_hidden_layers


@cache
def statistics_of(head: str = HEAD) -> Statistics:
    return collect(graph_of(head), batches_of(head))


@cache
def int8_of(head: str = HEAD) -> ExportedProgram:
    return prepare(graph_of(head), "int8", quantization=Quantization(statistics_of(head).scales("max")))


def histogram_of(x: torch.Tensor) -> Histogram:
    found = Histogram()
    found.add(x)
    return found


def test_signal_by_noise_is_that_of_numbers_rounded_one_by_one() -> None:
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    for limit in (1.0, 2.5, float(x.abs().max()), 20.0):
        rounded = (x / (limit / 127)).round().clamp(-127, 127) * (limit / 127)
        expected = 10 * math.log10(float((x**2).sum() / ((x - rounded) ** 2).sum()))
        assert gather.signal_db(histogram_of(x), limit) == pytest.approx(expected, abs=0.1)


def test_a_range_says_what_it_clips_and_what_merging_costs() -> None:
    small, large = torch.linspace(0, 1, 1001), torch.linspace(0, 8, 1001)
    text = CalibrationText("0", 1, 1)
    statistics = Statistics("m", text, {"t.input": [histogram_of(small), histogram_of(large)]})
    (found,) = gather.ranges(Scales("m", "by hand", text, {"t.input": (0.75, 8.0)}), statistics)
    assert (found.largest, found.merged, found.merged_levels) == ((1.0, 8.0), 8.0, (127 * 0.75 / 8, 127.0))
    assert found.clipped == pytest.approx((0.25, 0.0), abs=0.002)
    assert found.middle == pytest.approx((0.5, 4.0), abs=0.01)
    whole = gather.ranges(Scales("m", "by hand", text, {"t.input": (1.0, 8.0)}), statistics)[0]
    assert whole.signal_db[0] - whole.merged_signal_db[0] == pytest.approx(20 * math.log10(8), abs=0.5)
    assert whole.signal_db[1] == whole.merged_signal_db[1]


def test_scales_without_statistics_give_their_ranges_alone() -> None:
    scales = statistics_of().scales("max")
    found = gather.ranges(scales)
    assert {one.tensor: one.chosen for one in found} == dict(scales.amax)
    assert not any(one.largest + one.clipped + one.signal_db for one in found)


def test_a_smoothed_tensor_is_not_compared_with_what_was_seen_before_smoothing() -> None:
    scales = statistics_of().scales("max")
    tensor = f"{LAYER}.ffn.input"
    smoothed = dataclasses.replace(scales, smoothing={tensor: (1.0,) * CONFIG.hidden_size})
    found = {one.tensor: one for one in gather.ranges(smoothed, statistics_of())}
    assert found[tensor] == TensorRange(tensor, scales.amax[tensor], smoothed=True)
    assert found[f"{LAYER}.attention.input"].largest


def test_the_largest_channel_is_found_in_every_pass() -> None:
    amax = torch.ones(2, 200)
    amax[0, 17], amax[1, 3] = 30.0, 0.5
    statistics = Statistics("m", CalibrationText("0", 1, 1), {}, {"t.input": amax})
    (found,) = gather.channels(statistics)
    assert (found.channels, found.top, found.median) == (200, (30.0, 1.0), (1.0, 1.0))
    assert found.top_channel[0] == 17 and found.outlier == (30.0, 1.0)


def test_the_hidden_state_is_watched_after_the_embeddings_and_after_each_pass() -> None:
    assert list(hidden_states(graph_of(HEAD)).values()) == ["embeddings", *map(str, range(PASSES))]


def test_smoothing_that_is_folded_into_the_embeddings_is_no_error() -> None:
    scales = statistics_of().scales("max")
    tensor = "encoder.embedding_hidden_mapping_in.input"
    smoothing = tuple((torch.arange(CONFIG.embedding_size) % 4 + 1.0).tolist())
    quantization = Quantization(dataclasses.replace(scales, smoothing={tensor: smoothing}), parts=("encoder",))
    typed = prepare(graph_of(HEAD), "int8", quantization=quantization)
    assert error_per_pass(graph_of(HEAD), typed, batches_of(HEAD)).passes[0].relative < 1e-5


def test_a_program_is_not_away_from_itself() -> None:
    found = error_per_pass(graph_of(HEAD), graph_of(HEAD), batches_of(HEAD), name="itself")
    assert [one.after for one in found.passes] == ["embeddings", *map(str, range(PASSES))]
    assert all(one.max_abs == one.mean_abs == one.relative == 0 for one in found.passes)
    assert all(one.cosine == pytest.approx(1, abs=1e-9) for one in found.passes)


@pytest.mark.parametrize("name", ["bf16", "int8"])
def test_the_error_of_a_pass_is_that_of_its_tokens_without_padding(name: str) -> None:
    typed = int8_of() if name == "int8" else prepare(graph_of(HEAD), name)
    batch = next(one for one in batches_of(HEAD) if not one.tensors()[1].all())
    found = error_per_pass(graph_of(HEAD), typed, [batch]).passes[-1]
    node = next(name for name, after in hidden_states(graph_of(HEAD)).items() if after == str(PASSES - 1))

    class Last(GraphRunner):
        def run_node(self, n: torch.fx.Node) -> object:
            value = super().run_node(n)
            if n.name == node:
                self.value = value[batch.tensors()[1] != 0].double()
            return value

    exact, other = Last(graph_of(HEAD)), Last(typed)
    for runner in (exact, other):
        runner.run_batch(batch)
    difference = (exact.value - other.value).abs()
    assert found.max_abs == pytest.approx(float(difference.max()))
    assert found.mean_abs == pytest.approx(float(difference.mean()))
    assert found.relative == pytest.approx(float(difference.norm() / exact.value.norm()))
    cosine = torch.nn.functional.cosine_similarity(exact.value.flatten(), other.value.flatten(), dim=0)
    assert found.cosine == pytest.approx(float(cosine), abs=1e-9)
    assert 0 < found.mean_abs < found.max_abs


def test_errors_need_text_and_a_program_of_the_same_graph() -> None:
    with pytest.raises(ValueError, match="there is no batch"):
        error_per_pass(graph_of(HEAD), int8_of(), [])
    shallow = captured(model_of(HEAD, num_hidden_layers=1))
    with pytest.raises(ValueError, match="the int8 program has no layer_norm_4"):
        error_per_pass(graph_of(HEAD), shallow, batches_of(HEAD))


def test_accuracy_counts_what_was_lost_and_gained_against_the_first_program() -> None:
    labels = [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    first = [0, 0, 0, 0, 1, 1, 1, 1, 1, 0]  # eight right
    other = [1, 0, 0, 0, 0, 1, 1, 1, 1, 2]  # one lost, one gained, one wrong in another way
    exact, int8 = accuracy({"fp32": first, "int8": other}, labels)
    assert (exact.right, exact.lost, exact.gained, exact.changed) == (8, 0, 0, 0)
    assert (int8.right, int8.lost, int8.gained, int8.changed) == (8, 1, 1, 3)
    assert (exact.low, exact.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)  # Wilson's interval for 8 of 10
    with pytest.raises(ValueError, match="expected 10 answers and at least one; another number gave: int8"):
        accuracy({"fp32": first, "int8": other[:-1]}, labels)


def test_changed_answers_are_counted_by_pair_of_classes_most_texts_first() -> None:
    found = confusion_changes([0, 0, 1, 2, 2], [1, 1, 1, 0, 2], [0, 2, 1, 0, 2], ["noun", "verb", "adverb"])
    assert [(one.before, one.after, one.texts, one.lost, one.gained) for one in found] == [
        ("noun", "verb", 2, 1, 0),
        ("adverb", "noun", 1, 0, 1),
    ]


def test_predictions_are_refused_of_a_head_that_does_not_classify_texts() -> None:
    with pytest.raises(ValueError, match="the program gives logits of shape"):
        predictions(graph_of("masked-lm"), batches_of("masked-lm"))
    assert len(predictions(graph_of(HEAD), batches_of(HEAD))) == sum(b.tensors()[0].shape[0] for b in batches_of(HEAD))


def test_what_is_kept_is_named_with_its_passes_and_the_reason() -> None:
    scales = statistics_of().scales("max")
    quantization = Quantization(scales, rest="bf16", keep=("ffn_output.input@1", "ffn_output.input@3", "ffn.input"))
    found = gather.kept(graph_of(HEAD), quantization, {"ffn.input": "it hurts most"})
    assert found[1:4] == (
        Kept(f"{LAYER}.ffn.input", "all", "bf16", "it hurts most"),
        Kept(f"{LAYER}.ffn_output.input", "1", "bf16", "named by keep: ffn_output.input@1"),
        Kept(f"{LAYER}.ffn_output.input", "3", "bf16", "named by keep: ffn_output.input@3"),
    )
    assert found[0] == Kept(
        "encoder.embedding_hidden_mapping_in.input", "all", "bf16", "the part embeddings is not quantized"
    )


@dataclasses.dataclass(frozen=True)
class Site:
    tensor: str
    pass_index: int
    divergence: float


def test_a_place_that_was_measured_is_kept_for_what_its_rounding_does() -> None:
    place = f"{LAYER}.ffn_output.input@3"
    reasons = gather.measured_reasons([Site(f"{LAYER}.ffn_output.input", 3, 0.0125)])
    found = gather.kept(graph_of(HEAD), Quantization(statistics_of().scales("max"), keep=(place,)), reasons)
    assert [one.reason for one in found if one.passes == "3"] == ["its rounding alone moves the answers by 0.0125 nats"]


def test_measured_sites_become_a_grid_of_passes_by_tensors() -> None:
    found = gather.sensitivity([Site("b", 1, 0.3), Site("a", 0, 0.1), Site("b", 0, 0.2)], 0.5)
    assert (found.tensors, found.values, found.weights) == (("a", "b"), ((0.1, 0.2), (None, 0.3)), 0.5)


def test_weights_are_counted_once_and_int8_ones_in_their_bytes() -> None:
    exact, int8 = gather.weight_bytes(graph_of("masked-lm")), gather.weight_bytes(int8_of())
    assert exact == sum({t.data_ptr(): t.nbytes for t in graph_of("masked-lm").state_dict.values()}.values())
    assert int8 < gather.weight_bytes(graph_of(HEAD))


def test_the_page_of_a_calibration_has_its_ranges_and_channels_and_where_they_are_from() -> None:
    scales = statistics_of().scales("percentile")
    html = calibration_page(statistics_of(), scales, model="small")
    assert "<h1>Precision of small</h1>" in html and "percentile 99.99" in html and scales.digest[:16] in html
    assert all(title in html for title in ("Activation ranges", "Outlier channels", "ffn_output.input"))


def test_the_page_of_an_export_compares_float32_bf16_int8_and_merged_passes() -> None:
    batches = batches_of(HEAD)[:2]
    texts = sum(batch.tensors()[0].shape[0] for batch in batches)
    html = export_page(
        model="small",
        exact=graph_of(HEAD),
        quantization=Quantization(statistics_of().scales("max"), keep=("ffn.input@0",)),
        batches=batches,
        labelled=Labelled(batches, [0] * texts, ["LABEL_0", "LABEL_1"]),
        sizes=[FileSize("onnx, int8", 1_500_000)],
        reasons={"ffn.input@0": "because it hurts"},
        facts=[("format", "onnx")],
    )
    for title in ("Accuracy", "Error after each pass", "Activation ranges", "Kept in higher precision", "Size"):
        assert f"{title}</h2>" in html
    for words in ("int8, passes merged", "because it hurts", "onnx, int8", "weights, fp32"):
        assert words in html
    spoken = next(one for one in html.split("<desc>") if one.startswith("RMS of the error"))
    told = dict(re.findall(r"(int8|int8, passes merged): (from [^:]*)\. ?", spoken.split("</desc>")[0]))
    assert told["int8"] != told["int8, passes merged"]
    assert "Sensitivity</h2>" not in html and "Outlier channels</h2>" not in html


def test_the_padding_of_a_batch_may_hold_any_token() -> None:
    batch = next(one for one in batches_of(HEAD) if not one.tensors()[1].all())
    ids, mask, types = batch.tensors()
    other = Batch(torch.where(mask != 0, ids, 7), mask, types)
    first, second = (error_per_pass(graph_of(HEAD), int8_of(), [one]).passes[0] for one in (batch, other))
    assert first == second


@pytest.mark.parametrize("options", [(), ("--report", "charts.html"), ("--no-report",)], ids=" ".join)
def test_calibrate_writes_its_page_beside_the_scales(options: tuple[str, ...], tmp_path: Path, capsys: Any) -> None:
    checkpoint = write_small_checkpoint(tmp_path / "model", HEAD)
    words = [sentence.split() for sentence in SENTENCES]
    turned = [" ".join(one[k:] + one[:k]) for one in words for k in range(len(one))]
    (tmp_path / "texts.txt").write_text("\n".join(turned))
    named = [str(tmp_path / one) if one.endswith(".html") else one for one in options]
    scales, further = tmp_path / "small.scales.json", ["--attention", "sdpa", "--json", *named]
    assert main(["calibrate", str(checkpoint), str(tmp_path / "texts.txt"), "-o", str(scales), *further]) == 0
    wanted = {(): ["small.scales.html"], ("--no-report",): []}.get(options, ["charts.html"])
    assert [file.name for file in tmp_path.glob("*.html")] == wanted
    assert json.loads(capsys.readouterr().out)["report"] == (str(tmp_path / wanted[0]) if wanted else None)
    for name in wanted:
        assert Scales.read(scales).digest[:16] in (tmp_path / name).read_text()
