"""build, load and inspect: each refusal, and that a refused build leaves what was there."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from engine_samples import (
    WRITABLE,
    batch_of,
    build_small,
    engine_file,
    facts,
    references,
    small_model,
)

from albert_fast.batch import ShapeProfile
from albert_fast.engine import (
    FORMATS,
    Format,
    Manifest,
    exported_program,
    inspect,
    load,
    machine,
    manifest_path,
    read_manifest,
)
from albert_fast.errors import EngineError
from albert_fast.precision import ErrorBudget


def copy_of(format: str, folder: Path) -> Path:
    path = folder / f"engine{FORMATS[format].suffix}"
    shutil.copy(engine_file(format), path)
    shutil.copy(manifest_path(engine_file(format)), manifest_path(path))
    return path


def rewrite(path: Path, **changes: Any) -> None:
    manifest_path(path).write_text(dataclasses.replace(read_manifest(path), **changes).to_json())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(format="tensorflow"), "format is 'tensorflow', expected one of exported_program, aotinductor"),
        (dict(format="eager"), "'eager' lives in one process, made by in_process; expected one of exported_program"),
        (dict(references=[]), "references is empty"),
        (dict(device="tpu"), "expected 'cpu', 'cuda'"),
        (dict(options={"speed": "fast"}), "has no options, found speed"),
        (dict(format="aotinductor", options={"speed": "fast"}), "takes the options linear, found speed"),
        (dict(format="aotinductor", options={"linear": "folded"}), "'folded', expected one of auto, packed, plain"),
        (dict(facts=facts(small_model(), ShapeProfile(1, 2, 9, 1, 8, 48))), r"batch 1\.\.9 .* not within 1\.\.4"),
    ],
)
def test_arguments_that_cannot_work_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_small(tmp_path / "e.pt2", **changes)
    assert contents(tmp_path) == {}


def test_a_path_that_cannot_work_is_refused_with_all_its_faults(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"'e\.engine', expected a name that ends in \.pt2; the folder .* does not exist"
    ):
        build_small(tmp_path / "absent" / "e.engine")


def test_an_error_beyond_the_budget_writes_nothing_and_keeps_the_old_pair(tmp_path: Path) -> None:
    path = copy_of("exported_program", tmp_path)
    before = contents(tmp_path)
    [(batch, answers)] = references(small_model())[:1]
    wrong = {name: value + 1e-3 for name, value in answers.items()}
    with pytest.raises(EngineError, match=r"not exact enough for precision fp32: max_abs is .*Nothing was written"):
        build_small(path, references=[(batch, wrong)])
    assert contents(tmp_path) == before


def test_the_measured_error_is_that_of_the_file(tmp_path: Path) -> None:
    [(batch, answers)] = references(small_model())[:1]
    wrong = {name: value + 0.5 for name, value in answers.items()}
    manifest = build_small(tmp_path / "e.pt2", references=[(batch, wrong)], budget=ErrorBudget(1.0, 1.0, 0.0, 0.0))
    assert manifest.error.max_abs == pytest.approx(0.5, abs=1e-4)


def test_a_file_that_stores_a_weight_twice_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., int] = exported_program.stored_weight_bytes
    monkeypatch.setattr(exported_program, "stored_weight_bytes", lambda *a: 2 * real(*a) + 100_000)
    with pytest.raises(EngineError, match=r"each weight stored once\. Nothing was written"):
        build_small(tmp_path / "e.pt2")
    assert contents(tmp_path) == {}


def test_a_file_that_is_too_large_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = dataclasses.replace(FORMATS["exported_program"], code_bytes=0)
    monkeypatch.setitem(cast(dict[str, Format], FORMATS), "exported_program", row)
    with pytest.raises(EngineError, match=r"takes \d+ bytes, .*at most \d+ are allowed"):
        build_small(tmp_path / "e.pt2")


def test_build_says_what_it_does(tmp_path: Path) -> None:
    said: list[str] = []
    build_small(tmp_path / "e.pt2", progress=said.append)
    assert said == ["compile for exported_program", "measure the error against eager", "write the engine file"]


@pytest.mark.parametrize("format", WRITABLE)
def test_every_weight_is_stored_once(format: str) -> None:
    found = inspect(engine_file(format))
    assert found["weights_held_once"] is True
    assert found["stored_weight_bytes"] < 1.3 * found["weight_bytes"]  # packed layouts pad such small matrices
    assert found["weight_bytes"] == sum(p.numel() * 4 for p in small_model().parameters())


@pytest.mark.parametrize("format", WRITABLE)
def test_inspect_says_that_a_fresh_engine_is_whole_and_fits(format: str) -> None:
    found = inspect(engine_file(format))
    runs_here = machine.has_device(found["device"])
    assert (found["undamaged"], found["fits_machine"], found["differences"] == []) == (True, runs_here, runs_here)
    assert found["file_bytes"] <= found["size_limit_bytes"]


def test_inspect_tells_damage_and_differences_without_loading(tmp_path: Path) -> None:
    path = copy_of("exported_program", tmp_path)
    rewrite(path, requires=dataclasses.replace(read_manifest(path).requires, system="Windows"))
    path.write_bytes(path.read_bytes()[:-1])
    found = inspect(path)
    assert (found["undamaged"], found["fits_machine"]) == (False, False)
    assert "bytes, expected" in found["damage"] and "Windows" in found["differences"][0]


@pytest.mark.parametrize("format", WRITABLE)
def test_a_truncated_engine_file_is_refused(format: str, tmp_path: Path) -> None:
    path = copy_of(format, tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        EngineError, match=r"engine\.\w+ has \d+ bytes, expected \d+.*; copy the engine file and its man"
    ):
        load(path)


@pytest.mark.parametrize("format", WRITABLE)
def test_an_engine_file_with_a_flipped_bit_is_refused(format: str, tmp_path: Path) -> None:
    path = copy_of(format, tmp_path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(EngineError, match=r"has sha256 .*expected .*it is damaged; copy"):
        load(path)


def test_nothing_of_a_damaged_file_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copy_of("exported_program", tmp_path)
    path.write_bytes(b"x" * path.stat().st_size)
    monkeypatch.setattr(exported_program, "read", lambda *_, **__: pytest.fail("the file was loaded"))
    with pytest.raises(EngineError, match="damaged"):
        load(path)


def test_a_missing_engine_file_is_named(tmp_path: Path) -> None:
    path = copy_of("exported_program", tmp_path)
    path.unlink()
    with pytest.raises(EngineError, match=r"engine\.pt2 cannot be read \(No such file or directory\)"):
        load(path)
    with pytest.raises(EngineError, match=r"absent\.pt2\.manifest\.json is missing"):
        load(tmp_path / "absent.pt2")


def test_an_engine_for_another_machine_is_refused_with_all_differences(tmp_path: Path) -> None:
    path = copy_of("aotinductor", tmp_path)
    requires = read_manifest(path).requires
    flags = (*requires.cpu_flags, "avx512_made_up")
    rewrite(path, requires=dataclasses.replace(requires, system="Windows", torch="2.3.0", cpu_flags=flags))
    with pytest.raises(
        EngineError, match=r"system Windows.*avx512_made_up.*same minor release as 2\.3\.0.*Export it anew"
    ):
        load(path)


def test_a_compiled_engine_is_bound_to_its_device(tmp_path: Path) -> None:
    path = copy_of("aotinductor", tmp_path)
    rewrite(path, device="cuda")
    with pytest.raises(EngineError, match="built for device 'cuda', device='cpu' was asked for"):
        load(path, device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a CUDA device")
def test_an_engine_goes_to_the_device_it_was_built_for_unless_another_is_named(tmp_path: Path) -> None:
    assert load(engine_file("exported_program")).device == "cpu"
    path = copy_of("exported_program", tmp_path)
    rewrite(path, device="cuda")
    with pytest.raises(EngineError, match=r"it runs on cuda, and torch .* finds no such device here"):
        load(path)
    assert load(path, device="cpu").device == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a CUDA device")
def test_cuda_is_refused_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="device is 'cuda', but"):
        load(engine_file("exported_program"), device="cuda")
    with pytest.raises(ValueError, match="device is 'cuda', but"):
        build_small(tmp_path / "e.pt2", device="cuda")


def test_an_unknown_format_in_a_manifest_lists_those_there_are(tmp_path: Path) -> None:
    path = copy_of("exported_program", tmp_path)
    rewrite(path, format="openvino")
    with pytest.raises(
        EngineError, match="says format 'openvino', this albert-fast knows exported_program, aotinductor"
    ):
        load(path)


def test_a_pair_of_two_exports_is_refused(tmp_path: Path) -> None:
    path = copy_of("exported_program", tmp_path)
    shutil.copy(manifest_path(engine_file("aotinductor")), manifest_path(path))
    with pytest.raises(EngineError, match="incomplete or another"):
        load(path)


def test_the_engine_says_what_it_is() -> None:
    engine = load(str(engine_file("exported_program")))
    assert isinstance(engine.manifest, Manifest)
    assert "pretraining" in repr(engine) and "1x1:2x8:4x48" in repr(engine)
    assert engine.config == small_model().config
    with pytest.raises(ValueError, match=r"takes an albert_fast\.Batch, found a dict"):
        engine({"input_ids": batch_of(1, 4).input_ids})  # type: ignore[arg-type]
