"""compile: built once and found again; built anew when something that matters is new; one build for two processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from small_checkpoint import small_config, write_small_checkpoint

import albert_fast
from albert_fast import Batch
from albert_fast.engine import machine, manifest_path
from albert_fast.files import cache_folder
from albert_fast.heads import HEADS

IDS = Batch(torch.tensor([[2, 5, 6, 7, 3], [2, 9, 3, 0, 0]]), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def stages() -> list[str]:
    return []


def compiled(model: Any, folder: Path, stages: list[str] | None = None, **changes: Any) -> albert_fast.Engine:
    arguments = {"format": "exported_program", "profile": "1x1:2x8:4x32", **changes}
    told = stages.append if stages is not None else None
    return albert_fast.compile(model, cache_dir=folder, progress=told, **arguments)


def live(**changes: Any) -> Any:
    torch.manual_seed(3)
    return HEADS["sequence-classification"].model_class(small_config(**changes)).eval()


def engine_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.pt2"))


def test_the_second_call_builds_nothing_and_answers_the_same(
    checkpoint: Path, tmp_path: Path, stages: list[str]
) -> None:
    first = compiled(checkpoint, tmp_path, stages)(IDS)
    assert "capturing the graph" in stages
    stages.clear()
    again = compiled(str(checkpoint), tmp_path, stages)(IDS)
    assert stages == [] and torch.equal(first["logits"], again["logits"])
    assert len(engine_files(tmp_path)) == 1


def test_everything_that_decides_what_is_in_the_file_makes_a_new_one(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled(checkpoint, tmp_path)
    assert len(engine_files(tmp_path)) == 1
    for number, changes in enumerate(
        (dict(profile="1x1:2x8:4x16"), dict(attention="eager"), dict(precision="bf16")), 2
    ):
        compiled(checkpoint, tmp_path, **changes)
        assert len(engine_files(tmp_path)) == number, changes
    monkeypatch.setattr(machine, "versions", lambda: {"torch": "another"})
    compiled(checkpoint, tmp_path)
    assert len(engine_files(tmp_path)) == 5


def test_a_live_model_is_compiled_by_its_weights_and_left_as_it_was(tmp_path: Path, stages: list[str]) -> None:
    model = live()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    engine = compiled(model, tmp_path)
    assert engine.manifest is not None and engine.manifest.checkpoint_source is None
    assert torch.allclose(engine(IDS)["logits"], model(*IDS.tensors()).logits, atol=1e-5)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    compiled(live(), tmp_path, stages)
    assert stages == []  # equal weights, another object
    with torch.no_grad():
        model.classifier.bias += 1
    changed = compiled(model, tmp_path, stages)
    assert stages and torch.allclose(changed(IDS)["logits"], engine(IDS)["logits"] + 1, atol=1e-5)


def test_a_live_model_of_transformers_is_taken_too(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="compares with transformers, which is not installed")
    config = {k: v for k, v in small_config().to_dict().items() if k not in ("model_type", "return_dict")}
    theirs = transformers.AlbertForSequenceClassification(transformers.AlbertConfig(**config)).eval()
    answer = compiled(theirs, tmp_path)(IDS)["logits"]
    ids, mask, types = IDS.tensors()
    assert torch.allclose(answer, theirs(ids, attention_mask=mask, token_type_ids=types).logits, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(head="masked-lm"), "head is 'masked-lm', the live model is a AlbertForSequenceClassification"),
        (dict(format="onxx"), "format is 'onxx', expected one of"),
        (dict(precision="int3"), "precision is 'int3', expected one of"),
        (dict(device="tpu"), "device is 'tpu'"),
        (dict(options={"speed": 1}), "unknown options speed; exported_program takes none"),
        (dict(profile="big"), "'big' is no profile"),
        (dict(profile="1x1:2x8:4x99"), "asks for length 99, but the model has 40 positions"),
    ],
)
def test_what_cannot_be_compiled_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compiled(live(), tmp_path, **changes)
    assert engine_files(tmp_path) == []


def test_a_model_in_training_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"training mode; call model\.eval"):
        compiled(live().train(), tmp_path)


def test_a_damaged_engine_in_the_cache_is_built_anew_and_that_is_said(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, stages: list[str]
) -> None:
    compiled(checkpoint, tmp_path)
    [name] = engine_files(tmp_path)
    (tmp_path / name).write_bytes(b"damaged")
    compiled(checkpoint, tmp_path, stages)
    assert stages and "the cached engine is built anew" in caplog.text and "incomplete" in caplog.text


def test_auto_is_a_compiled_engine_where_there_is_a_compiler_and_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "compiler", lambda: None)
    assert compiled(live(), tmp_path, format="auto").format == "exported_program"


def test_the_cache_is_where_the_system_keeps_caches(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "albert-fast"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "albert-fast"


SCRIPT = """
import sys, albert_fast
stages = []
albert_fast.compile(sys.argv[1], cache_dir=sys.argv[2], format="exported_program", profile="1x1:2x8:4x32",
                    progress=lambda stage: (stages.append(stage), print(stage, flush=True)))
print("built" if stages else "found", flush=True)
"""


def start(checkpoint: Path, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(checkpoint), str(folder)], stdout=subprocess.PIPE, text=True
    )


def test_two_processes_that_ask_at_once_build_once(checkpoint: Path, tmp_path: Path) -> None:
    both = [start(checkpoint, tmp_path) for _ in range(2)]
    said = [process.communicate()[0].split()[-1] for process in both]
    assert sorted(said) == ["built", "found"]
    assert [process.returncode for process in both] == [0, 0]


def test_a_killed_build_blocks_nobody_and_leaves_nothing_that_stays(checkpoint: Path, tmp_path: Path) -> None:
    process = start(checkpoint, tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if "compile for" in line:  # the hidden folder is there now
            os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert engine_files(tmp_path) == []
    began = time.monotonic()
    compiled(checkpoint, tmp_path)
    assert time.monotonic() - began < 120
    [name] = engine_files(tmp_path)
    kept = {name, manifest_path(tmp_path / name).name, f"{name}.tokenizer", f".{name}.lock"}
    assert {path.name for path in tmp_path.iterdir()} == kept
