"""albert-fast calibrate: what it writes, what it prints, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from small_checkpoint import SENTENCES, write_small_checkpoint

from albert_fast import Scales
from albert_fast.cli import main
from albert_fast.cli.calibrate import differences

Run = Callable[..., tuple[int, str, str]]
TENSOR = "encoder.albert_layer_groups.0.albert_layers.0.ffn_output.input"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, texts, and the scales file of both."""
    made = tmp_path_factory.mktemp("calibrate")
    write_small_checkpoint(made / "model")
    words = " ".join(SENTENCES).split()
    generator = random.Random(5)
    texts = [" ".join(generator.choices(words, k=8)) for _ in range(60)]
    (made / "texts.txt").write_text("\n".join(texts))
    (made / "texts.csv").write_text("label,gloss\n" + "\n".join(f'{i},"{text}"' for i, text in enumerate(texts)))
    assert main(["calibrate", str(made / "model"), str(made / "texts.txt"), "-o", str(made / "a.scales.json")]) == 0
    return made


@pytest.fixture
def run(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in the folder; gives exit code, stdout and stderr."""
    monkeypatch.chdir(folder)

    def call(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(list(arguments))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_it_writes_the_scales_and_prints_each_tensors_range_over_the_passes(run: Run, folder: Path) -> None:
    code, out, err = run("calibrate", "model", "texts.txt")
    assert code == 0
    assert "running 60 texts in float32" in err
    written = (folder / "model.scales.json").read_text()
    assert written == (folder / "a.scales.json").read_text()
    scales = Scales.read(folder / "model.scales.json")
    amax = scales.amax[TENSOR]
    line = next(line for line in out.splitlines() if TENSOR in line)
    shown = [amax[0], amax[-1], min(amax), max(amax)]
    assert line.split()[1:] == ["4", *(f"{number:.4g}" for number in shown), f"{max(amax) / min(amax):.2f}"]
    assert "texts.txt: 60 texts, " in out and "percentile 99.99" in out
    assert all(tensor in out for tensor in scales.amax)


def test_every_option_reaches_the_function(run: Run) -> None:
    code, out, _ = run(
        "calibrate", "model", "texts.csv", "--column", "gloss", "--method", "percentile", "--percentile", "99",
        "--max-texts", "55", "--max-length", "20", "--batch-size", "8", "--attention", "sdpa", "--head", "masked-lm",
        "--tokenizer", "model", "-o", "new/b.scales.json", "--json",
    )  # fmt: skip
    assert code == 0
    document = json.loads(out)
    assert document["scales"] == "new/b.scales.json"
    assert document["digest"] == Scales.read("new/b.scales.json").digest
    content = document["content"]
    assert (content["method"], content["text"]["texts"], content["text"]["source"]) == (
        "percentile 99",
        55,
        "texts.csv",
    )
    assert content["text"]["truncated"] > 0 and not any("probabilities" in tensor for tensor in content["amax"])


def test_the_file_is_named_after_model_and_head_unless_named(run: Run, folder: Path) -> None:
    assert run("calibrate", "model", "texts.txt", "--head", "masked-lm", "--json")[0] == 0
    assert (folder / "model-masked-lm.scales.json").is_file()


def test_two_files_are_compared_by_the_pass_that_differs_most(run: Run, folder: Path) -> None:
    scales = Scales.read(folder / "a.scales.json")
    first, second, third, last = scales.amax[TENSOR]
    amax = {**scales.amax, TENSOR: (first, second * 1.1, third / 2, last), "extra.input": (1.0,)}
    del amax["predictions.dense.input"]
    other = dataclasses.replace(scales, amax=amax, model="0")
    other.save(folder / "other.scales.json")
    assert differences(scales, other)[TENSOR] == {"pass": 2, "this": third, "other": third / 2, "ratio": 2.0}
    code, out, _ = run("calibrate", "model", "texts.txt", "-o", "c.scales.json", "--compare", "other.scales.json")
    assert code == 0
    table = out.partition("widest difference from other.scales.json")[2]
    assert next(line for line in table.splitlines() if TENSOR in line).split()[1:] == [
        "2", f"{third:.4g}", f"{third / 2:.4g}", "2.000",
    ]  # fmt: skip
    assert "found on encoders with other weights" in table
    assert "In one of the two only: predictions.dense.input, extra.input." in table
    code, out, _ = run("calibrate", "model", "texts.txt", "-o", "c.scales.json", "--compare", "a.scales.json", "--json")
    assert {one["ratio"] for one in json.loads(out)["compared"].values()} == {1.0}


WRONG: dict[str, tuple[str, ...]] = {
    "no folder on this machine": ("no/such/model", "texts.txt"),
    "texts nowhere.txt cannot be read: No such file": ("model", "nowhere.txt"),
    "texts absent.txt cannot be read": ("no/such/model", "absent.txt"),  # before a model is loaded
    "has no column glos; it has label, gloss; did you mean 'gloss'?": ("model", "texts.csv", "--column", "glos"),
    "has the columns label, gloss; say which holds the text: column= (--column)": ("model", "texts.csv"),
    "max_texts is 3, expected a number of at least 32": ("model", "texts.txt", "--max-texts", "3"),
    "the scales file texts.csv is not JSON": ("model", "texts.txt", "--compare", "texts.csv"),
    "the output model is a folder": ("model", "texts.txt", "-o", "model"),
    "cannot be written: ": ("model", "texts.txt", "-o", "texts.txt/a.json"),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_cannot_be_done_is_one_line_and_writes_nothing(message: str, run: Run, folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    code, out, err = run("calibrate", *WRONG[message])
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("albert-fast: error: ") and message in err.splitlines()[-1]
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_a_wrong_command_line_is_exit_code_2(run: Run) -> None:
    for arguments in (
        ("model",),
        ("model", "texts.txt", "--method", "median"),
        ("model", "texts.txt", "--max-texts", "x"),
    ):
        code, out, err = run("calibrate", *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
