"""What a format hands to ``build`` beside the file: bytes that options asked for, and what stands in for the file."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_samples import PROFILE, build_small, eager_answers, small_model, small_program
from tensorrt_fake import fake_module

from albert_fast.batch import Batch
from albert_fast.engine import FORMATS, exported_program, inspect, tensorrt_format
from albert_fast.engine.formats import ENGINE_FILE, Written
from albert_fast.engine.tensorrt_modules import TENSORRT
from albert_fast.errors import EngineError

MEGABYTE = 1_000_000


def larger(monkeypatch: pytest.MonkeyPatch, *, extra_bytes: int) -> None:
    """Let the format write 5 MB more than its limit has room for, and say that so many are extra."""
    write = exported_program.write

    def written(program: Any, path: Path, **more: Any) -> Written:
        found = write(program, path, **more)
        with path.open("ab") as stream:
            stream.write(b"\0" * 5 * MEGABYTE)
        return dataclasses.replace(found, extra_bytes=extra_bytes)

    monkeypatch.setattr(exported_program, "write", written)
    monkeypatch.setattr(exported_program, "stored_weight_bytes", lambda path, notes: 0)

    def read(path: Path, **more: Any) -> Any:
        return lambda ids, mask, types: eager_answers(small_model(), Batch(ids, mask, types))

    monkeypatch.setattr(exported_program, "read", read)


def test_bytes_that_an_option_asked_for_are_added_to_the_size_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = build_small(tmp_path / "plain.pt2")
    assert "extra_bytes" not in plain.notes
    limit = inspect(tmp_path / "plain.pt2")["size_limit_bytes"]
    larger(monkeypatch, extra_bytes=5 * MEGABYTE)
    manifest = build_small(tmp_path / "e.pt2")
    assert manifest.notes["extra_bytes"] == 5 * MEGABYTE
    found = inspect(tmp_path / "e.pt2")
    assert found["size_limit_bytes"] == limit + 5 * MEGABYTE >= found["file_bytes"] > limit


def test_bytes_that_nobody_asked_for_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    larger(monkeypatch, extra_bytes=0)
    with pytest.raises(EngineError, match=r"takes \d+ bytes, .*at most \d+ are allowed"):
        build_small(tmp_path / "e.pt2")


def test_a_stand_in_is_measured_even_where_the_device_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with an engine without weights, which no GPU can run."""
    write, asked = exported_program.write, []

    def stand_in(ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> dict[str, torch.Tensor]:
        asked.append(ids.device.type)
        return eager_answers(small_model(), Batch(ids, mask, types))

    def written(*arguments: Any, **more: Any) -> Written:
        return dataclasses.replace(write(*arguments, **more), stand_in=stand_in, measured_on="a stand-in")

    def read(*arguments: Any, **more: Any) -> Any:
        raise AssertionError("the file was run")

    monkeypatch.setattr(exported_program, "write", written)
    monkeypatch.setattr(exported_program, "read", read)
    assert build_small(tmp_path / "e.pt2").measured_on == "a stand-in"
    assert asked and set(asked) == {"cpu"}


def test_without_a_stand_in_the_file_itself_is_measured(tmp_path: Path) -> None:
    assert build_small(tmp_path / "e.pt2").measured_on == ENGINE_FILE


@pytest.mark.parametrize("version_compatible", [True, False])
def test_a_version_compatible_engine_may_hold_tensorrts_lean_runtime(
    version_compatible: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = fake_module()
    module.BuilderFlag = type("BuilderFlag", (), {"VERSION_COMPATIBLE": 1})
    facts = {"weights_bytes": 1, "activation_bytes": []}
    monkeypatch.setattr(tensorrt_format, "load", lambda flavour, purpose: module)
    monkeypatch.setattr(tensorrt_format, "require_onnx", lambda: None)
    monkeypatch.setattr(tensorrt_format.machine, "has_device", lambda device: True)
    monkeypatch.setattr(tensorrt_format.tensorrt_build, "graph_of", lambda program, options: None)
    monkeypatch.setattr(tensorrt_format.tensorrt_build, "build", lambda *arguments, **more: facts)
    written = tensorrt_format.write(
        TENSORRT, small_program(), tmp_path / "x.engine", device="cuda", profiles=(PROFILE,),
        options={"version_compatible": version_compatible}, tell=lambda text: None,
    )  # fmt: skip
    assert written.extra_bytes == (tensorrt_format.LEAN_RUNTIME_BYTES if version_compatible else 0)


def test_kernels_of_24_passes_fit_into_what_tensorrts_rows_allow() -> None:
    assert all(FORMATS[name].code_bytes > 13_300_000 for name in ("tensorrt", "tensorrt-rtx"))
