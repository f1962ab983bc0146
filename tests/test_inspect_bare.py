"""``albert-fast inspect`` of an engine file whose manifest is missing: what the file itself tells, and exit code 1."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from engine_samples import build_small, engine_file
from tensorrt_fake import fake_module

from albert_fast.cli import main
from albert_fast.engine import describe, manifest_path, onnx_file
from albert_fast.engine.tensorrt_modules import TENSORRT, TENSORRT_RTX
from albert_fast.errors import EngineError

Run = Callable[..., tuple[int, str, str]]
needs_onnx = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="needs onnx, onnxscript and onnxruntime: pip install 'albert-fast[onnx]'",
)
needs_rtx = pytest.mark.skipif(
    find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx: pip install 'albert-fast[tensorrt-rtx]'"
)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process; gives exit code, stdout and stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def bare(format: str, folder: Path) -> Path:
    """A copy of an engine file of the small model, without its manifest."""
    source = engine_file(format)
    path = folder / f"bare{source.suffix}"
    path.write_bytes(source.read_bytes())
    return path


def line(out: str, name: str) -> str:
    """What a printed table of facts says under a name; fails where it says nothing or says it twice."""
    found = re.findall(rf"^  {name} {{2,}}(.*)$", out, re.MULTILINE)
    assert len(found) == 1, (name, out)
    return str(found[0])


@needs_onnx
def test_an_onnx_file_tells_the_manifest_that_it_carries(tmp_path: Path, run: Run) -> None:
    path = bare("onnx", tmp_path)
    code, out, err = run("inspect", path)
    assert (code, err) == (1, "")
    assert line(out, "head") == "pretraining"
    assert line(out, "format").startswith("onnx, fp32, sdpa attention")
    assert line(out, "size").startswith(f"{path.stat().st_size / 1e6:.1f} MB; ")
    assert line(out, "opsets").startswith("ai.onnx ")
    assert int(line(out, "stored weight bytes")) == onnx_file.stored_bytes(path)
    missing = f"no: the manifest {manifest_path(path)} is missing; an engine file is loaded only with it: copy both"
    assert line(out, "runs here").startswith(missing)


@needs_onnx
def test_the_same_comes_as_json(tmp_path: Path, run: Run) -> None:
    path = bare("onnx", tmp_path)
    code, out, _ = run("inspect", path, "--json")
    found = json.loads(out)
    assert code == 1
    assert (found["format"], found["bytes"]) == ("onnx", path.stat().st_size)
    assert found["manifest"]["labels"] == ["no", "yes"]
    assert "is missing" in found.pop("problem")
    assert found == describe(path)


@needs_onnx
def test_an_onnx_file_of_somebody_else_tells_its_opsets_and_no_manifest(tmp_path: Path, run: Run) -> None:
    import onnx

    path = tmp_path / "other.onnx"
    graph = onnx.helper.make_graph([], "empty", [], [])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("com.other", 3)]), path)
    code, out, _ = run("inspect", path)
    assert code == 1
    assert (line(out, "format"), line(out, "opsets")) == ("onnx", "com.other 3")
    assert describe(path)["manifest"] is None


@needs_onnx
def test_an_onnx_file_that_is_none_gives_one_line(tmp_path: Path, run: Run) -> None:
    (tmp_path / "x.onnx").write_bytes(b"\xff" * 100)
    code, out, err = run("inspect", tmp_path / "x.onnx")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "is no ONNX file, or it is damaged" in err


@needs_rtx
@needs_onnx
def test_an_engine_tells_whose_it_is_and_whether_it_would_load(tmp_path: Path, run: Run) -> None:
    path = bare("tensorrt-rtx", tmp_path)
    code, out, err = run("inspect", path)
    assert (code, err) == (1, "")
    assert (line(out, "format"), line(out, "written by")) == ("tensorrt-rtx", "TensorRT-RTX")
    assert int(line(out, "bytes")) == path.stat().st_size
    loads, reasons = describe(path)["loads_here"], describe(path)["reasons"]
    assert (loads, bool(reasons)) in ((True, False), (False, True))
    assert line(out, "runs here").startswith("no: the manifest ")
    path.write_bytes(path.read_bytes()[:40])
    assert "it is no engine file, or a damaged one" in line(run("inspect", path)[1], "reasons")


@pytest.mark.parametrize("flavour", [TENSORRT, TENSORRT_RTX], ids=lambda flavour: flavour.format)
def test_an_engine_whose_module_is_missing_says_what_to_install(
    flavour: Any, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, flavour.module, None)
    path = tmp_path / "x.engine"
    path.write_bytes(flavour.magic + b"0" * 100)
    code, out, _ = run("inspect", path, "--json")
    found = json.loads(out)
    assert (code, found["format"], found["loads_here"]) == (1, flavour.format, False)
    assert f"pip install 'albert-fast[{flavour.format}]'" in found["reasons"][0]


def test_a_module_that_does_not_start_here_is_the_reason_why_an_engine_does_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT gives a null pointer in the place of a runtime where there is no GPU, and its binding a TypeError."""
    module = fake_module()

    def no_runtime(logger: Any) -> None:
        logger.log(1, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")

    module.Runtime = no_runtime
    monkeypatch.setattr("albert_fast.engine.tensorrt_probe.load", lambda flavour, purpose: module)
    path = tmp_path / "x.engine"
    path.write_bytes(TENSORRT.magic + b"0" * 100)
    found = describe(path)
    assert (found["loads_here"], found["reasons"]) == (False, ["CUDA initialization failure with error: 35"])


@pytest.mark.parametrize("content", [b"", b"something else"])
def test_a_file_that_begins_like_no_engine_is_told_so(content: bytes, tmp_path: Path, run: Run) -> None:
    path = tmp_path / "x.engine"
    path.write_bytes(content)
    code, out, _ = run("inspect", path)
    assert (code, line(out, "format"), line(out, "bytes")) == (1, "unknown", str(len(content)))
    assert ", and this one begins like no engine file: copy both files" in line(out, "runs here")


def test_a_pt2_file_tells_nothing_without_its_manifest(tmp_path: Path, run: Run) -> None:
    path = bare("exported_program", tmp_path)
    code, out, err = run("inspect", path)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert f"the manifest {manifest_path(path)} is missing; an engine file is loaded only with it" in err
    with pytest.raises(EngineError, match=r"is missing, and .*bare\.pt2 says nothing without it; copy both files"):
        describe(path)


@needs_onnx
def test_with_its_manifest_the_file_is_inspected_as_before(tmp_path: Path, run: Run) -> None:
    build_small(tmp_path / "e.onnx", format="onnx")
    code, out, _ = run("inspect", tmp_path / "e.onnx")
    assert (code, line(out, "runs here")) == (0, "yes")
