"""``albert-fast bench``: what it measures, prints and writes, and when its exit code is 1."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from small_checkpoint import write_small_checkpoint
from torch import Tensor

from albert_fast import Engine
from albert_fast.cli import main, measuring

Run = Callable[..., tuple[int, str, str]]
QUICK = ("--seconds", "0.05", "--no-ceiling")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Engine files: two of one classifier, one of another head."""
    folder = tmp_path_factory.mktemp("engines")
    classifier = write_small_checkpoint(folder / "classifier", "sequence-classification")
    made = {"fp32": (classifier, "fp32"), "bf16": (classifier, "bf16")}
    made["tokens"] = write_small_checkpoint(folder / "mlm", "masked-lm"), "fp32"
    for name, (checkpoint, precision) in made.items():
        options = ("--format", "exported_program", "--precision", precision, "--profile", "1x1:4x16:8x32")
        assert main(["export", str(checkpoint), *options, "-o", str(folder / f"{name}.pt2")]) == 0
    return {name: folder / f"{name}.pt2" for name in made}


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: object) -> tuple[int, str, str]:
        code = main(["bench", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def rows_of(out: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(out)["rows"]
    return rows


def test_every_shape_and_engine_has_a_row(files: dict[str, Path], run: Run) -> None:
    code, out, _ = run(files["fp32"], files["bf16"], "--shapes", "1x16,4x16", "--mixed", *QUICK, "--json")
    assert code == 0
    rows = rows_of(out)
    shapes = [(1, 16, False), (4, 16, False), (4, 16, True)]
    assert [(r["batch"], r["length"], r["mixed"]) for r in rows[::2]] == shapes
    assert [row["engine"] for row in rows[:2]] == [str(files["fp32"]), str(files["bf16"])]
    assert all(0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"] for row in rows)
    assert all(row["within_budget"] and row["load_ms"] > 0 for row in rows)
    assert [row["speedup"] for row in rows[::2]] == [1.0] * 3
    assert rows[1]["max_abs_difference"] > 0 == rows[0]["max_abs_difference"]


def test_padding_counts_neither_as_tokens_nor_as_arithmetic(files: dict[str, Path], run: Run) -> None:
    _, out, _ = run(files["fp32"], "--shapes", "8x32 mixed", *QUICK, "--json")
    row = rows_of(out)[0]
    assert row["real_tokens"] == pytest.approx(0.4 * 8 * 32, abs=2)
    assert row["tokens_per_s"] == pytest.approx(row["real_tokens"] * 1e3 / row["p50_ms"], rel=0.01)


def test_the_page_shows_the_machine_and_a_line_for_every_row(files: dict[str, Path], run: Run) -> None:
    code, out, err = run(files["fp32"], files["bf16"], "--shapes", "1x16", "--seconds", "0.05")
    assert code == 0
    assert "thread(s) of PyTorch each" in out and "fp32 " in out and "bf16 " in out
    lines = [line for line in out.splitlines() if line.startswith("  1x16")]
    assert len(lines) == 2 and all("%" in line for line in lines)
    assert "time 1x16" in err


def test_several_callers_are_measured_together_with_the_threads_asked_for(files: dict[str, Path], run: Run) -> None:
    options = ("--callers", "2", "--threads", "3", "--shapes", "1x16")
    _, out, _ = run(files["fp32"], files["bf16"], *options, *QUICK, "--json")
    document = json.loads(out)
    assert (document["callers"], document["threads"]) == (2, 3)
    for row in document["rows"]:
        assert row["callers"] == 2 and row["calls"] >= 2
        assert row["tokens_per_s"] == pytest.approx(16 * row["calls_per_s"], abs=1)
    assert document["rows"][0]["speedup"] == 1.0


def test_an_engine_of_another_model_is_timed_and_not_compared(files: dict[str, Path], run: Run) -> None:
    code, out, _ = run(files["fp32"], files["tokens"], "--shapes", "4x16 mixed", *QUICK)
    assert code == 0
    assert out.count("another model") == 1


def test_a_result_file_compares_with_itself_and_flags_what_fell(
    files: dict[str, Path], run: Run, tmp_path: Path
) -> None:
    old, options = tmp_path / "old.json", (files["fp32"], files["bf16"], "--shapes", "1x16", *QUICK)
    assert run(*options, "-o", old)[0] == 0
    document = json.loads(old.read_text())
    for speedup, wanted in ((1e-6, 0), (1e6, 1)):
        document["rows"][1]["speedup"] = speedup
        old.write_text(json.dumps(document))
        code, out, _ = run(*options, "--compare", old)
        assert code == wanted
        assert out.splitlines()[-1].startswith(f"{wanted} of 2 rows slower by more than 10%")


def test_answers_that_are_not_finite_are_not_timed(
    files: dict[str, Path], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = measuring.answers

    def broken(engine: Engine, batch: Any) -> dict[str, Tensor]:
        return {name: value * float("nan") for name, value in honest(engine, batch).items()}

    monkeypatch.setattr(measuring, "answers", broken)
    code, out, err = run(files["fp32"], "--shapes", "1x16", *QUICK)
    assert (code, out) == (1, "")
    assert "numbers that are not finite" in err


def test_an_answer_beyond_both_budgets_is_marked(
    files: dict[str, Path], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = measuring.answers

    def shifted(engine: Engine, batch: Any) -> dict[str, Tensor]:
        wrong = engine.manifest is not None and engine.manifest.precision == "bf16"
        return {name: value + 50.0 * wrong for name, value in honest(engine, batch).items()}

    monkeypatch.setattr(measuring, "answers", shifted)
    code, out, _ = run(files["fp32"], files["bf16"], "--shapes", "1x16", *QUICK)
    assert code == 0
    assert [line.endswith("(!)") for line in out.splitlines() if line.startswith("  1x16")] == [False, True]


WRONG: dict[str, tuple[str, ...]] = {
    "no engine file at nowhere.pt2": ("nowhere.pt2",),
    "--threads is 0, expected at least 1; --callers is -1": ("x.pt2", "--threads", "0", "--callers", "-1"),
    "is no shape": ("x.pt2", "--shapes", "large"),
    "--mixed needs a batch of several texts": ("x.pt2", "--shapes", "1x16", "--mixed"),
    "given twice": ("x.pt2", "x.pt2"),
    "leave --no-ceiling out": ("x.pt2", "--no-ceiling", "--compare", "old.json"),
    "old.json cannot be read": ("x.pt2", "--compare", "old.json"),
    "--seconds is 0": ("x.pt2", "--seconds", "0"),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_cannot_be_measured_is_refused_in_one_line(message: str, run: Run) -> None:
    code, out, err = run(*WRONG[message])
    assert (code, out) == (1, "")
    assert message in err.splitlines()[-1]
