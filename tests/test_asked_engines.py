"""Engines that answer at asked positions alone: what every row that asks does, and what the others say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from asked_samples import (
    ASKABLE,
    asked_answers,
    asked_engine,
    asked_file,
    asked_program,
    asked_references,
    asking,
    build_asked,
    texts,
)
from engine_samples import BUDGET, IN_PROCESS, PROFILE, RUNNABLE, WRITABLE, batch_of, differ, engine_of, small_model

from albert_fast.batch import Batch, ShapeProfile
from albert_fast.engine import FORMATS, Engine, in_process, inspect, load, read_manifest
from albert_fast.engine.comparing import at_text
from albert_fast.errors import EngineError

ASKS = [row for row in RUNNABLE if FORMATS[row.values[0]].asks]
SCORES = "prediction_logits"
every_format = pytest.mark.parametrize("format", ASKS)


def difference(engine: Engine, batch: Batch) -> float:
    """An engine's largest difference from eager: where its format skips padding, not in rows of nothing else."""
    found, expected = engine(batch), asked_answers(engine.head, batch)
    assert {name: value.shape for name, value in found.items()} == {name: v.shape for name, v in expected.items()}
    if FORMATS[engine.format].skips_padding:
        found, expected = at_text(found, expected, batch.tensors()[1], engine.outputs)
    return differ(found, expected)


@every_format
@pytest.mark.parametrize("shape", [(2, 9), (3, 9), (1, 1), (4, 48)])
def test_an_engine_answers_at_asked_positions_as_eager_does_there(format: str, shape: tuple[int, int]) -> None:
    assert difference(asked_engine(format), asking(batch_of(*shape))) <= BUDGET.max_abs


@every_format
def test_one_position_is_answered_and_the_order_is_that_of_rows(format: str) -> None:
    batch = batch_of(3, 9)
    assert difference(asked_engine(format), asking(batch, (1, 4))) <= BUDGET.max_abs
    assert difference(asked_engine(format), asking(batch, (1, 4), (0, 5), (1, 2))) <= BUDGET.max_abs


@every_format
def test_asking_nothing_in_particular_asks_for_all_text(format: str) -> None:
    batch = texts(5, 9, 3, width=9)
    found = asked_engine(format)(batch)
    assert found[SCORES].shape == (5 + 9 + 3, 97)
    assert differ(found, asked_answers("pretraining", batch)) <= BUDGET.max_abs


@every_format
def test_where_nothing_is_asked_no_scores_come_and_everything_else_does(format: str) -> None:
    batch = batch_of(2, 9)
    nothing = Batch(*batch.tensors(), torch.zeros(2, 9, dtype=torch.bool))
    found = asked_engine(format)(nothing)
    assert found[SCORES].shape == (0, 97) and found["sop_logits"].shape == (2, 2)
    assert differ({"sop_logits": found["sop_logits"][:1]}, {
        "sop_logits": asked_answers("pretraining", nothing)["sop_logits"][:1]
    }) <= BUDGET.max_abs  # fmt: skip


@every_format
def test_pieces_of_a_batch_are_asked_their_own_positions(format: str) -> None:
    batch = texts(48, 3, 17, 5, 30, 2, 48, 9, 1, 6, 40, width=48)
    for asked in (batch, asking(batch), asking(batch, (3, 2), (3, 4), (10, 39), (0, 0)), asking(batch, (8, 0))):
        assert difference(asked_engine(format), asked) <= BUDGET.max_abs
    nothing = Batch(*batch.tensors(), torch.zeros_like(batch.input_ids, dtype=torch.bool))
    assert asked_engine(format)(nothing)[SCORES].shape == (0, 97)


def test_rows_that_fill_a_piece_up_are_asked_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    profile, asked = ShapeProfile.parse("4x8:4x16:4x48"), []
    engine, batch = in_process(small_model(), profile=profile, asked=True), texts(7, 4, 5, 3, 2, width=7)
    run = engine._run
    monkeypatch.setattr(engine, "_run", lambda *inputs: asked.append(len(inputs[3])) or run(*inputs))
    assert difference(engine, batch) <= BUDGET.max_abs
    assert difference(engine, asking(batch, (4, 1), (0, 6))) <= BUDGET.max_abs
    assert (sum(asked[:2]), sum(asked[2:])) == (7 + 4 + 5 + 3 + 2, 2)


@pytest.mark.parametrize("head", ASKABLE)
def test_every_head_that_can_be_asked_has_such_engines(head: str) -> None:
    assert difference(asked_engine("exported_program", head), asking(batch_of(2, 9))) <= BUDGET.max_abs
    assert asked_engine("exported_program", head).asked


@pytest.mark.parametrize("wrong", [torch.zeros(2, 8, dtype=torch.bool), torch.zeros(2, 9), [[True] * 9] * 2])
def test_a_wrong_asked_is_refused_in_one_sentence(wrong: Any) -> None:
    batch = Batch(*batch_of(2, 9).tensors(), wrong)
    with pytest.raises(ValueError, match=r"^asked is .*, expected torch\.bool of the shape of input_ids, \[2, 9\]$"):
        asked_engine("exported_program")(batch)


def test_an_engine_that_answers_everywhere_refuses_a_batch_that_asks() -> None:
    with pytest.raises(ValueError, match=r"answers for every token.*--positions asked"):
        engine_of("exported_program")(asking(batch_of(2, 9)))
    assert not engine_of("exported_program").asked


@pytest.mark.parametrize("format", [row for row in WRITABLE if not FORMATS[row.values[0]].asks])
def test_formats_that_do_not_ask_refuse_such_a_program_before_any_work(format: str, tmp_path: Path) -> None:
    path = tmp_path / f"engine{FORMATS[format].suffix}"
    with pytest.raises(
        ValueError, match=f"^{format} takes no positions .*exported_program, aotinductor, native, onnx$"
    ):
        build_asked(path, format=format)
    assert list(tmp_path.iterdir()) == []


def test_engines_in_process_refuse_what_cannot_be_asked() -> None:
    with pytest.raises(ValueError, match="the head 'base' has no scores"):
        in_process(small_model("base"), profile=PROFILE, asked=True)
    assert {row.values[0] for row in IN_PROCESS if FORMATS[row.values[0]].asks} == {"eager", "inductor"}


def test_the_manifest_says_what_is_asked() -> None:
    manifest = read_manifest(asked_file("exported_program"))
    positions, scores = manifest.inputs[3], manifest.outputs[0]
    assert (positions.name, positions.dtype) == ("positions", "int64")
    assert [(d.name, d.minimum, d.maximum) for d in positions.dimensions] == [("asked", 1, 4 * 48)]
    assert [d.name for d in scores.dimensions] == ["asked", ""]
    assert inspect(asked_file("exported_program"))["inputs"][3]["name"] == "positions"


def test_an_engine_that_answers_at_the_wrong_positions_is_not_written(tmp_path: Path) -> None:
    shifted = [
        (batch, {**answers, SCORES: answers[SCORES].roll(1, 0)}) for batch, answers in asked_references("pretraining")
    ]
    with pytest.raises(EngineError, match="not exact enough"):
        build_asked(tmp_path / "engine.pt2", references=shifted)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(  # a file of native is a package of aotinductor
    "format", [row for row in ASKS if row.values[0] in ("exported_program", "native", "onnx")]
)
def test_a_file_answers_in_a_process_that_knows_nothing_else(format: str, tmp_path: Path) -> None:
    batch = asking(batch_of(2, 9))
    torch.save([*batch.tensors(), batch.asked], tmp_path / "batch.pt")
    program = (
        "import sys, torch\n"
        "from albert_fast import Batch, engine\n"
        "loaded = engine.load(sys.argv[1])\n"
        "answers = loaded(Batch(*torch.load(sys.argv[2])))\n"
        "assert loaded.asked\n"
        "torch.save(answers, sys.argv[3])\n"
    )
    arguments = [str(asked_file(format)), str(tmp_path / "batch.pt"), str(tmp_path / "answers.pt")]
    finished = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    found, expected = torch.load(tmp_path / "answers.pt"), asked_answers("pretraining", batch)
    assert list(found) == list(expected)
    assert differ({SCORES: found[SCORES]}, {SCORES: expected[SCORES]}) <= BUDGET.max_abs


def test_a_program_takes_positions_last() -> None:
    assert asked_program().graph_signature.user_inputs[3:] == ("positions",)


@pytest.mark.gpu
@pytest.mark.parametrize("format", ["exported_program", "aotinductor", "eager", "inductor"])
def test_an_asked_engine_on_cuda_answers_like_eager_on_cpu(format: str, tmp_path: Path) -> None:
    if FORMATS[format].kind == "file":
        path = build_asked(tmp_path / "cuda.pt2", format=format, device="cuda", options=None)
        engine = load(path, device="cuda")
    else:
        engine = in_process(small_model(), format=format, profile=PROFILE, device="cuda", asked=True)
    for batch in (asking(batch_of(2, 9)), asking(batch_of(3, 9), (1, 4)), texts(48, 3, 17, 5, 30, 2, width=48)):
        found = {name: value.cpu() for name, value in engine(batch).items()}
        assert differ(found, asked_answers("pretraining", batch)) <= 2e-3
