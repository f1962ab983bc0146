"""A portable program packs its weights for oneDNN where it is loaded, if that was measured to pay there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from albert_fast import files
from albert_fast.cli.inspect import this_machine
from albert_fast.engine import cpu_prepack, exported_program, linear_choice
from albert_fast.engine.cpu_prepack import LinearWeight
from albert_fast.heads import HEADS
from albert_fast.precision import PRECISIONS, prepare
from tests.engine_samples import PROFILE, batch_of, differ, eager_answers, small_model, small_program

WEIGHTS = [LinearWeight("a", 64, 64, 24), LinearWeight("b", 96, 64, 6)]
needs_packing = pytest.mark.skipif(not cpu_prepack.is_available(), reason="needs a torch with oneDNN's packed linear")


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "albert-fast" / linear_choice.FILE


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was measured, each of which comes out as 2.5 times as fast."""
    asked: list[Any] = []

    def measure(*arguments: Any) -> float:
        asked.append(arguments)
        return 2.5

    monkeypatch.setattr(cpu_prepack, "measure_speedup", measure)
    return asked


def loaded(folder: Path, head: str, precision: str = "fp32") -> Callable[..., Any]:
    torch.export.save(prepare(small_program(head), precision), folder / "program.pt2")
    return exported_program.read(folder / "program.pt2", device="cpu", profiles=(PROFILE,), notes={})


def module_of(run: Callable[..., Any]) -> torch.fx.GraphModule:
    return cast(torch.fx.GraphModule, cast(Any, run).__self__)


@needs_packing
@pytest.mark.parametrize(("head", "precision"), [*((head, "fp32") for head in HEADS), ("masked-lm", "bf16")])
def test_packed_weights_answer_as_eager_does(
    head: str, precision: str, cache: Path, measured: list[Any], tmp_path: Path
) -> None:
    run, model = loaded(tmp_path, head, precision), small_model(head)
    shapes = [(2, 3, 9), (1, 2, 1)] if HEADS[head].ids_rank == 3 else [(3, 17), (1, 1)]
    for shape in shapes:
        batch = batch_of(*shape)
        with torch.inference_mode():
            answers = run(*batch.tensors())
        assert differ(answers, eager_answers(model, batch)) <= PRECISIONS[precision].budget.max_abs
    calls = [node.target for node in module_of(run).graph.nodes if node.op == "call_function"]
    assert torch.ops.mkldnn._linear_pointwise.default in calls and len(measured) == 1
    assert torch.ops.mkldnn._reorder_linear_weight.default not in calls


@needs_packing
def test_the_plain_weights_are_gone_once_they_are_packed(cache: Path, measured: list[Any], tmp_path: Path) -> None:
    packed = module_of(loaded(tmp_path, "masked-lm"))
    names = [name for name, _ in packed.named_parameters()]
    assert not [name for name in names if name.endswith(("query.weight", "dense.weight", "ffn.weight"))]
    assert [name for name in names if name.endswith("word_embeddings.weight")]


def test_weights_stay_as_they_are_where_packing_does_not_pay(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cpu_prepack, "measure_speedup", lambda *_: 1.01)
    targets = [node.target for node in module_of(loaded(tmp_path, "masked-lm")).graph.nodes]
    assert torch.ops.aten.linear.default in targets


@needs_packing
def test_what_was_measured_once_is_not_measured_again(cache: Path, measured: list[Any]) -> None:
    assert all(linear_choice.pays(WEIGHTS, 128, torch.float32) for _ in range(3))
    assert len(measured) == 1
    assert linear_choice.pays(WEIGHTS, 128, torch.bfloat16) and linear_choice.pays(WEIGHTS[:1], 128, torch.float32)
    assert len(measured) == 3 and len(json.loads(cache.read_text())) == 3


@needs_packing
@pytest.mark.parametrize("text", ["", "[1]", "{", '{"a": "b"}'])
def test_a_damaged_memory_is_written_anew(text: str, cache: Path, measured: list[Any]) -> None:
    cache.parent.mkdir()
    cache.write_text(text)
    assert linear_choice.pays(WEIGHTS, 128, torch.float32)
    assert list(json.loads(cache.read_text()).values()) == [2.5]


@needs_packing
def test_a_folder_that_cannot_be_written_only_costs_a_measurement(
    cache: Path, measured: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.parent.write_text("a file where the folder should be")
    assert linear_choice.pays(WEIGHTS, 128, torch.float32) and linear_choice.pays(WEIGHTS, 128, torch.float32)
    assert len(measured) == 2


@needs_packing
def test_inspect_tells_what_was_measured_with_these_threads(cache: Path, measured: list[Any]) -> None:
    assert "not measured yet" in str(this_machine()["packed weights"])
    linear_choice.pays(WEIGHTS, 128, torch.float32)
    assert this_machine()["packed weights"] == "float32 2.50 times as fast"
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert linear_choice.here() == {}
    finally:
        torch.set_num_threads(threads)


def test_nothing_to_pack_is_never_measured(cache: Path, measured: list[Any]) -> None:
    assert not linear_choice.pays([], 128, torch.float32)
    assert measured == [] and not (files.cache_folder() / linear_choice.FILE).exists()
