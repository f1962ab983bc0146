"""What every row of FORMATS does alike: the answers, the inputs it takes and refuses, threads, a process of its own."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from engine_samples import (
    BUDGET,
    IN_PROCESS,
    PROFILE,
    RUNNABLE,
    RUNNABLE_FILES,
    batch_of,
    build_small,
    differ,
    differ_from_eager,
    eager_answers,
    engine_file,
    engine_of,
    small_model,
)

from albert_fast.batch import Batch
from albert_fast.engine import FORMATS, in_process, load
from albert_fast.errors import EngineError

every_format = pytest.mark.parametrize("format", RUNNABLE)


@every_format
@pytest.mark.parametrize(
    ("shape", "padding"),
    [((2, 9), "right"), ((3, 9), "left"), ((1, 8), "right"), ((4, 8), "left"), ((1, 1), "right"), ((4, 48), "right")],
)
def test_an_engine_answers_like_eager(format: str, shape: tuple[int, int], padding: str) -> None:
    assert differ_from_eager(engine_of(format), batch_of(*shape, padding=padding)) <= BUDGET.max_abs


@every_format
def test_padding_does_not_change_the_answer_for_the_text(format: str) -> None:
    batch = batch_of(3, 9)
    wider = [torch.nn.functional.pad(part, (0, 5)) for part in batch.tensors()]
    narrow, wide = engine_of(format)(batch), engine_of(format)(Batch(*wider))
    assert differ({"sop_logits": wide["sop_logits"][:2]}, {"sop_logits": narrow["sop_logits"][:2]}) <= BUDGET.max_abs


@every_format
def test_the_mask_may_have_any_dtype_and_the_ids_may_be_int32(format: str) -> None:
    batch = batch_of(2, 9)
    expected = engine_of(format)(batch)
    for dtype in (torch.bool, torch.float32, torch.int32):
        other = Batch(batch.input_ids.int(), batch.attention_mask.to(dtype), batch.token_type_ids.int())  # type: ignore[union-attr]
        assert differ(engine_of(format)(other), expected) == 0
    half = Batch(batch.input_ids, batch.attention_mask * 0.5, batch.token_type_ids)  # type: ignore[operator]
    assert differ(engine_of(format)(half), expected) == 0  # anything but 0 is text


@every_format
def test_missing_mask_and_types_are_filled_in(format: str) -> None:
    ids = batch_of(2, 9).input_ids
    full = Batch(ids, torch.ones_like(ids), torch.zeros_like(ids))
    assert differ(engine_of(format)(Batch(ids)), engine_of(format)(full)) == 0


@every_format
def test_repeated_calls_answer_the_same_and_leave_earlier_answers_alone(format: str) -> None:
    engine, batch = engine_of(format), batch_of(2, 9)
    first = engine(batch)
    kept = {name: value.clone() for name, value in first.items()}
    engine(batch_of(2, 9))
    assert differ(engine(batch), kept) == 0
    assert differ(first, kept) == 0


@every_format
def test_eight_threads_may_call_one_engine(format: str) -> None:
    engine, batches = engine_of(format), [batch_of(2, length) for length in (5, 6, 7, 8, 9, 10, 11, 12)]
    expected = [engine(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            answers = list(pool.map(engine, batches))
            assert max(differ(a, e) for a, e in zip(answers, expected, strict=True)) == 0


@every_format
def test_more_rows_than_the_profile_come_back_in_order(format: str) -> None:
    batch = batch_of(11, 9)
    engine, seen = engine_of(format), batch.attention_mask[..., None]  # type: ignore[index]
    whole, expected = engine(batch), eager_answers(small_model(), batch)
    in_text = {"prediction_logits": whole["prediction_logits"] * seen + expected["prediction_logits"] * (1 - seen)}
    assert differ_from_eager(engine, batch, {**whole, **in_text}) <= BUDGET.max_abs


@every_format
def test_outputs_need_no_gradient_and_come_in_the_order_of_the_head(format: str) -> None:
    engine = engine_of(format)
    answers = engine(batch_of(2, 9))
    assert tuple(answers) == engine.output_names == ("prediction_logits", "sop_logits")
    assert not any(value.requires_grad for value in answers.values())


@every_format
@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (Batch(torch.full((2, 8), 97)), r"input_ids holds 97, expected 0\.\.96"),
        (Batch(torch.ones(2, 49, dtype=torch.int64)), "49 tokens.*at most 48.*length 49 is beyond 48"),
        (Batch(torch.ones(0, 8, dtype=torch.int64)), "empty"),
        (Batch(torch.ones(2, 8)), "torch.float32, expected torch.int64"),
        (Batch(torch.ones(8, dtype=torch.int64)), r"shape \[8\], expected \[batch, length\]"),
        (Batch(torch.ones(2, 8, dtype=torch.int64), torch.ones(2, 7)), r"attention_mask is \[2, 7\]"),
        (Batch([[1, 2]]), "input_ids is a list, expected a torch.Tensor"),  # type: ignore[arg-type]
        (Batch(torch.full((5, 8), -1)), r"holds -1, expected 0\.\.96"),
    ],
)
def test_a_batch_that_cannot_be_run_is_refused_before_any_work(format: str, batch: Batch, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        engine_of(format)(batch)


@pytest.mark.parametrize("format", RUNNABLE_FILES)
def test_an_engine_file_runs_in_a_process_that_knows_only_the_engine(format: str, tmp_path: Path) -> None:
    batch = batch_of(3, 9)
    torch.save(batch.tensors(), tmp_path / "batch.pt")
    script = f"""
import sys, torch
from albert_fast.batch import Batch
from albert_fast.engine import load
answers = load({str(engine_file(format))!r})(Batch(*torch.load({str(tmp_path / "batch.pt")!r})))
torch.save(dict(answers), {str(tmp_path / "answers.pt")!r})
print([name for name in sys.modules if name in ("albert_fast.model", "albert_fast.heads", "albert_fast.capture")])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    answers = torch.load(tmp_path / "answers.pt")
    assert differ_from_eager(engine_of(format), batch, answers) <= BUDGET.max_abs


def test_multiple_choice_takes_choices_up_to_those_captured() -> None:
    engine, model = load(engine_file("exported_program", "multiple-choice")), small_model("multiple-choice")
    batch = batch_of(2, 5, 9)
    assert differ(engine(batch), eager_answers(model, batch)) <= BUDGET.max_abs
    with pytest.raises(ValueError, match="65 choices, the engine takes at most 64"):
        engine(Batch(torch.ones(1, 65, 4, dtype=torch.int64)))


@pytest.mark.parametrize("format", IN_PROCESS)
def test_an_in_process_engine_leaves_its_model_as_it_was(format: str) -> None:
    model = small_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    engine_of(format)(batch_of(2, 9))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert "apply_layer" not in vars(model.albert)
    assert engine_of(format).manifest is None


def test_in_process_refuses_what_it_cannot_do() -> None:
    model = small_model()
    with pytest.raises(ValueError, match=r"'openvino', expected one of eager, inductor"):
        in_process(model, format="openvino", profile=PROFILE)
    with pytest.raises(ValueError, match="is written to a file by build"):
        in_process(model, format="aotinductor", profile=PROFILE)
    with pytest.raises(ValueError, match="training mode"):
        in_process(type(model)(model.config).train(), profile=PROFILE)
    with pytest.raises(ValueError, match="48 positions"):
        in_process(model, profile=PROFILE.__class__(max_length=512))


BOTH = [name for name, row in FORMATS.items() if {"cpu", "cuda"} <= set(row.devices) and row.missing() is None]


@pytest.mark.gpu
@pytest.mark.parametrize("format", BOTH)
def test_an_engine_on_cuda_answers_like_eager_on_cpu(format: str, tmp_path: Path) -> None:
    if FORMATS[format].kind == "file":
        path = tmp_path / f"cuda{FORMATS[format].suffix}"
        build_small(path, format=format, device="cuda", options=None)
        engine = load(path, device="cuda")
    else:
        engine = in_process(small_model(), format=format, profile=PROFILE, device="cuda")
    for shape in ((2, 9), (1, 1), (4, 48)):
        batch = batch_of(*shape)
        answers = {name: value.cpu() for name, value in engine(batch).items()}
        assert differ(answers, eager_answers(small_model(), batch)) <= 2e-3  # TF32 stays off; other order of additions


@pytest.mark.gpu
def test_an_engine_compiled_for_cuda_is_refused_on_cpu(tmp_path: Path) -> None:
    build_small(tmp_path / "cuda.pt2", format="aotinductor", device="cuda", options=None)
    with pytest.raises(EngineError, match="built for device 'cuda'"):
        load(tmp_path / "cuda.pt2", device="cpu")
