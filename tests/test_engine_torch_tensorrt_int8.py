"""int8 programs for Torch-TensorRT: what is refused before any work; ``..._torch_tensorrt_builds.py`` builds them."""

from __future__ import annotations

from types import ModuleType

import pytest
from engine_samples import small_program
from quantized_samples import quantized

from albert_fast.engine import FORMATS
from albert_fast.engine.torch_tensorrt_quantized import has_pairs, pairs_converted

HEAD = "sequence-classification"


def test_an_int8_program_is_known_by_its_pairs() -> None:
    assert has_pairs(quantized(HEAD))
    assert not has_pairs(small_program(HEAD))


def test_a_program_without_pairs_changes_nothing_of_torch_tensorrt() -> None:
    with pairs_converted(ModuleType("torch_tensorrt"), small_program(HEAD)):
        pass  # an empty module would fail where anything of it is touched


def test_an_int8_word_table_is_refused_with_what_to_do_instead() -> None:
    program = quantized(HEAD, rest="fp16", parts=("encoder", "embeddings"))
    with (
        pytest.raises(ValueError, match="leave embeddings out of the parts"),
        pairs_converted(ModuleType("torch_tensorrt"), program),
    ):
        pass


def test_fp8_has_no_cell_there() -> None:
    gap = FORMATS["torch-tensorrt"].gap("float8_e4m3fn", "cuda")
    assert gap is not None and "tensorrt-rtx" in gap
