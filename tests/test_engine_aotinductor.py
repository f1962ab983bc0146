"""Packed linear maps, the measured choice between packed and plain, and ALBERT-base held once in either file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from engine_samples import BUDGET, batch_of, differ, eager_answers, facts, read_note, small_model, small_program

from albert_fast.batch import ShapeProfile
from albert_fast.capture import capture
from albert_fast.config import AlbertConfig
from albert_fast.engine import aotinductor, build, cpu_prepack, inspect, load
from albert_fast.errors import EngineError
from albert_fast.heads import AlbertForMaskedLM

needs_onednn = pytest.mark.skipif(not cpu_prepack.is_available(), reason="needs a torch with oneDNN")
aten, mkldnn = torch.ops.aten, torch.ops.mkldnn


def calls(program: torch.export.ExportedProgram, op: Any) -> int:
    return sum(node.target is op for node in program.graph.nodes)


def test_the_layers_weights_are_packable_and_the_word_table_is_not() -> None:
    weights = {weight.name: weight for weight in cpu_prepack.packable_weights(small_program())}
    layer = [weight for name, weight in weights.items() if "albert_layers_0" in name]
    assert len(layer) == 6 and {weight.uses for weight in layer} == {6}
    assert not any("word_embeddings" in name for name in weights)
    assert max(weight.out_features for weight in weights.values()) == 96


@needs_onednn
def test_each_weight_is_packed_once_and_used_by_every_pass_and_query_key_and_value_are_one() -> None:
    program = small_program()
    packed = cpu_prepack.pack_weights(program)
    weights = cpu_prepack.packable_weights(program)
    merged = [weight for weight in weights if "query" in weight.name or "key" in weight.name]  # with the value
    kept = [weight for weight in weights if weight not in merged]
    assert calls(packed, mkldnn._reorder_linear_weight.default) == len(kept)
    assert calls(packed, mkldnn._linear_pointwise.default) == sum(weight.uses for weight in kept)
    assert calls(packed, aten.linear.default) == 1  # the decoder over the word table
    assert calls(program, aten.linear.default) == sum(weight.uses for weight in weights) + 1  # left as it was


@needs_onednn
def test_the_gelu_of_the_feed_forward_moves_into_the_packed_linear() -> None:
    program = small_program()
    assert calls(program, aten.gelu.default) == 7
    assert calls(cpu_prepack.pack_weights(program), aten.gelu.default) == 0


@needs_onednn
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_the_packed_program_answers_like_eager(activation: str) -> None:
    model = small_model()
    changed = type(model)(model.config.replace(hidden_act=activation, num_hidden_layers=2)).eval()
    profile = ShapeProfile(1, 2, 4, 1, 8, 48)
    packed = cpu_prepack.pack_weights(capture(changed, profile)).module(check_guards=False)
    for shape in ((3, 9), (1, 1)):
        batch = batch_of(*shape)
        with torch.inference_mode():
            assert differ(packed(*batch.tensors()), eager_answers(changed, batch)) <= BUDGET.max_abs


@needs_onednn
def test_the_speed_of_packed_weights_is_measured() -> None:
    ratio = cpu_prepack.measure_speedup(cpu_prepack.packable_weights(small_program()), 16, torch.float32)
    assert 0.01 < ratio < 100


@needs_onednn
@pytest.mark.parametrize(("ratio", "chosen"), [(2.5, "packed"), (1.0, "plain"), (0.4, "plain")])
def test_the_faster_linear_is_chosen_and_its_ratio_noted(
    ratio: float, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu_prepack, "measure_speedup", lambda *_: ratio)
    choice = aotinductor._choose_linear(small_program(), "auto", ShapeProfile())
    assert choice == {"chosen": chosen, "ratio": ratio, "asked": "auto"}


@needs_onednn
def test_an_explicit_linear_is_honoured_without_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_prepack, "measure_speedup", lambda *_: pytest.fail("measured"))
    for asked in ("packed", "plain"):
        choice = aotinductor._choose_linear(small_program(), asked, ShapeProfile())
        assert choice == {"chosen": asked, "ratio": None, "asked": asked}


def test_packed_without_onednn_is_refused_and_auto_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_prepack, "is_available", lambda: False)
    with pytest.raises(EngineError, match=r"no oneDNN .* use linear='plain'"):
        aotinductor._choose_linear(small_program(), "packed", ShapeProfile())
    assert aotinductor._choose_linear(small_program(), "auto", ShapeProfile())["chosen"] == "plain"


def test_a_machine_without_a_compiler_is_told_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(EngineError, match=r"no C\+\+ compiler found.*install g"):
        aotinductor.write(
            small_program(), tmp_path / "e.pt2", device="cpu", profiles=(ShapeProfile(),), options={}, tell=print
        )


def test_the_choice_stands_in_the_manifest() -> None:
    assert read_note("aotinductor", "linear") == {"chosen": "packed", "ratio": None, "asked": "packed"}


@pytest.mark.slow
@pytest.mark.parametrize("format", ["exported_program", "aotinductor"])
def test_albert_base_takes_one_copy_of_its_weights_and_little_more(format: str, tmp_path: Path) -> None:
    config = AlbertConfig.published("albert-base-v2")
    model, profile = AlbertForMaskedLM(config).eval(), ShapeProfile(1, 8, 32, 1, 128, 512)
    batch = batch_of(2, 7, vocab_size=config.vocab_size)
    build(
        capture(model, profile), tmp_path / "base.pt2", format=format, facts=facts(model, profile),
        references=[(batch, eager_answers(model, batch))], budget=BUDGET,
        options={"linear": "packed"} if format == "aotinductor" and cpu_prepack.is_available() else None,
    )  # fmt: skip
    found = inspect(tmp_path / "base.pt2")
    assert found["weight_bytes"] == 4 * sum(p.numel() for p in model.parameters()) == 44_886_720
    assert found["stored_weight_bytes"] <= 1.01 * found["weight_bytes"]
    assert found["file_bytes"] <= 1.1 * found["weight_bytes"] + 2_000_000
    assert differ(load(tmp_path / "base.pt2")(batch), eager_answers(model, batch)) <= BUDGET.max_abs
