"""What Torch-TensorRT makes of our graphs: on a CPU all of it but running engines, on a GPU their answers as well."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_samples import (
    BUDGET,
    PROFILE,
    batch_of,
    build_small,
    differ,
    eager_answers,
    facts,
    references,
    small_model,
    small_program,
)

from albert_fast.batch import Batch
from albert_fast.engine import build, in_process, load
from albert_fast.heads import HEADS
from albert_fast.precision import PRECISIONS, prepare

TESTS = Path(__file__).parent


@pytest.fixture(scope="session")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the experiments of ``torch_tensorrt_on_cpu.py`` found, each in words where it failed."""
    named = os.environ.get("ALBERT_FAST_TORCH_TENSORRT")
    folder = Path(named) if named else TESTS.parent / ".torch-tensorrt"
    if not (folder / "torch_tensorrt").is_dir():
        pytest.skip(
            f"needs torch-tensorrt-rtx in the folder {folder}, or in the one that ALBERT_FAST_TORCH_TENSORRT names: "
            "make torch-tensorrt"
        )
    place = tmp_path_factory.mktemp("torch-tensorrt")
    copy, engines = place / "without-native-libraries", place / "engines"
    engines.mkdir()
    native = shutil.ignore_patterns("lib", "bin", "include", "_C.*")
    shutil.copytree(folder / "torch_tensorrt", copy / "torch_tensorrt", ignore=native)
    first = ("heads", "precisions", "eager_attention", "shapes", "masks", "write", "serialize", "road", "int8")
    answers = {}
    for names in ((*first, "left_in_torch", "in_process"), ("read",)):  # what is written is read in a fresh process
        finished = subprocess.run(
            [sys.executable, TESTS / "torch_tensorrt_on_cpu.py", engines, *names], capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (copy, folder, TESTS.parent, TESTS)))},
        )  # fmt: skip
        assert finished.returncode == 0, finished.stderr[-4000:]
        answers.update(json.loads(finished.stdout.splitlines()[-1]))
    return answers


@pytest.mark.slow
def test_tensorrt_runs_every_op_of_every_head_and_precision_in_one_engine(found: dict[str, Any]) -> None:
    cases = {**found["heads"], **found["precisions"], "eager attention": found["eager_attention"]}
    assert cases.keys() == {*HEADS, "fp16", "bf16", "eager attention"}
    for name, divided in cases.items():
        assert divided["engines"] == 1 and divided["left_in_torch"] == {} and divided["converted"] > 50, name


@pytest.mark.slow
def test_an_int8_program_becomes_one_engine_that_holds_each_int8_weight_once(found: dict[str, Any]) -> None:
    divided = found["int8"]["ops"]
    assert divided["engines"] == 1 and divided["left_in_torch"] == {} and divided["converted"] > 50
    assert found["int8"]["bytes"] > 100_000
    assert sum(found["int8"]["held"]) == 1


@pytest.mark.slow
def test_engines_are_tuned_for_the_profile_and_not_for_the_trace(found: dict[str, Any]) -> None:
    assert "best (3, 7); the profile says (1, 1) to (4, 48), best (2, 8)" in found["shapes"]


@pytest.mark.slow
def test_padding_masks_reach_tensorrt(found: dict[str, Any]) -> None:
    assert found["masks"]["ours, False"] == [2, 2, 0]
    assert found["masks"]["efficient, False"] == [1, 1, 0]
    assert found["masks"]["efficient, True"] == [1, 0, 1]  # the trap that the option is set against


@pytest.mark.slow
def test_a_file_is_written_with_its_report(found: dict[str, Any]) -> None:
    notes, written = found["write"]["notes"], found["write"]
    assert (notes["engines"], notes["torch_ops"], notes["device_index"]) == (1, {}, 0)
    assert notes["outputs"] == ["prediction_logits", "sop_logits"]
    assert notes["packages"][0].startswith("torch-tensorrt-rtx ")
    assert written["told"] == ["divide the graph between TensorRT and PyTorch", "build 63 ops in 1 TensorRT engine"]
    assert written["files"] == ["engine.pt2", "notes.json"] and written["bytes"] < notes["engine_bytes"]


@pytest.mark.slow
def test_a_fresh_process_reads_it_with_inputs_and_outputs_by_name(found: dict[str, Any]) -> None:
    assert found["read"] == {"(2, 9)": 0.0, "(1, 1)": 0.0, "(4, 48)": 0.0}


@pytest.mark.slow
def test_an_engine_alone_is_bytes(found: dict[str, Any]) -> None:
    kind, size = found["serialize"]
    assert kind == "bytes" and size > 100_000


@pytest.mark.slow
def test_the_row_of_tensorrt_rtx_writes_that_engine_where_its_option_road_says_so(found: dict[str, Any]) -> None:
    road, notes = found["road"], found["road"]["notes"]
    assert notes["outputs"] == {"output0": "prediction_logits", "output1": "sop_logits"}
    assert notes["torch_tensorrt"].startswith("torch-tensorrt-rtx ")
    assert road["names"] == ["input_ids", "attention_mask", "token_type_ids", "output0", "output1"]
    assert notes["weights_bytes"] == road["described"]["bytes"] > 100_000  # a made-up engine counts all of its bytes
    assert road["told"][1] == "Torch-TensorRT: build 63 ops in 1 TensorRT engine"
    assert road["described"]["written_by"] == "TensorRT-RTX"
    assert "it is no engine file, or a damaged one" not in road["described"]["reasons"]


@pytest.mark.slow
def test_an_op_that_tensorrt_lacks_is_refused_or_reported(found: dict[str, Any]) -> None:
    assert "no TensorRT layer for aten.special_bessel_j0.default (1x)" in found["left_in_torch"]["True"]
    assert found["left_in_torch"]["False"] == {"aten.special_bessel_j0.default": 1}


@pytest.mark.slow
def test_in_process_engines_take_token_ids_and_no_weights(found: dict[str, Any]) -> None:
    several, single = found["in_process"]["engines"]
    sizes = {"min_shape": (1,), "opt_shape": (8,), "max_shape": (48,)}
    assert str({"min_shape": (1, 1), "opt_shape": (2, 8), "max_shape": (4, 48)}) in several and len(several) == 3
    assert single == sorted(map(str, ({"min_shape": (1, 1), "opt_shape": (1, 8), "max_shape": (1, 48)}, sizes)))
    assert found["in_process"]["calls"] == [[[2, 8, 97], 1], [[4, 17, 97], 1], [[3, 48, 97], 1], [[1, 8, 97], 2]]


on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(find_spec("torch_tensorrt") is None, reason="needs torch-tensorrt: pip install torch-tensorrt"),
]


def padded_rows_differ(engine: Any, head: str = "pretraining") -> float:
    """Largest error over batches whose padding a causal mask would not hide."""
    worst = 0.0
    for shape, padding in (((2, 9), "right"), ((3, 9), "left"), ((4, 48), "left"), ((1, 1), "right"), ((1, 8), "left")):
        batch = batch_of(*shape, padding=padding)
        answers = {name: tensor.cpu() for name, tensor in engine(batch).items()}
        worst = max(worst, differ(answers, eager_answers(small_model(head), batch)))
    return worst


class TestOnAGpu:
    pytestmark = on_gpu

    def test_padded_rows_are_answered_like_eager(self, tmp_path: Path) -> None:
        manifest = build_small(tmp_path / "e.pt2", format="torch-tensorrt", device="cuda")
        assert manifest.notes["engines"] == 1 and manifest.notes["torch_ops"] == {}
        assert padded_rows_differ(load(tmp_path / "e.pt2", device="cuda")) <= BUDGET.max_abs

    def test_a_fresh_process_answers_the_same(self, tmp_path: Path) -> None:
        path = tmp_path / "e.pt2"
        build_small(path, format="torch-tensorrt", device="cuda")
        program = (
            "import sys, torch; from albert_fast.engine import load; from albert_fast.batch import Batch\n"
            "ids = torch.arange(5, 23).reshape(2, 9); mask = torch.ones_like(ids); mask[0, :4] = 0\n"
            "torch.save(load(sys.argv[1], device='cuda')(Batch(ids, mask)), sys.argv[2])"
        )
        subprocess.run([sys.executable, "-c", program, path, tmp_path / "answers"], check=True)
        ids = torch.arange(5, 23).reshape(2, 9)
        mask = torch.ones_like(ids)
        mask[0, :4] = 0
        answers = {name: tensor.cpu() for name, tensor in torch.load(tmp_path / "answers").items()}
        assert differ(answers, eager_answers(small_model(), Batch(ids, mask))) <= BUDGET.max_abs

    @pytest.mark.parametrize("precision", ["fp16", "bf16"])
    def test_half_precision_stays_within_its_budget(self, precision: str, tmp_path: Path) -> None:
        path, budget = tmp_path / "e.pt2", PRECISIONS[precision].budget
        stated = dataclasses.replace(facts(small_model()), precision=precision)
        build(
            prepare(small_program(), precision), path, format="torch-tensorrt", facts=stated, device="cuda",
            references=references(small_model()), budget=budget,
        )  # fmt: skip
        assert padded_rows_differ(load(path, device="cuda")) <= budget.max_abs

    @pytest.mark.parametrize("attention", ["sdpa", "eager"])
    def test_in_process_padded_rows_are_answered_like_eager(self, attention: str) -> None:
        model = copy.deepcopy(small_model())
        for part in (model, model.albert):
            part.attn_implementation = attention
        engine = in_process(model, format="torch-tensorrt-jit", profile=PROFILE, device="cuda")
        assert padded_rows_differ(engine) <= BUDGET.max_abs
