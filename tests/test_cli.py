"""The command line: what it prints where, its exit codes, and errors of one line."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_checkpoint import write_small_checkpoint

from albert_fast.cli import COMMANDS, main
from albert_fast.cli.progress import Progress
from albert_fast.cli.stopwatch import interleaved
from albert_fast.cli.table import facts, table
from albert_fast.engine import FORMATS, read_manifest
from albert_fast.precision import PRECISIONS

TEXT = "a small animal that is kept"
EXPORT_OPTIONS = ("--format", "exported_program", "--profile", "1x1:4x16:8x32")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A folder with an engine file per head that has a pipeline; stdout and stderr of the first export."""
    folder = tmp_path_factory.mktemp("engines")
    told = []
    for head in ("masked-lm", "sequence-classification"):
        checkpoint = write_small_checkpoint(folder / head, head)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(["export", str(checkpoint), *EXPORT_OPTIONS, "-o", str(folder / f"{head}.pt2"), "--json"])
        assert code == 0, err.getvalue()
        told.append((out.getvalue(), err.getvalue()))
    return folder, *told[0]


@pytest.fixture
def engines(exported: tuple[Path, str, str]) -> dict[str, Path]:
    return {head: exported[0] / f"{head}.pt2" for head in ("masked-lm", "sequence-classification")}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process; gives exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def is_one_line_error(err: str) -> bool:
    return err.startswith("albert-fast: error: ") and err.count("\n") == 1


def test_help_names_every_command(run: Run) -> None:
    code, out, _ = run("--help")
    assert code == 0
    assert all(f"\n    {name}" in out for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, run: Run) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "--json" in out


def test_choices_come_from_the_tables(run: Run) -> None:
    _, out, _ = run("export", "--help")
    assert all(name in out for name, row in FORMATS.items() if row.kind == "file")
    assert all(name in out for name in PRECISIONS)


def test_the_version_is_told_without_importing_torch() -> None:
    program = (
        "import sys\nfrom albert_fast.cli import main\n"
        "assert main(['--version']) == 0\nassert 'torch' not in sys.modules"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("albert-fast 0")


@pytest.mark.parametrize(
    "arguments", [(), ("exprt",), ("run",), ("export", "x", "--format", "onnx9"), ("run", "x", "y", "--topk", "3")]
)
def test_a_wrong_command_line_gives_exit_code_2_and_one_line(arguments: tuple[str, ...], run: Run) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert is_one_line_error(err)


WRONG: dict[str, tuple[str, ...]] = {
    "no engine file at ": ("run", "nowhere.pt2", TEXT),
    "no engine file at nowhere.pt2": ("inspect", "nowhere.pt2"),
    "cannot be read": ("export", "nowhere.toml"),
    "no folder on this machine": ("export", "no/such/folder/here"),
    "is no profile": ("export", "albert-fast/wordnet", "--profile", "large"),
    "expected a name that ends in .pt2": ("export", "albert-fast/wordnet", "-o", "engine.onnx"),
}


@pytest.mark.parametrize("message", WRONG)
def test_what_cannot_be_done_gives_exit_code_1_and_one_line(message: str, run: Run) -> None:
    code, out, err = run(*WRONG[message])
    assert (code, out) == (1, "")
    assert err.splitlines()[-1].startswith("albert-fast: error: ")
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err


def test_an_interruption_gives_exit_code_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("albert_fast.cli.inspect.run", interrupt)
    code, _, err = run("inspect")
    assert (code, err) == (130, "albert-fast: error: interrupted\n")


def test_export_writes_json_to_stdout_and_progress_to_stderr(exported: tuple[Path, str, str]) -> None:
    folder, out, err = exported
    document = json.loads(out)
    assert Path(document["engine"]) == folder / "masked-lm.pt2"
    assert Path(document["tokenizer"]).is_dir()
    assert document["content"]["head"] == "masked-lm"
    assert "capturing the graph" in err


def test_options_win_over_the_recipe(engines: dict[str, Path], tmp_path: Path, run: Run) -> None:
    checkpoint = engines["sequence-classification"].parent / "sequence-classification"
    recipe, output = tmp_path / "recipe.toml", tmp_path / "engine.pt2"
    recipe.write_text(
        f'model = "{checkpoint}"\nformat = "exported_program"\nprofile = "2x8"\noutput = "elsewhere.pt2"\n'
    )
    code, out, _ = run("export", recipe, "-o", output, "--profile", "1x4")
    assert code == 0
    assert str(output) in out
    assert read_manifest(output).profile == "1x4:1x4:1x4"


def test_run_prints_a_table_of_predictions(engines: dict[str, Path], run: Run) -> None:
    code, out, _ = run("run", engines["masked-lm"], "a small [MASK]", "a [MASK] and a [MASK]", "--top-k", "2")
    assert code == 0
    lines = out.splitlines()
    assert lines[0] == "a small [MASK]"
    assert lines[1].split() == ["score", "token", "text"]
    assert lines.count("  mask 1") == lines.count("  mask 2") == 1
    assert sum("0." in line for line in lines) == 2 + 2 * 2


def test_run_gives_json_with_the_texts_and_their_predictions(engines: dict[str, Path], run: Run) -> None:
    code, out, err = run("run", engines["sequence-classification"], TEXT, "", "--top-k", "2", "--json")
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert document["task"] == "text-classification"
    assert [result["text"] for result in document["results"]] == [TEXT, ""]
    assert all(len(result["predictions"]) == 2 for result in document["results"])
    assert {one["label"] for one in document["results"][0]["predictions"]} < {"noun", "verb", "adverb"}


def test_run_reads_lines_of_stdin(engines: dict[str, Path], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\r\ntwo\n"))
    _, out, _ = run("run", engines["sequence-classification"], "first", "-", "--json")
    assert [result["text"] for result in json.loads(out)["results"]] == ["first", "one", "two"]


def test_run_takes_pairs_as_words_and_from_stdin(
    engines: dict[str, Path], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("c\td\n"))
    _, out, _ = run("run", engines["sequence-classification"], "a", "b", "-", "--pair", "--json")
    found = [(result["text"], result["text_pair"]) for result in json.loads(out)["results"]]
    assert found == [("a", "b"), ("c", "d")]


@pytest.mark.parametrize(
    ("texts", "stdin", "message"),
    [
        (["a", "--pair"], "", "'a' is alone"),
        (["-", "--pair"], "a b\n", "line 1 of stdin has no tab"),
        (["-"], "", "stdin was empty"),
        (["a " * 60], "", "pass truncation=True (--truncate)"),
    ],
)
def test_run_refuses_texts_that_it_cannot_answer(
    texts: list[str], stdin: str, message: str, engines: dict[str, Path], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
    code, _, err = run("run", engines["sequence-classification"], *texts)
    assert code == 1
    assert is_one_line_error(err)
    assert message in err


def test_run_cuts_long_texts_when_asked(engines: dict[str, Path], run: Run) -> None:
    assert run("run", engines["sequence-classification"], "a " * 60, "--truncate")[0] == 0


def test_run_refuses_an_engine_without_a_task(engines: dict[str, Path], tmp_path: Path, run: Run) -> None:
    manifest = dataclasses.replace(read_manifest(engines["masked-lm"]), head="base")
    (tmp_path / "base.pt2").write_bytes(b"not even loaded")
    (tmp_path / "base.pt2.manifest.json").write_text(manifest.to_json())
    code, _, err = run("run", tmp_path / "base.pt2", TEXT)
    assert code == 1
    assert "no pipeline answers with the head 'base'" in err


def test_run_names_the_tokenizer_folder_that_is_missing(engines: dict[str, Path], tmp_path: Path, run: Run) -> None:
    source, alone = engines["masked-lm"], tmp_path / "alone.pt2"
    alone.write_bytes(source.read_bytes())
    Path(f"{alone}.manifest.json").write_bytes(Path(f"{source}.manifest.json").read_bytes())
    code, _, err = run("run", alone, "a [MASK]")
    assert code == 1
    assert "alone.pt2.tokenizer is missing" in err
    assert run("run", alone, "a [MASK]", "--tokenizer", source.parent / "masked-lm")[0] == 0


def test_a_fresh_process_runs_the_engine_file(engines: dict[str, Path], run: Run) -> None:
    arguments = ["run", str(engines["masked-lm"]), "a small [MASK]", "--json"]
    finished = subprocess.run([sys.executable, "-m", "albert_fast", *arguments], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout) == json.loads(run(*arguments)[1])


def test_inspect_says_what_an_engine_is_and_that_it_runs_here(engines: dict[str, Path], run: Run) -> None:
    code, out, _ = run("inspect", engines["sequence-classification"])
    assert code == 0
    for words in (
        "sequence-classification",
        "exported_program, fp32",
        "1x1:4x16:8x32",
        "noun, verb",
        "each stored once: ",
    ):
        assert words in out
    assert re.search(r"runs here +yes\n", out)
    code, out, _ = run("inspect", engines["masked-lm"], "--json")
    assert (code, json.loads(out)["fits_machine"]) == (0, True)


def test_inspect_of_a_damaged_engine_says_so_with_exit_code_1(
    engines: dict[str, Path], tmp_path: Path, run: Run
) -> None:
    source, damaged = engines["masked-lm"], tmp_path / "damaged.pt2"
    damaged.write_bytes(source.read_bytes()[:-1])
    Path(f"{damaged}.manifest.json").write_bytes(Path(f"{source}.manifest.json").read_bytes())
    code, out, _ = run("inspect", damaged)
    assert code == 1
    assert re.search(r"runs here +no: ", out)


def test_inspect_without_an_engine_describes_the_machine(run: Run) -> None:
    code, out, _ = run("inspect")
    assert code == 0
    assert "op library" in out
    assert all(name in out for name in FORMATS)
    assert json.loads(run("inspect", "--json")[1])["threads"] >= 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_writes_a_plain_line_per_stage_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    with Progress(stream) as progress:
        progress("one")
        progress.step("one, half way")
        progress("two")
    assert [line.split("] ")[1] for line in stream.getvalue().splitlines()] == ["one", "two", "done"]
    assert "\x1b" not in stream.getvalue()


def test_progress_redraws_the_line_of_a_terminal_and_marks_what_failed() -> None:
    stream = Terminal()
    with pytest.raises(ValueError, match="it broke"), Progress(stream) as progress:
        progress("one")
        progress("two")
        raise ValueError("it broke")
    lasting = [line.rpartition("\r\x1b[2K")[2].split() for line in stream.getvalue().rstrip().split("\n")]
    assert [(line[0], line[-1]) for line in lasting] == [("ok", "one"), ("failed", "two")]


def test_progress_never_draws_a_line_that_wraps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream = Terminal()
    with Progress(stream) as progress:
        progress("a stage with a long name " * 4)
    drawn = stream.getvalue().split("\r\x1b[2K")[1]
    assert len(drawn) == 39


def test_tables_are_aligned_whatever_the_characters() -> None:
    text = table(["word", "n"], [["a", "1"], ["大", "20"], ["e\N{COMBINING ACUTE ACCENT}", "3"]], align="lr")
    assert text.splitlines() == [
        "  word   n",
        "  ----  --",
        "  a      1",
        "  大    20",
        "  e\N{COMBINING ACUTE ACCENT}      3",
    ]
    assert facts([("a", "1"), ("bcd", "2")]) == "  a    1\n  bcd  2"
    with pytest.raises(ValueError, match="every row needs 2 cells"):
        table(["a", "b"], [["1"]], align="ll")


def test_the_stopwatch_gives_every_call_the_same_rounds_in_turns() -> None:
    called: list[str] = []
    calls = {name: lambda name=name: called.append(name) for name in ("a", "b")}
    latencies = interleaved(calls, rounds=6, seconds=60)
    assert [one.rounds for one in latencies.values()] == [6, 6]
    assert "".join(called) == "ababab" + "abbaabbaabba"
    assert all(0 <= one.p50_ms <= one.p95_ms for one in latencies.values())
    called.clear()
    assert interleaved(calls, rounds=50, seconds=0)["a"].rounds == 5
    assert called.count("a") == 1 + 5
