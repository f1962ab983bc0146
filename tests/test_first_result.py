"""From a fresh process to its first answer: what is imported on the way, and what is left behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from engine_samples import RUNNABLE_FILES, engine_file

from albert_fast.engine import load
from albert_fast.errors import EngineError

COMPILERS = ("torch._dynamo", "torch._inductor", "torch._export.serde", "sympy", "triton")
CONVERTERS = ("onnx", "onnxscript", "torch.onnx", "transformers")
PROGRAM = f"""
import sys, torch
before = set(sys.modules)
import albert_fast
engine = albert_fast.load(sys.argv[1])
engine(albert_fast.Batch(torch.full((2, 9), 7)))
print(*sorted(set({COMPILERS + CONVERTERS}) & (set(sys.modules) - before)))
"""


def _rows(*names: str) -> list[Any]:
    """Those of the parameters of every row that runs from a file."""
    return [parameter for parameter in RUNNABLE_FILES if parameter.values[0] in names]


def imported(path: Path, **environment: str) -> list[str]:
    """The compilers and converters that a fresh process has imported when it has answered, beyond ``import torch``."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)],
        capture_output=True, text=True, check=False, env={**os.environ, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize("format", _rows("aotinductor", "native", "onnx"))
def test_an_engine_that_is_compiled_answers_without_importing_a_compiler(format: str) -> None:
    assert imported(engine_file(format)) == []


def test_a_captured_graph_does_import_them_which_shows_that_this_would_be_seen() -> None:
    assert imported(engine_file("exported_program")) != []  # torch.export.load reads sizes as SymPy's expressions


@pytest.mark.parametrize("format", _rows("aotinductor", "native"))
def test_a_process_that_ends_leaves_nothing_of_the_package_it_unpacked(format: str, tmp_path: Path) -> None:
    imported(engine_file(format), TMPDIR=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_cannot_be_unpacked_is_told_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = engine_file("aotinductor")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    with pytest.raises(EngineError, match=r"cannot load .*: Error generating temporary directory.* set TMPDIR"):
        load(path)
