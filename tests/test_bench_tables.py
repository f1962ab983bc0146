"""The engine benchmark: what is checked before timing, what is left out, and the tables and the page of its results."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from albert_fast import Batch
from albert_fast.cli.stopwatch import Latency
from albert_fast.cli.workload import Shape

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY / "benchmarks"))
import callers  # noqa: E402
import engine_tables  # noqa: E402
import grid  # noqa: E402
from engines import BASELINE, SUBJECTS  # noqa: E402
from engines_page import engines_page  # noqa: E402

WORDS = "a call takes 3.6 s, 1.1 times as fast as transformers eager"


def row(engine: str, precision: str, shape: str, p50_ms: float, **more: Any) -> dict[str, Any]:
    batch = Shape.parse(shape)
    return {
        "model": "m", "engine": engine, "precision": precision, "batch": batch.batch, "length": batch.length,
        "mixed": batch.mixed, "real_tokens": sum(batch.lengths()), "p50_ms": p50_ms, "p95_ms": p50_ms * 1.1,
        "p99_ms": p50_ms * 1.2, "speedup": 100 / p50_ms, "tokens_per_s": 7, "gflop_per_s": 50.0,
        "ceiling_gflop_per_s": 400.0 if precision == "fp32" else 800.0, "share_of_ceiling": 0.125,
        "max_abs_difference": 0.0, "build_s": None, "load_ms": None, "file_bytes": None, **more,
    }  # fmt: skip


def document() -> dict[str, Any]:
    once = {"build_s": 12.345, "load_ms": 67.8, "file_bytes": 23_400_000}
    return {
        "what": "w", "baseline": BASELINE, "processor": "P", "capability": "C", "threads": 2, "cores": 2,
        "load_average": 0.1, "versions": {"torch": "2", "transformers": "5"},
        "rows": [
            row(BASELINE, "fp32", "8x128", 100.0), row("fast int8", "int8", "8x128", 20.0, **once),
            row("slow", "fp32", "8x128", 90.0),
            row(BASELINE, "fp32", "8x128 mixed", 100.0), row("fast int8", "int8", "8x128 mixed", 9.5, **once),
        ],
        "left_out": [{"model": "m", "engine": "slow", "batch": 8, "length": 128, "mixed": True, "left_out": WORDS}],
    }  # fmt: skip


def test_a_mixed_batch_has_a_column_of_its_own_and_what_was_not_timed_a_dash() -> None:
    lines = engine_tables.engines(document(), "m")
    assert lines[0] == "| p50 ms (x faster) | 8x128 | 8x128 mixed | file MB |"
    assert lines[2:] == [
        "| transformers eager | 100.0 | 100.0 |  |",
        "| fast int8 | 20.0 (5.00) | 9.50 (10.53) | 23.4 |",
        "| slow | 90.0 (1.11) | - |  |",
    ]
    assert engine_tables.left_out(document(), "m")[2:] == [f"| slow | 8x128 mixed | {WORDS} |"]


def test_the_tables_say_how_steady_engines_are_and_what_making_them_took() -> None:
    assert engine_tables.steadiness(document(), "m")[3] == "| fast int8 | 1.20 | 1.20 |"
    assert engine_tables.made(document(), "m")[2:] == ["| fast int8 | 12.3 | 68 |"]
    assert engine_tables.shares(document(), "m")[0].startswith(
        "| share of the GFLOP/s of a matrix product (400 in fp32"
    )


def test_a_result_file_without_the_newer_fields_has_the_tables_that_it_can() -> None:
    old = document()
    del old["left_out"]
    old["rows"] = old["rows"][:3]
    for one in old["rows"]:
        for name in ("mixed", "real_tokens", "p99_ms", "build_s", "load_ms"):
            del one[name]
    assert engine_tables.engines(old, "m")[0] == "| p50 ms (x faster) | 8x128 | file MB |"
    for table in (engine_tables.steadiness, engine_tables.made, engine_tables.left_out):
        assert table(old, "m") == []
    assert "Steadiness" not in engines_page(old, "conditions")


def test_the_page_tells_mixed_batches_from_others_and_names_what_was_not_timed() -> None:
    html = engines_page(document(), "conditions")
    titles = ("Batch 8, length 128", "Batch 8, length 128, texts of mixed lengths", "Steadiness", "File size")
    for title in (*titles, "Build time", "Load time", "Share of the machine&#x27;s limit"):
        assert html.count(f"<figcaption>{title}</figcaption>") == 1, title
    assert f"Not timed: slow at 8x128 mixed: {WORDS}." in html


def test_what_is_slow_and_hardly_faster_than_the_baseline_is_left_out_with_the_reason() -> None:
    seconds = {BASELINE: 4.0, "slow": 3.6, "large": 2.5, "quick": 0.4}
    found = grid.too_long({name: grid.Checked(0.0, call_s) for name, call_s in seconds.items()}, 2.0)
    assert found == {"slow": WORDS}


def test_a_wrong_answer_is_not_timed() -> None:
    batch = Batch(torch.zeros(1, 2, dtype=torch.int64))
    calls = {BASELINE: lambda _: torch.zeros(1, 3), "eager": lambda _: torch.full((1, 3), 0.5)}
    with pytest.raises(AssertionError, match=r"beyond the precision's budget .* at \[1, 2\]: {'eager': 0.5}"):
        grid.check(calls, batch, "cpu")


def test_a_first_call_that_compiles_does_not_pass_for_a_slow_engine() -> None:
    called = []

    def compiles(batch: Batch) -> torch.Tensor:
        called.append(1)
        time.sleep(0.05 if len(called) == 1 else 0.0)
        return torch.zeros(1, 3)

    batch = Batch(torch.zeros(1, 2, dtype=torch.int64))
    found = grid.check({BASELINE: lambda _: torch.zeros(1, 3), "inductor": compiles}, batch, "cpu", slow_s=0.03)
    assert len(called) == 2 and found["inductor"].call_s < 0.03


def test_figures_count_text_alone() -> None:
    found = grid.figures(Latency((10.0,)), Latency((40.0,)), tokens=200, gflop=3.0, most=600.0)
    assert (found["speedup"], found["tokens_per_s"], found["gflop_per_s"]) == (4.0, 20_000, 300.0)
    assert found["share_of_ceiling"] == 0.5


def test_the_full_grid_has_every_length_and_batch_of_the_base_model_and_both_grids_mixed_batches() -> None:
    base = SUBJECTS["albert-base-v2"]
    full = grid.GRIDS["full"].shapes(base)
    wanted = {Shape(batch, length) for batch in (1, 8, 32) for length in (1, 16, 64, 128, 384, 512)}
    assert wanted <= set(full)
    for one in (full, grid.GRIDS["quick"].shapes(base)):
        assert {Shape(8, 128, True), Shape(32, 128, True)} <= set(one)
    assert grid.GRIDS["full"].shapes(SUBJECTS["albert-fast/wordnet"]) == SUBJECTS["albert-fast/wordnet"].shapes


def test_of_several_turns_the_one_of_middle_throughput_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    speeds = iter([10.0] * 5 + [30.0] * 5 + [20.0] * 5)

    def bench(files: list[str], shapes: str, seconds: float, calling: int, threads: int) -> list[dict[str, Any]]:
        speed = next(speeds)
        return [
            row(file, "fp32", "1x16", 1e3 / speed, calls=3, calls_per_s=speed + index)
            for index, file in enumerate(files)
        ]

    monkeypatch.setattr(callers, "SITUATIONS", ((1, 2), (1, 1), (2, 1), (8, 1), (8, 2)))
    monkeypatch.setattr(callers, "_bench", bench)
    rows = callers.measure({"b": Path("b.pt2"), "a": Path("a.pt2")}, "1x16", 1.0, 3)
    assert [(one["engine"], one["calls_per_s"]) for one in rows] == [("b", 20.0)] * 5 + [("a", 21.0)] * 5
    assert engine_tables.callers({"rows": rows})[0::2] == [
        "| texts/s (p99 ms), callers x threads of each | 1 x 2 | 1 x 1 | 2 x 1 | 8 x 1 | 8 x 2 |",
        "| b, 1x16 |" + " 20 (60.0) |" * 5,
    ]


def test_many_shapes_are_shown_in_a_map_for_each_batch_size() -> None:
    many = document()
    shapes = [f"{batch}x{length}" for batch in (1, 8) for length in (16, 32, 64, 128)] + ["8x128 mixed"]
    many["rows"] = [row(engine, "fp32", shape, 9.0) for shape in shapes for engine in (BASELINE, "onnx")]
    html = engines_page(many, "conditions")
    for kind in ("batch 1", "batch 8", "mixed lengths"):
        assert html.count(f"<figcaption>Steadiness, {kind}</figcaption>") == 1
    assert "<figcaption>Steadiness</figcaption>" not in html
