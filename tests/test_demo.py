"""The demo: the whole road on the embedded model, in a process of its own, as ``make demo`` runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from albert_fast.cli import demo
from albert_fast.cli.stopwatch import Latency
from albert_fast.engine import FORMATS, inspect, machine

WRITTEN = [(head, row.name, precision) for head, row, precision in demo.plan(demo.here()[0])]
RUN = [one for one in WRITTEN if machine.has_device(FORMATS[one[1]].devices[0])]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The folder that the demo wrote to, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "albert_fast", "demo", "--quick", "--output", str(folder / "engines")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return folder / "engines", subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_the_demo_goes_through_and_reports_each_stage_on_stderr(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    _, done = finished
    assert done.returncode == 0, done.stderr
    for words in (
        "calibrate: running 256 texts",
        "capturing the graph",
        "verify on real text",
        "verifying the file",
        "run in a fresh process",
        "time 8x64 against eager",
    ):
        assert words in done.stderr


@pytest.mark.slow
def test_the_demo_leaves_a_sound_engine_of_everything_it_planned(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, _ = finished
    suffixes = {FORMATS[name].suffix for _, name, _ in WRITTEN}
    found = [inspect(path) for path in sorted(folder.iterdir()) if path.suffix in suffixes]
    assert {(one["head"], one["format"], one["precision"]) for one in found} == set(WRITTEN)
    assert all(one["undamaged"] and one["weights_held_once"] for one in found)
    assert {(one["head"], one["format"], one["precision"]) for one in found if one["fits_machine"]} == set(RUN)


def test_the_demo_shows_every_file_format_and_int8_wherever_it_is_multiplied() -> None:
    planned = demo.plan([row for row in FORMATS.values() if row.kind == "file"])
    timed = {(row.name, precision) for head, row, precision in planned if head == demo.TIMED_HEAD}
    assert {name for name, precision in timed if precision == "fp32"} == {
        row.name for row in FORMATS.values() if row.kind == "file"
    }
    assert {"aotinductor", "onnx", "tensorrt-rtx"} <= {name for name, precision in timed if precision == "int8"}
    assert {head for head, _, precision in planned if precision == "fp32"} == set(demo.TEXTS)


@pytest.mark.slow
def test_fresh_processes_with_different_formats_predict_the_same_sensible_things(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    _, done = finished
    assert done.stdout.count("each in a fresh process, agree on the first") == len(demo.TEXTS)
    lines = {line.split("  ")[1]: line for line in done.stdout.splitlines() if line.startswith("  ")}
    assert "noun.animal" in lines["a small green frog that lives in trees"]
    assert "noun.food" in lines["a soup made from beans, onions and tomatoes"]


@pytest.mark.slow
def test_the_latency_table_compares_every_engine_with_eager_at_every_shape(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    _, done = finished
    rows = done.stdout.partition("eager / it\n")[2].partition("this machine")[0].splitlines()
    timed = [(name, precision) for head, name, precision in RUN if head == demo.TIMED_HEAD]
    names = ["eager", *(name if precision == "fp32" else f"{name} {precision}" for name, precision in timed)]
    for name in names:
        assert sum(f" {name}  " in f" {row} " for row in rows) == len(demo.SHAPES), name
    for words in ("torch", "threads", "cpu "):
        assert f"\n  {words}" in done.stdout


def test_a_timing_row_says_tokens_a_second_and_how_often_it_fits_into_eager() -> None:
    eager, fast = Latency((100.0, 100.0, 120.0)), Latency((40.0, 40.0, 48.0))
    timings = {(8, 64): {"eager": eager, "fast": fast}}
    assert demo.timing_rows(timings) == [
        ["8x64", "eager", "100.0", "118.0", "5,120", "1.00"],
        ["", "fast", "40.0", "47.2", "12,800", "2.50"],
    ]
    latency = json.loads(json.dumps(demo.document([], timings, {})))["latency"][1]
    assert (latency["batch"], latency["length"], latency["engine"], latency["rounds"]) == (8, 64, "fast", 3)
    assert latency["p50_ms"] == 40.0


def test_an_engine_that_answers_otherwise_is_not_timed() -> None:
    import torch

    from albert_fast import Batch, EngineError

    engines = {"eager": lambda batch: {"logits": torch.zeros(1, 3)}, "off": lambda batch: {"logits": torch.ones(1, 3)}}
    with pytest.raises(EngineError, match=r"off is 1.0e\+00 away from eager at \[1, 4\]; not timed"):
        demo.compare(engines, Batch(torch.ones(1, 4, dtype=torch.int64)), {"off": 0.5})
    demo.compare(engines, Batch(torch.ones(1, 4, dtype=torch.int64)), {"off": 1.0})
