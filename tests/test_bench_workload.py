"""What benchmarks time and how: mixed lengths, what arithmetic counts, turns, several callers, two runs compared."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import torch

from albert_fast import AlbertConfig
from albert_fast.cli.callers import concurrent
from albert_fast.cli.ceiling import limit, matrix_products
from albert_fast.cli.regressions import compare, read_document
from albert_fast.cli.stopwatch import SLOW_MS, Latency, interleaved
from albert_fast.cli.workload import SHORTEST, Shape, gigaflop

MIXED = [Shape(8, 128, True), Shape(32, 128, True), Shape(32, 512, True), Shape(8, 64, True)]


@pytest.mark.parametrize("shape", MIXED, ids=str)
def test_mixed_lengths_are_forty_per_cent_of_the_longest_in_the_mean(shape: Shape) -> None:
    lengths = shape.lengths()
    assert len(lengths) == shape.batch
    assert max(lengths) == shape.length and min(lengths) >= SHORTEST
    assert sum(lengths) / (shape.batch * shape.length) == pytest.approx(0.4, abs=0.01)
    assert len(set(lengths)) > shape.batch / 2


@pytest.mark.parametrize("shape", MIXED, ids=str)
def test_a_mixed_batch_is_the_same_in_every_run_and_padded_on_the_right(shape: Shape) -> None:
    batch, again = shape.inputs(1000, pad_id=3), shape.inputs(1000, pad_id=3)
    assert torch.equal(batch.input_ids, again.input_ids)
    assert batch.attention_mask is not None
    assert batch.attention_mask.sum(1).tolist() == list(shape.lengths())
    assert bool((batch.attention_mask.diff(dim=1) <= 0).all())
    assert bool((batch.input_ids[batch.attention_mask == 0] == 3).all())
    assert int(batch.input_ids[batch.attention_mask == 1].min()) >= 5


def test_a_batch_of_one_length_has_no_mask() -> None:
    batch = Shape(2, 7).inputs(30)
    assert batch.attention_mask is None and batch.input_ids.shape == (2, 7)


@pytest.mark.parametrize("text", ["8x128", "8x128 mixed", "1x1"])
def test_a_shape_reads_what_it_writes(text: str) -> None:
    assert str(Shape.parse(text)) == text


@pytest.mark.parametrize("text", ["8", "0x4", "4x0", "8x128 mixt", "1x16 mixed", "8x128,1x1"])
def test_what_is_no_shape_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no shape|mixed lengths of one text"):
        Shape.parse(text)


def test_arithmetic_is_that_of_every_text_alone() -> None:
    config = AlbertConfig.published("albert-base-v2")
    one = gigaflop(config, [128])
    assert gigaflop(config, [128] * 8) == pytest.approx(8 * one)
    assert gigaflop(config, [128, 16]) == pytest.approx(one + gigaflop(config, [16]))
    # a linear map of in x out multiplies and adds in x out times a token; scores and their sums, hidden x length each
    linear = 4 * 768**2 + 2 * 768 * 3072
    assert one == pytest.approx(2 * 128 * (12 * (linear + 2 * 128 * 768) + 128 * 768) / 1e9)


def test_a_burst_times_several_calls_a_round_and_compares_their_medians() -> None:
    latencies = interleaved({"a": lambda: time.sleep(0.002)}, rounds=4, seconds=60, burst_s=0.01)
    assert latencies["a"].rounds == 4
    assert len(latencies["a"].times_ms) > 8
    one, other = Latency((1.0, 9.0, 1.0, 2.0), (1.0, 2.0)), Latency((3.0, 4.0), (3.0, 4.0))
    assert one.speedup_over(other) == 2.5


def test_a_slow_call_is_made_once_a_round() -> None:
    called = []

    def slow() -> None:
        called.append(1)
        time.sleep(SLOW_MS / 1e3 + 0.01)

    interleaved({"slow": slow}, rounds=5, seconds=0, settle_s=0.001)
    assert len(called) == 1 + 2 + 4  # to warm up; before it is known to be slow twice; then once a round


def test_the_99th_percentile_is_near_the_slowest_of_a_hundred() -> None:
    latency = Latency(tuple(float(n) for n in range(1, 102)))
    assert (latency.p50_ms, latency.p95_ms, latency.p99_ms) == (51.0, 96.0, 100.0)
    assert Latency((3.0,)).p99_ms == 3.0


def test_callers_call_at_once_and_with_threads_of_their_own_setting() -> None:
    inside, most, seen = [0], [0], set()
    lock = threading.Lock()
    before = torch.get_num_threads()

    def call() -> None:
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            seen.add((threading.get_ident(), torch.get_num_threads()))
        time.sleep(0.005)
        with lock:
            inside[0] -= 1

    try:
        traffic = concurrent(call, callers=4, threads=1, seconds=0.1)
    finally:
        torch.set_num_threads(before)
    assert most[0] == 4
    assert len(seen) == 4 and {threads for _, threads in seen} == {1}
    assert len(traffic.latency.times_ms) >= 4
    assert 4 / 0.5 < traffic.calls_per_s <= 4 / 0.005


@pytest.mark.parametrize("after", [1, 5])
def test_what_one_caller_meets_is_raised_and_nobody_waits_for_ever(after: int) -> None:
    count, lock = [0], threading.Lock()

    def call() -> None:
        with lock:
            count[0] += 1
            number = count[0]
        time.sleep(0.001)
        if number > after:
            raise RuntimeError("the engine broke")

    with pytest.raises(RuntimeError, match="the engine broke"):
        concurrent(call, callers=3, threads=1, seconds=0.05)


def test_the_machines_limit_is_its_best_kernel() -> None:
    config = AlbertConfig(hidden_size=64, intermediate_size=128, num_attention_heads=4)
    found = matrix_products(config, "cpu", seconds=0.0, precisions=("fp32", "bf16"))
    assert set(found) == {"fp32", "bf16"}
    assert limit(found, "fp32") == max(found["fp32"].values()) > 0
    assert limit({"fp32": {"plain": 1.0, "packed": 2.0}}, "int8") == 2.0


def document(**speedups: float) -> dict[str, Any]:
    """A run of a baseline and engines at 8x128; ``mixed_x`` stands for engine x in a mixed batch."""
    rows = [
        {"model": "m", "engine": name.removeprefix("mixed_"), "batch": 8, "length": 128, "speedup": value,
         "share_of_ceiling": value / 10, **({"mixed": True} if name.startswith("mixed_") else {})}
        for name, value in speedups.items()
    ]  # fmt: skip
    return {"baseline": "eager", "threads": 2, "processor": "P", "rows": rows}


def test_a_row_whose_ratio_fell_by_more_than_a_tenth_is_flagged() -> None:
    old = document(eager=1.0, a=4.0, b=4.0, mixed_a=6.0)
    found = compare(document(eager=1.0, a=3.5, b=3.7, mixed_a=6.1), old)
    assert found.slower == ("m a 8x128: speedup 4 -> 3.5 (-12%)",)
    assert (found.compared, found.missing) == (4, ())
    assert found.lines()[-1] == "1 of 4 rows slower by more than 10% (speed by that of eager)"


def test_a_mixed_batch_is_compared_with_a_mixed_one() -> None:
    found = compare(document(eager=1.0, a=4.0, mixed_a=2.0), document(eager=1.0, a=4.0, mixed_a=6.0))
    assert [line.split(":")[0] for line in found.slower] == ["m a 8x128 mixed"]


def test_rows_that_only_one_run_has_are_no_regression_and_are_told() -> None:
    found = compare(document(eager=1.0, new=3.0), document(eager=1.0, gone=3.0))
    assert (found.slower, found.missing) == ((), ("m gone 8x128",))
    assert "not in this run: m gone 8x128" in found.lines()


def test_a_row_that_was_left_out_of_the_timing_counts_as_missing() -> None:
    old = document(eager=1.0, a=3.0)
    old["rows"][1]["speedup"] = None
    assert compare(document(eager=1.0, a=1.0), old).slower == ()


def test_without_a_baseline_the_share_of_the_ceiling_is_compared() -> None:
    new, old = document(a=5.0), document(a=8.0)
    new["baseline"] = old["baseline"] = None
    assert compare(new, old).slower == ("m a 8x128: share_of_ceiling 0.8 -> 0.5 (-38%)",)


def test_runs_that_cannot_be_compared_are_refused() -> None:
    other = document(a=1.0)
    other["baseline"] = "a"
    with pytest.raises(ValueError, match="different baselines, 'eager' now and 'a' before"):
        compare(document(a=1.0), other)
    with pytest.raises(ValueError, match="no row of one run is in the other"):
        compare(document(a=1.0), document(b=1.0))


def test_another_number_of_threads_is_told() -> None:
    other = document(a=1.0)
    other["threads"] = 8
    assert compare(document(a=1.0), other).notes == ("threads 2 now, 8 before",)


@pytest.mark.parametrize("text", [None, "{", "[]", '{"rows": 3}', "\ud800"])
def test_what_is_no_result_file_is_refused(text: str | None, tmp_path: Any) -> None:
    path = tmp_path / "old.json"
    if text is not None:
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(ValueError, match=r"old.json (cannot be read|has no rows)"):
        read_document(path)
