"""The op library: equal to its reference, whole under the compiler, strict about its arguments."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from albert_fast import ops
from albert_fast.errors import MissingDependencyError

needs_library = pytest.mark.skipif(not ops.is_available(), reason=f"needs the compiled op library: {ops.BUILD_COMMAND}")
# float32 differs by the order of additions. A number that rounding finds between two steps may go either way: of
# bfloat16 probabilities, and of contexts; bytes are a step apart then. The mean is what a wrong kernel would spoil.
TOLERANCES = {torch.float32: (1e-5, 2e-6, 1e-6), torch.bfloat16: (2**-7, 1e-2, 4e-4), torch.int8: (0, 1, 0.02)}
INT8_SCALES = (0.03, 0.025, 0.04, 0.02)
MIXED_LENGTHS = [5, 130, 0, 1, 64, 0, 0, 33, 32, 65, 0]


def packed(
    lengths: list[int], *, num_heads: int = 3, head_size: int = 16, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, int, int, float, Sequence[float]]:
    """Arguments of packed_attention for a batch of these lengths."""
    qkv = torch.randn(sum(lengths), 3 * num_heads * head_size)
    qkv = (qkv / 0.03).round().clamp(-127, 127).to(dtype) if dtype == torch.int8 else qkv.to(dtype)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    scales = INT8_SCALES if dtype == torch.int8 else ()
    return qkv, cu_seqlens, max(lengths, default=0), num_heads, head_size**-0.5, scales


def assert_equals_reference(arguments: tuple[Tensor, Tensor, int, int, float, Sequence[float]]) -> None:
    expected = ops.packed_attention_reference(*arguments)
    rtol, atol, mean = TOLERANCES[expected.dtype]
    found = ops.packed_attention(*arguments)
    torch.testing.assert_close(found, expected, rtol=rtol, atol=atol)
    assert not found.numel() or float((found.float() - expected.float()).abs().mean()) <= mean


def test_the_reference_agrees_with_scaled_dot_product_attention_one_sequence_at_a_time() -> None:
    lengths = [7, 40, 1]
    qkv, cu_seqlens, max_length, num_heads, scale, _ = packed(lengths)
    result = ops.packed_attention_reference(qkv, cu_seqlens, max_length, num_heads, scale)
    for sequence, context in zip(qkv.split(lengths), result.split(lengths), strict=True):
        query, key, value = sequence.view(len(sequence), 3, num_heads, -1).permute(1, 2, 0, 3)
        expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, scale=scale)
        torch.testing.assert_close(context, expected.transpose(0, 1).flatten(1), rtol=1e-5, atol=1e-6)


@needs_library
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_every_length_up_to_130_equals_the_reference(dtype: torch.dtype) -> None:
    for length in range(1, 131):
        assert_equals_reference(packed([length], num_heads=2, head_size=24, dtype=dtype))


@needs_library
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("head_size", [1, 3, 8, 13, 16, 31, 32, 33, 48, 64, 67, 96, 127, 128, 200])
def test_every_head_size_equals_the_reference_on_mixed_lengths(head_size: int, dtype: torch.dtype) -> None:
    assert_equals_reference(packed(MIXED_LENGTHS, head_size=head_size, dtype=dtype))


@needs_library
@pytest.mark.parametrize("lengths", [[], [0], [0, 0, 0], [3], [0, 3, 0], [1] * 70, [1000, 1]])
def test_empty_and_uneven_batches_equal_the_reference(lengths: list[int]) -> None:
    assert_equals_reference(packed(lengths))


@needs_library
def test_rows_that_are_not_contiguous_equal_the_reference() -> None:
    qkv, *rest = packed(MIXED_LENGTHS)
    assert_equals_reference((qkv.repeat(1, 2)[:, : qkv.shape[1]], *rest))
    assert_equals_reference((qkv.t().contiguous().t(), *rest))


@needs_library
def test_scores_too_large_for_a_plain_exponential_stay_finite_and_right() -> None:
    qkv, *rest = packed([200, 3])
    result = ops.packed_attention(30 * qkv, *rest)
    assert result.isfinite().all()
    torch.testing.assert_close(result, ops.packed_attention_reference(30 * qkv, *rest), rtol=1e-4, atol=1e-3)


@needs_library
def test_a_not_a_number_spoils_its_own_sequence_and_no_other() -> None:
    qkv, *rest = packed([100, 70])
    qkv[3, 60] = torch.nan
    result = ops.packed_attention(qkv, *rest)
    assert result[:100].isnan().any()
    assert result[100:].isfinite().all()


@needs_library
def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    arguments, threads = packed(MIXED_LENGTHS * 3), torch.get_num_threads()
    results = []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        results.append(ops.packed_attention(*arguments))
    torch.set_num_threads(threads)
    assert all(torch.equal(result, results[0]) for result in results)


@needs_library
@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_each_instruction_set_of_this_machine_equals_the_reference(capability: str) -> None:
    if capability == "avx512" and not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        pytest.skip("needs a processor with AVX-512")
    program = (
        "import torch; from albert_fast import ops; from tests.test_ops import *\n"
        "print(torch.backends.cpu.get_cpu_capability(), ops.cpu_kernel())\n"
        "for head_size in (13, 64, 80):\n"
        "    for dtype in TOLERANCES: assert_equals_reference(packed(MIXED_LENGTHS, head_size=head_size, dtype=dtype))"
    )
    environment = os.environ | {"ATEN_CPU_CAPABILITY": capability}
    finished = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    granted, kernel = finished.stdout.rsplit(maxsplit=1)
    assert kernel.split("_")[0] == {"AVX2": "avx2", "AVX512": "avx512"}.get(granted, "baseline")


@needs_library
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_the_op_passes_opcheck(dtype: torch.dtype) -> None:
    torch.library.opcheck(torch.ops.albert_fast.packed_attention.default, packed([9, 0, 40], dtype=dtype))


@needs_library
def test_one_compiled_graph_serves_every_length() -> None:
    compilations = []

    def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        compilations.append(graph)
        return graph

    def attend(qkv: Tensor, cu_seqlens: Tensor, max_length: int) -> Tensor:
        return 2 * ops.packed_attention(qkv + 1, cu_seqlens, max_length, 3, 0.25)

    compiled = torch.compile(attend, backend=count, fullgraph=True, dynamic=True)
    for lengths in ([5, 9], [30, 2], [64, 65, 3], [1, 7]):
        qkv, cu_seqlens, max_length, *_ = packed(lengths)
        torch._dynamo.mark_dynamic(qkv, 0)
        torch._dynamo.mark_dynamic(cu_seqlens, 0)
        expected = attend(qkv, cu_seqlens, max_length)
        torch.testing.assert_close(compiled(qkv, cu_seqlens, max_length), expected)
    assert len(compilations) == 1


@needs_library
@pytest.mark.slow
def test_inductor_compiles_the_op_whole() -> None:
    qkv, cu_seqlens, max_length, num_heads, scale, _ = packed([5, 40])
    compiled = torch.compile(ops.packed_attention, fullgraph=True, dynamic=True)
    expected = ops.packed_attention_reference(qkv, cu_seqlens, max_length, num_heads, scale)
    torch.testing.assert_close(compiled(qkv, cu_seqlens, max_length, num_heads, scale), expected, rtol=1e-5, atol=1e-6)


@needs_library
def test_asking_for_a_gradient_is_an_error_not_a_missing_gradient() -> None:
    qkv, *rest = packed([5])
    result = ops.packed_attention(qkv.requires_grad_(), *rest)
    with pytest.raises(RuntimeError, match="not implemented"):
        result.sum().backward()


QKV, CU_SEQLENS = torch.zeros(7, 24), torch.tensor([0, 3, 7], dtype=torch.int32)
BAD_ARGUMENTS = {
    "flat qkv": ((torch.zeros(24), CU_SEQLENS, 4, 2, 1.0), r"qkv must be \[tokens, 3 \* hidden_size\].*\[24\]"),
    "no thirds": ((torch.zeros(7, 25), CU_SEQLENS, 4, 2, 1.0), r"qkv must be .*\[7, 25\]"),
    "no columns": ((torch.zeros(7, 0), CU_SEQLENS, 4, 2, 1.0), r"qkv must be .*\[7, 0\]"),
    "half": ((QKV.half(), CU_SEQLENS, 4, 2, 1.0), "qkv must be float32, bfloat16 or int8, found .*([Hh]alf|float16)"),
    "int8 without scales": ((QKV.char(), CU_SEQLENS, 4, 2, 1.0), "int8_scales must hold 4 numbers for .*, found 0"),
    "float with scales": ((QKV, CU_SEQLENS, 4, 2, 1.0, INT8_SCALES), "int8_scales must hold 0 numbers for .*, found 4"),
    "scale of nothing": (
        (QKV.char(), CU_SEQLENS, 4, 2, 1.0, (0.1, 0.0, 0.1, 0.1)),
        "int8_scales must be finite and positive, found 0",
    ),
    "no heads": ((QKV, CU_SEQLENS, 4, 0, 1.0), "num_heads must be at least 1 .* found 0"),
    "odd heads": ((QKV, CU_SEQLENS, 4, 3, 1.0), "divide hidden_size 8, found 3"),
    "square cu_seqlens": ((QKV, CU_SEQLENS[None], 4, 2, 1.0), r"cu_seqlens must be \[batch \+ 1\].*\[1, 3\]"),
    "no cu_seqlens": ((QKV, CU_SEQLENS[:0], 4, 2, 1.0), r"cu_seqlens must be \[batch \+ 1\].*\[0\]"),
    "long cu_seqlens": ((QKV, CU_SEQLENS.long(), 4, 2, 1.0), "cu_seqlens must be int32, found"),
    "negative max_length": ((QKV, CU_SEQLENS, -1, 2, 1.0), "max_length must not be negative, found -1"),
    "infinite scale": ((QKV, CU_SEQLENS, 4, 2, float("inf")), "scale must be finite, found inf"),
    "late begin": ((QKV, CU_SEQLENS + 1, 4, 2, 1.0), "cu_seqlens must begin with 0, found 1"),
    "decrease": (
        (QKV, torch.tensor([0, 5, 3, 7], dtype=torch.int32), 5, 2, 1.0),
        "must not decrease, found 3 after 5 at index 2",
    ),
    "too long": ((QKV, CU_SEQLENS, 3, 2, 1.0), "sequence 1 has 4 tokens, expected at most max_length 3"),
    "early end": ((QKV, CU_SEQLENS[:2], 4, 2, 1.0), "must end with the number of tokens in qkv, 7, found 3"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_the_reference_refuses_a_bad_argument_by_name(case: str) -> None:
    arguments, message = BAD_ARGUMENTS[case]
    with pytest.raises(ValueError, match=message):
        ops.packed_attention_reference(*arguments)


@needs_library
@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_the_op_refuses_a_bad_argument_by_name(case: str) -> None:
    arguments, message = BAD_ARGUMENTS[case]
    with pytest.raises(RuntimeError, match=message):
        ops.packed_attention(*arguments)


def test_without_the_library_the_reference_works_and_the_op_names_the_build_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops, "_LIBRARY_PATH", tmp_path / "libalbert_fast_ops.so")
    monkeypatch.setattr(ops, "_PROBLEM", ops._load_library())
    assert ops.library_path() is None
    assert not ops.is_available()
    assert ops.packed_attention_reference(*packed([4])).shape == (4, 48)
    with pytest.raises(MissingDependencyError, match=r"is not built\. Build it: ALBERT_FAST_BUILD_OPS=1 pip install"):
        ops.packed_attention(*packed([4]))


def test_a_damaged_library_is_told_apart_from_a_missing_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "libalbert_fast_ops.so"
    library.write_bytes(b"\x7fELF and nothing more")
    monkeypatch.setattr(ops, "_LIBRARY_PATH", library)
    problem = ops._load_library()
    assert problem is not None and "does not load into torch" in problem


@needs_library
def test_the_library_asks_for_no_python_and_knows_its_torch() -> None:
    library = ops.library_path()
    assert library is not None
    contents = library.read_bytes()
    assert b"libtorch_cpu.so" in contents
    assert b"libtorch_python" not in contents and b"libpython" not in contents
    assert torch.__version__.startswith(torch.ops.albert_fast.built_with_torch())
