"""int8 products in oneDNN: exact, the whole Q/DQ graph to rounding, each weight once, and refusals in words."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from precision_samples import CONFIG, PROFILE, answers, batches_of, graph_of
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.nn import functional as F

from albert_fast.batch import Batch, ShapeProfile
from albert_fast.engine import aotinductor, cpu_int8, cpu_prepack, machine, signature
from albert_fast.errors import EngineError
from albert_fast.precision import Quantization, prepare
from albert_fast.precision.calibration import collect
from albert_fast.precision.scales import Scales

aten, onednn, qd = torch.ops.aten, torch.ops.onednn, torch.ops.quantized_decomposed


def why_not() -> str:
    try:
        cpu_int8.require()
    except EngineError as error:
        return f"needs a CPU and a torch that multiply int8: {error}"
    return ""


needs_int8 = pytest.mark.skipif(bool(why_not()), reason=why_not())


@cache
def scales(head: str = "pretraining") -> Scales:
    return collect(graph_of(head), batches_of(head)).scales("max")


def smoothed(found: Scales) -> Scales:
    """With factors between 1/2 and 2 for every channel that is smoothed."""
    sizes = {"attention.input": CONFIG.hidden_size, "ffn_output.input": CONFIG.intermediate_size}
    factors = {
        tensor: tuple(2 ** ((7 * i % 11 - 5) / 5) for i in range(size))
        for tensor in found.amax
        for end, size in sizes.items()
        if tensor.endswith(end)
    }
    return Scales(found.model, found.method, found.text, found.amax, factors)


@cache
def quantized(rest: str = "fp32", *, smooth: bool = False, head: str = "pretraining", **choice: Any) -> ExportedProgram:
    found = smoothed(scales(head)) if smooth else scales(head)
    return prepare(graph_of(head), "int8", quantization=Quantization(found, rest=rest, **choice))


def calls(program: ExportedProgram, op: Any) -> int:
    return sum(node.target is op for node in program.graph.nodes)


def product(x: Tensor, weight: Tensor, scale: Tensor, **output: Any) -> Tensor:
    """``x`` int8 ``[M, K]``, moved to u8, times int8 ``[N, K]`` in oneDNN."""
    zeros = torch.zeros(len(weight), dtype=torch.int32)
    packed = onednn.qlinear_prepack(weight, None)
    moved = (x.to(torch.int16) + 128).to(torch.uint8)
    result: Tensor = onednn.qlinear_pointwise(
        moved, 1.0, 128, packed, scale, zeros, None, 1.0, 0, torch.float32, "none", [], "none"
    )
    return result


@needs_int8
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 64, 16), (3, 17, 5), (17, 768, 40), (128, 768, 96), (2, 3072, 8)])
@pytest.mark.parametrize("numbers", ["random", "largest", "smallest times largest"])
def test_unsigned_bytes_with_zero_point_128_multiply_exactly_as_signed_ones(
    shape: tuple[int, int, int], numbers: str
) -> None:
    tokens, inputs, outputs = shape
    x, weight = torch.full((tokens, inputs), 127), torch.full((outputs, inputs), 127)
    if numbers == "random":
        x, weight = torch.randint(-127, 128, (tokens, inputs)), torch.randint(-127, 128, (outputs, inputs))
    elif numbers == "smallest times largest":
        x = -x
    found = product(x.to(torch.int8), weight.to(torch.int8), torch.ones(outputs))
    exact = (x @ weight.T).float()  # below 2**26: what float32 does not hold of it is less than its own rounding
    assert torch.equal(found, exact)


@needs_int8
def test_every_weight_is_packed_once_for_all_passes_and_query_key_and_value_are_one_product() -> None:
    program = quantized()
    lowered, counts = cpu_int8.lower(program)
    passes = CONFIG.num_hidden_layers
    assert counts == {"multiplied": 6 * passes, "products": 4 * passes, "kept": 0, "emulated": 0}
    assert calls(lowered, onednn.qlinear_prepack.default) == 4
    assert calls(lowered, onednn.qlinear_pointwise.default) == 4 * passes
    assert calls(lowered, qd.dequantize_per_channel.default) == 0
    assert calls(program, aten.linear.default) > 6 * passes  # left as it was


@needs_int8
def test_the_gelu_and_the_rounding_behind_it_are_computed_with_the_product() -> None:
    lowered, _ = cpu_int8.lower(quantized())
    outputs = [n.args[9:11] for n in lowered.graph.nodes if n.target is onednn.qlinear_pointwise.default]
    assert outputs.count((torch.uint8, "gelu")) == CONFIG.num_hidden_layers
    assert calls(lowered, qd.quantize_per_tensor.default) == 3 * CONFIG.num_hidden_layers


@needs_int8
def test_a_smoothed_input_of_the_second_map_is_rounded_after_it_is_divided() -> None:
    lowered, _ = cpu_int8.lower(quantized(smooth=True))
    outputs = [n.args[9:11] for n in lowered.graph.nodes if n.target is onednn.qlinear_pointwise.default]
    assert outputs.count((torch.float32, "gelu")) == CONFIG.num_hidden_layers


CHOICES: dict[str, dict[str, Any]] = {
    "encoder": {},
    "smoothed": {"smooth": True},
    "one pass kept": {"keep": ("ffn_output.input@2", "attention.input@0")},
    "kept and smoothed": {"keep": ("ffn_output.input@2", "attention.input@0"), "smooth": True},
    "one tensor kept in every pass": {"keep": ("ffn.input",)},
    "heads": {"parts": ("encoder", "heads")},
    "everything": {"parts": ("encoder", "embeddings", "heads")},
}


@needs_int8
@pytest.mark.parametrize("rest", ["fp32", "bf16"])
@pytest.mark.parametrize("choice", list(CHOICES))
def test_the_lowered_graph_answers_as_the_quantized_one(choice: str, rest: str) -> None:
    """In float32 to its rounding, batch by batch, but where a number lies between two steps and is rounded to the other
    one: that moves all behind it by less than quantizing itself does. In bfloat16 the Q/DQ graph rounds what the
    product does not, which is of the size of what quantizing costs.
    """
    program = quantized(rest, **CHOICES[choice])
    lowered, _ = cpu_int8.lower(program)
    batches = batches_of()
    exact, expected, found = (answers(one, batches) for one in (graph_of(), program, lowered))
    for name in expected[0]:
        cost = mean_difference(exact, expected, name)
        assert mean_difference(expected, found, name) <= (0.5 if rest == "fp32" else 1.25) * cost
        if rest == "fp32":
            closest = min(float((a[name] - b[name]).abs().max()) for a, b in zip(expected, found, strict=True))
            assert closest <= 2e-6


def mean_difference(some: list[dict[str, Tensor]], others: list[dict[str, Tensor]], name: str) -> float:
    return float(torch.cat([(a[name] - b[name]).abs().flatten() for a, b in zip(some, others, strict=True)]).mean())


class Kept(nn.Module):
    """A linear map over an int8 weight whose input is not quantized."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.weight = nn.Parameter(torch.randint(-127, 128, (40, 96), dtype=torch.int8), requires_grad=False)
        self.scale = nn.Parameter(torch.rand(40) / 100, requires_grad=False)
        self.bias = nn.Parameter(torch.randn(40, dtype=dtype), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = qd.dequantize_per_channel(
            self.weight, self.scale, None, 0, -127, 127, torch.int8, out_dtype=self.dtype
        )
        return F.linear(x, weight, self.bias)


@needs_int8
@pytest.mark.parametrize(("dtype", "relative"), [(torch.float32, 3e-7), (torch.bfloat16, 4e-3)])
def test_a_kept_input_is_multiplied_as_exactly_as_its_dtype_says(dtype: torch.dtype, relative: float) -> None:
    """Against float64, relative to the largest sum that a row's magnitude allows: three int8 parts hold a float32, and
    two more than a bfloat16, whose result alone is rounded to 2**-9.
    """
    torch.manual_seed(1)
    module = Kept(dtype)
    x = (torch.randn(3, 40, 96) * torch.logspace(-30, 3, 40)[:, None]).to(dtype)
    x[0, 0] = 0
    lowered, counts = cpu_int8.lower(torch.export.export(module, (x,)))
    assert counts == {"multiplied": 0, "kept": 1, "emulated": 0, "products": 3 if dtype == torch.float32 else 2}
    weight = module.weight.double() * module.scale.double()[:, None]
    exact = x.double() @ weight.T + module.bias.double()
    largest = x.double().abs().amax(-1, keepdim=True) * weight.abs().sum(1) + module.bias.double().abs()
    assert bool(((lowered.module()(x).double() - exact).abs() <= relative * largest).all())


@cache
def engine(rest: str, choice: str, folder: Path) -> tuple[Any, dict[str, Any], Path]:
    path = folder / f"{rest}.pt2"
    program = quantized(rest, **CHOICES[choice])
    notes = aotinductor.write(
        program, path, device="cpu", profiles=(PROFILE,), options={"linear": "packed"}, tell=print
    ).notes
    return aotinductor.read(path, device="cpu", profiles=(PROFILE,), notes=notes), notes, path


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("int8")


ENGINES = [("fp32", "kept and smoothed"), ("bf16", "everything")]


@needs_int8
@pytest.mark.parametrize(("rest", "choice"), ENGINES)
def test_the_engine_answers_as_the_lowered_graph_in_every_shape(rest: str, choice: str, folder: Path) -> None:
    run, _, _ = engine(rest, choice, folder)
    lowered, _ = cpu_int8.lower(quantized(rest, **CHOICES[choice]))
    batches = [*batches_of(), *odd_batches()]
    with torch.inference_mode():
        found = [run(*batch.tensors()) for batch in batches]
    exact, expected = answers(graph_of(), batches), answers(lowered, batches)
    for name in expected[0]:
        assert all(bool(torch.isfinite(one[name]).all()) for one in found)
        cost = mean_difference(exact, expected, name)
        assert mean_difference(expected, found, name) <= (0.5 if rest == "fp32" else 1.25) * cost


def odd_batches() -> list[Batch]:
    """One token, one token of padding, rows of nothing but padding, the largest shape of the profile."""
    found = []
    for rows, length, seen in ((1, 1, 1), (1, 1, 0), (3, 7, 0), (PROFILE.max_batch, PROFILE.max_length, 5)):
        ids = torch.arange(rows * length).reshape(rows, length) % 90 + 5
        mask = torch.zeros_like(ids)
        mask[:, :seen] = 1
        found.append(Batch(ids, mask, torch.zeros_like(ids)))
    return found


@needs_int8
@pytest.mark.parametrize(("rest", "choice"), ENGINES)
def test_the_engine_file_holds_each_weight_once_and_its_notes_say_how_it_multiplies(
    rest: str, choice: str, folder: Path
) -> None:
    _, notes, path = engine(rest, choice, folder)
    weights = signature.distinct_weight_bytes(quantized(rest, **CHOICES[choice]))
    assert aotinductor.stored_weight_bytes(path, notes) <= 1.1 * weights + 65_536
    assert notes["linear"]["chosen"] == "packed"
    assert notes["int8"]["products"] > 0
    assert (notes["int8"]["kept"] > 0) == ("kept" in choice)


@needs_int8
def test_a_tied_decoder_over_an_int8_table_says_that_it_computes_in_floating_point() -> None:
    _, counts = cpu_int8.lower(quantized(parts=("encoder", "embeddings", "heads")))
    assert counts["emulated"] == 1


@needs_int8
def test_linear_maps_in_floating_point_are_packed_beside_the_int8_ones() -> None:
    lowered, _ = cpu_int8.lower(quantized("bf16"))
    packed = cpu_prepack.pack_weights(lowered)
    assert calls(packed, torch.ops.mkldnn._reorder_linear_weight.default) > 0
    assert calls(packed, aten.linear.default) == 1  # the decoder over the word table


def test_a_cpu_that_cannot_add_products_of_bytes_in_32_bits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cpu_flags", lambda: ("avx", "avx2", "fma"))
    with pytest.raises(EngineError, match=r"one of avx512_vnni, avx_vnni, amx_int8; this one has avx, avx2, fma.*bf16"):
        cpu_int8.lower(graph_of())
    with pytest.raises(EngineError, match=r"needs a CPU with one of avx512_vnni"):
        aotinductor.read(Path("an int8 engine.pt2"), device="cpu", profiles=(PROFILE,), notes={"int8": {}})


def test_a_torch_without_onednn_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with pytest.raises(EngineError, match=r"needs a torch with oneDNN.*choose precision bf16"):
        cpu_int8.lower(graph_of())


@needs_int8
def test_onednn_that_may_not_use_the_instructions_is_refused_before_it_answers_wrongly() -> None:
    program = "from albert_fast.engine import cpu_int8; cpu_int8.require()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
    )
    assert done.returncode != 0
    assert "ONEDNN_MAX_CPU_ISA is AVX2, unset it" in done.stderr


@needs_int8
def test_plain_linear_maps_are_refused_for_int8(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"linear='plain' has no int8 products.*'packed' or 'auto'"):
        aotinductor.write(
            quantized(), tmp_path / "e.pt2", device="cpu", profiles=(ShapeProfile(),), options={"linear": "plain"},
            tell=print,
        )  # fmt: skip
