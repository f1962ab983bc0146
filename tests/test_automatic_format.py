"""format="auto": the fastest engine file that this machine can build and that takes the model."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from quantized_samples import scales_of
from small_checkpoint import small_config

from albert_fast import ops
from albert_fast.engine import machine
from albert_fast.recipe import Recipe, automatic


@pytest.fixture(autouse=True)
def fast_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU with AVX-512, a compiler and the op library, whatever this one has."""
    monkeypatch.setattr(machine, "compiler", lambda: "g++")
    monkeypatch.setattr(ops, "is_available", lambda: True)
    monkeypatch.setattr(automatic.ops, "cpu_kernel", lambda: "avx512_bf16")


def chosen(activation: str = "gelu_new", **words: Any) -> str:
    recipe = Recipe.from_dict({"model": "a", "head": "masked-lm", "format": "aotinductor", **words})
    return automatic.format_of(recipe, small_config(hidden_act=activation))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_is_native_where_its_op_takes_the_model(precision: str) -> None:
    assert chosen(precision=precision) == "native"


def test_int8_is_native_smoothed_or_not_when_nothing_is_kept(tmp_path: Path) -> None:
    scales = scales_of("masked-lm")
    smoothed = dataclasses.replace(scales, smoothing={"some.input": (1.0, 2.0)})
    texts = tmp_path / "texts.txt"
    texts.write_text("a small bird\n", encoding="utf-8")
    assert chosen(precision="int8", quantize={"scales": scales}) == "native"
    assert chosen(precision="int8", quantize={"scales": smoothed}) == "native"
    assert chosen(precision="int8", quantize={"scales": scales, "keep": ["ffn.input@2"]}) == "aotinductor"
    assert chosen(precision="int8", quantize={"scales": scales, "parts": ["encoder", "attention"]}) == "aotinductor"
    assert chosen(precision="int8", quantize={"scales": scales, "parts": ["heads"]}) == "aotinductor"
    assert chosen(precision="int8", quantize={"calibration": texts, "max_drop": 1.0}) == "aotinductor"


def test_what_the_op_does_not_compute_is_compiled() -> None:
    assert chosen("mish") == "aotinductor"
    assert chosen(attention="eager") == "aotinductor"
    assert chosen(precision="fp16") == "aotinductor"
    assert chosen(device="cuda") == "aotinductor"


def test_a_machine_without_the_op_or_without_avx_512_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automatic.ops, "cpu_kernel", lambda: "avx2")
    assert chosen() == "aotinductor"
    monkeypatch.setattr(automatic.ops, "cpu_kernel", lambda: "avx512")
    assert chosen() == "native"
    monkeypatch.setattr(ops, "is_available", lambda: False)
    assert chosen() == "aotinductor"


def test_a_machine_without_a_compiler_runs_the_graph_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "compiler", lambda: None)
    assert chosen() == "exported_program"
