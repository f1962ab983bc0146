"""Mixed precision that finds itself: the simulation it measures on, and the search."""

from __future__ import annotations

import dataclasses
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from precision_samples import batches_of, graph_of
from torch import Tensor

from albert_fast import AlbertForSequenceClassification, AlbertTokenizer
from albert_fast.batch import Batch, ShapeProfile
from albert_fast.capture import capture
from albert_fast.precision import Quantization, prepare
from albert_fast.precision.calibration import collect
from albert_fast.precision.divergence import UNLABELLED, answers, divergence
from albert_fast.precision.scales import Scales
from albert_fast.precision.sensitivity import _shortest, search
from albert_fast.precision.simulation import Simulation

REPOSITORY = Path(__file__).parents[1]
NAME = "albert-fast/wordnet"
KEEP = ("ffn_output.input@4", "attention.input@1", "attention.dense.input")


@cache
def scales_of(head: str = "pretraining", attention: str = "sdpa") -> Scales:
    return collect(graph_of(head, attention), batches_of(head)).scales("max")


def smoothed(scales: Scales, program: Any) -> Scales:
    """The same with some smoothing of the tensor that queries, keys and values read."""
    tensor = next(name for name in scales.amax if name.endswith(".attention.input"))
    generator = torch.Generator().manual_seed(1)
    factors = tuple((0.5 + torch.rand(48, generator=generator)).tolist())
    return dataclasses.replace(scales, smoothing={tensor: factors})


def kept_places(simulation: Simulation) -> list[str]:
    return [place for place in simulation.places if place.endswith(KEEP[:2]) or f"{KEEP[2]}@" in place]


@pytest.mark.parametrize("rest", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("parts", [("encoder",), ("encoder", "embeddings", "heads"), ("encoder", "attention")])
def test_the_simulation_gives_the_numbers_of_the_program_with_the_same_choice(
    rest: str, smooth: bool, parts: tuple[str, ...]
) -> None:
    attention = "eager" if "attention" in parts else "sdpa"
    program, scales = graph_of("pretraining", attention), scales_of("pretraining", attention)
    scales = smoothed(scales, program) if smooth else scales
    run = prepare(program, "int8", quantization=Quantization(scales, parts, rest, KEEP)).module(check_guards=False)
    simulation = Simulation(program, Quantization(scales, parts, rest))
    for batch in batches_of():
        with torch.inference_mode():
            expected = run(*batch.tensors())
        found = simulation.run(batch, kept_places(simulation))
        assert {name: (found[name] - expected[name]).abs().max().item() for name in expected} == dict.fromkeys(
            expected, 0.0
        )


def test_a_place_measured_alone_gives_the_numbers_of_a_run_of_its_own() -> None:
    program, batch = graph_of(), batches_of()[0]
    simulation = Simulation(program, Quantization(scales_of(), rest="bf16"))
    forked: dict[str, Any] = {}
    simulation.run_each_alone(batch, forked.__setitem__)
    assert tuple(forked) == simulation.places
    for place in simulation.places[::7]:
        tensor = place.split("@")[0]  # a weight that no other pass reads rounded would be exact: so one of each
        others = [p for p in simulation.places if p != place]
        alone = simulation.run(batch, others)
        only = Simulation(program, Quantization(scales_of(), rest="bf16"))
        only.weights = lambda _: simulation.weights(simulation.places)  # type: ignore[method-assign]
        alone = only.run(batch, others)
        assert all(torch.equal(forked[place][name], alone[name]) for name in alone), tensor


def test_with_everything_kept_nothing_is_rounded() -> None:
    program, batch = graph_of(), batches_of()[0]
    simulation = Simulation(program, Quantization(scales_of()))
    found = simulation.run(batch, simulation.places)
    with torch.inference_mode():
        expected = program.module(check_guards=False)(*batch.tensors())
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@cache
def embedded() -> tuple[Any, Scales, list[Batch], list[Tensor]]:
    """The embedded classifier's graph, its scales, and 64 short held-out glosses with their labels."""
    tokenizer = AlbertTokenizer.from_pretrained(NAME)
    model = AlbertForSequenceClassification.from_pretrained(NAME)
    program = capture(model, ShapeProfile.parse("1x1:8x32:32x128"))
    calibration = (REPOSITORY / "export/calibration/wordnet.txt").read_text(encoding="utf-8").splitlines()[:64]
    lines = (REPOSITORY / "tests/data/wordnet_heldout.tsv").read_text(encoding="utf-8").splitlines()[:160]
    rows = sorted((line.split("\t") for line in lines), key=lambda row: len(row[2]))[:64]

    def batch_of(texts: list[str]) -> Batch:
        encoded = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
        return Batch(encoded["input_ids"], encoded["attention_mask"], encoded["token_type_ids"])

    chunks = [rows[start : start + 32] for start in range(0, len(rows), 32)]
    labels = [torch.tensor([model.config.label2id[name] for name, _, _ in chunk]) for chunk in chunks]
    scales = collect(program, [batch_of(calibration[:32]), batch_of(calibration[32:])]).scales("percentile")
    return program, scales, [batch_of([gloss for _, _, gloss in chunk]) for chunk in chunks], labels


def spoiled(scales: Scales, end: str, pass_index: int) -> Scales:
    """The same with a range four hundred times too wide in one pass of one tensor: all of it is rounded to 0."""
    tensor = next(name for name in scales.amax if name.endswith(end))
    amax = list(scales.amax[tensor])
    amax[pass_index] *= 400
    return dataclasses.replace(scales, amax={**scales.amax, tensor: tuple(amax)})


def test_a_budget_that_holds_at_once_is_one_evaluation_and_keeps_nothing() -> None:
    program, scales, batches, labels = embedded()
    found = search(program, scales, batches, max_drop=3, labels=labels)
    assert (found.keep, found.sites, len(found.steps), found.evaluations, found.probed) == ((), (), 1, 2, 0)
    assert found.measure == "accuracy"
    assert found.float32_accuracy == pytest.approx(78, abs=10)
    assert found.steps[0].accuracy == pytest.approx(found.float32_accuracy - found.drop)


@pytest.mark.parametrize(("end", "pass_index"), [("ffn.input", 7), ("attention.dense.input", 7)])
def test_a_site_with_a_spoiled_scale_is_found_first_and_is_all_that_is_kept(end: str, pass_index: int) -> None:
    program, scales, batches, _ = embedded()
    wrong = spoiled(scales, end, pass_index)
    found = search(program, wrong, batches, max_drop=5, probes=1)
    assert not found.steps[0].holds
    assert found.steps[0].drop > 7
    assert [place.rpartition("layers.0.")[2] for place in found.keep] == [f"{end}@{pass_index}"]
    assert found.sites[0].place == found.keep[0]
    assert found.sites[0].divergence > 30 * found.sites[1].divergence
    assert [one.place for one in found.sites if one.kept] == list(found.keep)
    assert found.drop == found.steps[-1].drop <= 5
    assert found.evaluations == 3


def test_what_was_found_goes_into_a_quantization_and_a_json_file() -> None:
    program, scales, batches, _ = embedded()
    wrong = spoiled(scales, "ffn.input", 7)
    found = search(program, wrong, batches, max_drop=5, rest="bf16", probes=1)
    module = prepare(program, "int8", quantization=Quantization(wrong, rest="bf16", keep=found.keep)).module()
    with torch.inference_mode():
        mine = torch.cat([module(*batch.tensors())["logits"].argmax(-1) for batch in batches])
        theirs = torch.cat([program.module()(*batch.tensors())["logits"].argmax(-1) for batch in batches])
    assert 100 * (mine != theirs).double().mean().item() == pytest.approx(found.drop)
    content = json.loads(json.dumps(found.to_dict()))
    assert content["sites"][0]["kept"] is True
    assert content["weights"] > 0


def test_the_same_input_gives_the_same_result_and_progress_is_told() -> None:
    program, scales, batches, _ = embedded()
    wrong = spoiled(scales, "ffn.input", 7)
    told: list[tuple[str, int, int]] = []
    first = search(program, wrong, batches[:1], max_drop=5, probes=1, progress=lambda *one: told.append(one))
    assert first == search(program, wrong, batches[:1], max_drop=5, probes=1)
    assert told == [
        ("float32", 1, 1),
        ("0 sites kept", 1, 1),
        ("sensitivity of every site", 1, 1),
        ("1 sites kept", 1, 1),
    ]


def test_a_budget_that_cannot_hold_is_refused_and_says_how_near_it_came() -> None:
    program, batches = graph_of("sequence-classification"), batches_of("sequence-classification")
    expected = program.module(check_guards=False)
    with torch.inference_mode():
        labels = [expected(*batch.tensors())["logits"].argmax(-1) for batch in batches]
    scales = scales_of("sequence-classification")
    coarse = dataclasses.replace(scales, amax={t: tuple(9e4 for _ in passes) for t, passes in scales.amax.items()})
    with pytest.raises(ValueError, match=r"at most 0 points of .* not hold: .* of 20 sites kept.*and 0 with"):
        search(program, coarse, batches, max_drop=0, labels=labels)


def test_labels_of_minus_100_are_not_counted() -> None:
    program, scales, batches, labels = embedded()
    partly = labels[0].clone()
    partly[8:] = UNLABELLED
    assert search(program, scales, batches[:1], max_drop=100, labels=[partly]).answers == 8


@pytest.mark.parametrize(
    ("head", "number"), [("masked-lm", "tokens"), ("question-answering", "two a row"), ("multiple-choice", "rows")]
)
def test_answers_are_counted_as_the_head_gives_them(head: str, number: str) -> None:
    batches = batches_of(head)
    tokens = sum(int(batch.tensors()[1].sum()) for batch in batches)
    rows = sum(batch.input_ids.shape[0] for batch in batches)
    found = search(graph_of(head), scales_of(head), batches, max_drop=100)
    assert found.answers == {"tokens": tokens, "two a row": 2 * rows, "rows": rows}[number]


def test_a_padded_place_is_no_answer_and_no_divergence() -> None:
    batch = Batch(torch.ones(1, 4, dtype=torch.int64), torch.tensor([[1, 1, 1, 0]]))
    expected = {"start_logits": torch.tensor([[1.0, 2.0, 0.0, 9.0]])}
    found = {"start_logits": torch.tensor([[1.0, 2.0, 0.0, -9.0]])}
    assert answers(expected, batch)["start_logits"].tolist() == [1]
    assert divergence(found, expected, batch) == (0.0, 1)
    nats = divergence({"start_logits": torch.tensor([[1.0, 0.0, 2.0, 9.0]])}, expected, batch)[0]
    p = torch.tensor([1.0, 2.0, 0.0]).softmax(0)
    assert nats == pytest.approx(float((p * torch.tensor([0.0, 2.0, -2.0])).sum()), abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_drop": -1}, "max_drop is -1, expected"),
        ({"batches": []}, "no text to search on"),
        ({"labels": []}, "labels for 0"),
        ({"labels": [torch.zeros(3)] * 3}, r"shape \(3,\)"),
        ({"labels": [{"sop_logits": torch.zeros(4)}] * 3}, "labels are for sop_logits"),
        ({"probes": 0, "max_drop": 0}, "probes is 0"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_words(changes: dict[str, Any], message: str) -> None:
    head = "sequence-classification"
    given: dict[str, Any] = {"batches": batches_of(head), "max_drop": 1, **changes}
    scales = scales_of(head)
    if "probes" in changes:
        scales = dataclasses.replace(scales, amax={t: tuple(9e4 for _ in p) for t, p in scales.amax.items()})
    with pytest.raises(ValueError, match=message):
        search(graph_of(head), scales, **given)


def test_a_model_without_answers_is_refused() -> None:
    with pytest.raises(ValueError, match="last_hidden_state, pooler_output, none of which chooses"):
        search(graph_of("base"), scales_of("base"), batches_of("base"), max_drop=1)


@pytest.mark.parametrize("number", [1, 2, 7, 49])
def test_the_shortest_beginning_is_found_in_few_tries(number: int) -> None:
    for first in range(1, number + 1):
        tried: list[int] = []

        def holds(n: int, first: int = first, tried: list[int] = tried) -> bool:
            tried.append(n)
            return n >= first

        assert _shortest(number, holds) == first
        assert len(tried) == len(set(tried)) <= 2 * number.bit_length() + 1
    assert _shortest(number, lambda n: False) is None
