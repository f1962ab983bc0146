"""The encoder op: equal to its reference and to a model's own passes, whole under the compiler, strict."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from albert_fast import encoder_op, ops
from albert_fast.encoder_op import EncoderSettings, linear_tensors, pack, unpack

needs_library = pytest.mark.skipif(not ops.is_available(), reason=f"needs the compiled op library: {ops.BUILD_COMMAND}")
Arguments = tuple[Tensor, Tensor, list[Tensor], EncoderSettings]

# Largest and mean difference. float32 differs by the order of additions; what rounds to 16 or 8 bits may round a number
# between two steps either way, and later passes carry that on.
KINDS: dict[str, tuple[dict[str, Any], float, float]] = {
    "float32": ({}, 2e-5, 2e-6),
    "bfloat16": ({"dtype": torch.bfloat16, "attention_dtype": "bfloat16"}, 0.1, 4e-3),
    "int8": ({"dtype": torch.int8}, 0.1, 1e-2),
    "int8, the rest bfloat16": (
        {"dtype": torch.int8, "mapping": torch.bfloat16, "attention_dtype": "bfloat16"},
        0.1,
        1e-2,
    ),
    "int8, the mapping too": ({"dtype": torch.int8, "mapping": torch.int8}, 0.1, 1e-2),
    "int8, smoothed": ({"dtype": torch.int8, "mapping": torch.int8, "smoothed": True}, 0.1, 1e-2),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def linear(inputs: int, outputs: int, dtype: torch.dtype, smoothed: bool = False) -> tuple[Tensor, ...]:
    weight, bias = torch.randn(outputs, inputs) / inputs**0.5, 0.1 * torch.randn(outputs)
    if dtype != torch.int8:
        return linear_tensors(weight.to(dtype), bias)
    factors = (0.3 * torch.randn(inputs) - 0.3).exp() if smoothed else None
    scale = weight.abs().amax(1) / 127
    return linear_tensors((weight / scale[:, None]).round().to(torch.int8), bias, scale, factors)


def norm(size: int) -> tuple[Tensor, Tensor]:
    return 1 + 0.1 * torch.randn(size), 0.1 * torch.randn(size)


def arguments(
    mask: Tensor,
    *,
    num_heads: int = 3,
    head_size: int = 16,
    embedding_size: int = 20,
    middle: int = 100,
    layers: int = 1,
    schedule: tuple[int, ...] = (0, 0),
    dtype: torch.dtype = torch.float32,
    mapping: torch.dtype | None = None,
    attention_dtype: str = "float32",
    activation: str = "gelu_tanh",
    first_token_only: bool = False,
    smoothed: bool = False,
) -> Arguments:
    """Random arguments of the op for a batch with this mask."""
    torch.manual_seed(5)
    size = num_heads * head_size
    first = mapping or (torch.float32 if dtype == torch.int8 else dtype)
    tensors = [*linear(embedding_size, size, first, smoothed)]
    for _ in range(layers):
        for inputs, outputs in ((size, 3 * size), (size, size)):
            tensors += linear(inputs, outputs, dtype, smoothed)
        tensors += norm(size)
        for inputs, outputs in ((size, middle), (middle, size)):
            tensors += linear(inputs, outputs, dtype, smoothed)
        tensors += norm(size)
    scales = (0.03 if first == torch.int8 else 0.0, *(0.02, 0.02, 0.03, 0.02) * len(schedule))
    settings = EncoderSettings(
        schedule, num_heads, head_size**-0.5, 1e-12, activation, attention_dtype,
        scales if dtype == torch.int8 else (), first_token_only,
    )  # fmt: skip
    return torch.randn(*mask.shape, embedding_size), mask, tensors, settings


def mask_of(*lengths: int, width: int = 0, left: bool = False) -> Tensor:
    """Texts of these lengths, padded on the right or the left to the longest, or to ``width``."""
    places = torch.arange(max(*lengths, width)).expand(len(lengths), -1)
    mask = (places < torch.tensor(lengths)[:, None]).long()
    return mask.flip(1) if left else mask


def assert_equals_reference(made: Arguments, kind: str = "float32") -> None:
    _, largest, mean = KINDS[kind]
    found, expected = encoder_op.encoder(*made), encoder_op.encoder_reference(*made)
    assert found.shape == expected.shape and found.dtype == expected.dtype
    difference = (found - expected).abs()
    assert difference.max() <= largest and difference.mean() <= mean, (difference.max(), difference.mean())


MIXED = mask_of(5, 31, 1, 2, 0, 40, 0)


@pytest.mark.parametrize("dtype", encoder_op.WEIGHT_DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(32, 4), (1, 1), (33, 7), (100, 20)])
def test_a_packed_weight_holds_every_number_where_the_kernel_looks_for_it(
    dtype: torch.dtype, shape: tuple[int, int]
) -> None:
    weight = torch.randint(-127, 128, shape).to(dtype)
    packed, step = pack(weight), 4 // weight.element_size()
    assert packed.is_contiguous() and packed.shape[2:] == (32, step)
    for out, inner in [(0, 0), (shape[0] - 1, shape[1] - 1), (shape[0] // 2, shape[1] // 2)]:
        assert packed[out // 32, inner // step, out % 32, inner % step] == weight[out, inner]
    whole = unpack(packed)
    assert torch.equal(whole[: shape[0], : shape[1]], weight)
    assert packed.count_nonzero() == weight.count_nonzero()


def test_the_reference_computes_the_passes_of_the_model() -> None:
    from albert_fast.attention import eager_attention
    from albert_fast.functional import Affine, LayerSettings, LayerWeights, attention_bias, encode

    torch.manual_seed(1)
    shapes = [(48, 48)] * 4 + [(100, 48), (48, 100)]
    query, key, value, dense, ffn, ffn_output = (Affine(torch.randn(o, i) / i**0.5, torch.randn(o)) for o, i in shapes)
    norms = [Affine(*norm(48)) for _ in range(2)]
    mapping = Affine(torch.randn(48, 20) / 20**0.5, torch.randn(48))
    side_by_side = [torch.cat(parts) for parts in zip(query, key, value, strict=True)]
    tensors = [
        *linear_tensors(*mapping), *linear_tensors(*side_by_side), *linear_tensors(*dense), *norms[0],
        *linear_tensors(*ffn), *linear_tensors(*ffn_output), *norms[1],
    ]  # fmt: skip
    mask = mask_of(9, 4, 7)
    embedded = torch.randn(3, 9, 20)
    layer = LayerWeights(query, key, value, dense, norms[0], ffn, ffn_output, norms[1])
    bias = attention_bias(mask, torch.float32)
    expected = encode(
        F.linear(embedded, *mapping), bias, [layer], [0, 0, 0], LayerSettings(3, 1e-12, F.gelu, eager_attention)
    ).last
    settings = EncoderSettings((0, 0, 0), 3, 0.25, 1e-12, "gelu", "float32")
    found = encoder_op.encoder_reference(embedded, mask, tensors, settings)
    torch.testing.assert_close(found, expected * mask[..., None], rtol=1e-5, atol=1e-5)


@needs_library
@every_kind
@pytest.mark.parametrize("head_size", [5, 32, 64, 128])
def test_every_head_size_equals_the_reference_on_mixed_lengths(head_size: int, kind: str) -> None:
    assert_equals_reference(arguments(MIXED, head_size=head_size, **KINDS[kind][0]), kind)


@needs_library
@every_kind
@pytest.mark.parametrize("length", [1, 2, 31, 130])
@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_every_length_and_both_paddings_equal_the_reference(length: int, left: bool, kind: str) -> None:
    mask = mask_of(length, max(1, length // 2), width=length + 3, left=left)
    assert_equals_reference(arguments(mask, **KINDS[kind][0]), kind)


@needs_library
@every_kind
@pytest.mark.parametrize("first_token_only", [False, True])
def test_several_layers_in_any_order_equal_the_reference(first_token_only: bool, kind: str) -> None:
    made = arguments(
        MIXED, layers=3, schedule=(0, 2, 1, 1), first_token_only=first_token_only, middle=70, **KINDS[kind][0]
    )
    assert_equals_reference(made, kind)


@needs_library
@pytest.mark.parametrize("kind", ["int8", "int8, the mapping too", "int8, smoothed"])
def test_int8_is_multiplied_exactly(kind: str) -> None:
    made = arguments(mask_of(40, 33), schedule=(0,), **KINDS[kind][0])
    difference = (encoder_op.encoder(*made) - encoder_op.encoder_reference(*made)).abs()
    assert difference.amax(-1).median() <= 1e-5  # of tokens: one that rounds the other way spoils only a few


@needs_library
@pytest.mark.parametrize("activation", encoder_op.ACTIVATIONS)
def test_every_activation_equals_the_reference(activation: str) -> None:
    assert_equals_reference(arguments(MIXED, activation=activation))


@needs_library
def test_what_an_embedding_at_padding_is_does_not_matter_and_padding_comes_out_as_zeros() -> None:
    embedded, mask, tensors, settings = arguments(mask_of(5, 7, 2))
    other = torch.where(mask[..., None] != 0, embedded, torch.nan)
    found = encoder_op.encoder(other, mask, tensors, settings)
    assert torch.equal(found, encoder_op.encoder(embedded, mask, tensors, settings))
    assert found[mask == 0].count_nonzero() == 0


@needs_library
def test_the_first_position_is_computed_behind_left_padding_and_in_a_text_without_tokens() -> None:
    made = arguments(mask_of(3, 0, 5, left=True))
    found = encoder_op.encoder(*made)
    assert found.isfinite().all()
    assert (found[:, 0].abs().sum(-1) > 0).all() and found[0, 1].count_nonzero() == 0
    short = (*made[:3], EncoderSettings(**{**vars(made[3]), "first_token_only": True}))
    torch.testing.assert_close(encoder_op.encoder(*short), found[:, :1], rtol=1e-5, atol=1e-5)


@needs_library
@every_kind
def test_a_text_is_answered_the_same_alone_and_in_any_company(kind: str) -> None:
    embedded, mask, tensors, settings = arguments(mask_of(5, 40, 17, 0, 33), **KINDS[kind][0])
    together = encoder_op.encoder(embedded, mask, tensors, settings)
    for row, length in ((0, 5), (2, 17)):
        alone = encoder_op.encoder(embedded[row : row + 1, :length], mask[row : row + 1, :length], tensors, settings)
        torch.testing.assert_close(together[row : row + 1, :length], alone, rtol=0, atol=KINDS[kind][1])


@needs_library
def test_the_op_keeps_the_promises_of_its_schema_to_the_compiler() -> None:
    embedded, mask, tensors, settings = arguments(mask_of(5, 2))
    torch.library.opcheck(torch.ops.albert_fast.encoder.default, (embedded, mask, tensors, *settings.arguments()))


@needs_library
def test_one_compiled_graph_serves_every_batch_and_length() -> None:
    _, _, tensors, settings = arguments(mask_of(5, 2))
    compilations = []

    def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        compilations.append(graph)
        return graph

    def encode(embedded: Tensor, mask: Tensor) -> Tensor:
        return 2 * encoder_op.encoder(embedded + 1, mask, tensors, settings)

    compiled = torch.compile(encode, backend=count, fullgraph=True, dynamic=True)
    for lengths in ([5, 9], [3, 2, 1], [70, 4]):
        mask = mask_of(*lengths)
        embedded = torch.randn(*mask.shape, 20)
        for dimension in (0, 1):
            torch._dynamo.mark_dynamic(mask, dimension)
            torch._dynamo.mark_dynamic(embedded, dimension)
        torch.testing.assert_close(compiled(embedded, mask), encode(embedded, mask), rtol=0, atol=1e-6)
    assert len(compilations) == 1


@needs_library
@every_kind
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads_answers_the_same(threads: int, kind: str) -> None:
    """Long enough for that many: a call takes a thread for every 25 million multiplications, small ones one."""
    made = arguments(mask_of(300, 70, 1, 33), num_heads=4, head_size=32, middle=512, **KINDS[kind][0])
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_equals_reference(made, kind)
    finally:
        torch.set_num_threads(before)


@needs_library
@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_each_instruction_set_of_this_machine_equals_the_reference(capability: str) -> None:
    if capability == "avx512" and not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        pytest.skip("needs a processor with AVX-512")
    program = (
        "import torch; from albert_fast import ops; from test_encoder_op import *\n"
        "print(torch.backends.cpu.get_cpu_capability(), ops.cpu_kernel())\n"
        "for kind, (choice, *_) in KINDS.items():\n"
        "    for size in (5, 64):\n"
        "        assert_equals_reference(arguments(MIXED, head_size=size, layers=2, schedule=(1, 0), **choice), kind)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=Path(__file__).parent,
        env=os.environ | {"ATEN_CPU_CAPABILITY": capability, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = {"default": "DEFAULT baseline", "avx2": "AVX2 avx2", "avx512": "AVX512 avx512"}
    assert done.stdout.strip().split("_")[0] == expected[capability]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"embedded": torch.randn(2, 5)}, "embedded must be"),
    ({"embedded": torch.randn(2, 5, 20).bfloat16()}, "embedded must be"),
    ({"mask": torch.ones(2, 5)}, "attention_mask must be"),
    ({"settings": {"activation": "mish"}}, "activation"),
    ({"settings": {"attention_dtype": "float16"}}, "attention_dtype"),
    ({"settings": {"schedule": ()}}, "schedule"),
    ({"settings": {"schedule": (0, 3)}}, "schedule|tensors are too few|tensors"),
    ({"settings": {"num_heads": 7}}, "num_heads must"),
    ({"settings": {"input_scales": (1.0,)}}, "input_scales"),
    ({"drop": 1}, "tensors"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_wrong_arguments_are_named_by_the_reference_and_by_the_op(changes: dict[str, Any], message: str) -> None:
    embedded, mask, tensors, settings = arguments(mask_of(5, 2))
    made = (
        changes.get("embedded", embedded),
        changes.get("mask", mask),
        tensors[: len(tensors) - changes.get("drop", 0)],
        EncoderSettings(**{**vars(settings), **changes.get("settings", {})}),
    )
    with pytest.raises(ValueError, match=message):
        encoder_op.encoder_reference(*made)
    if ops.is_available():
        with pytest.raises(RuntimeError, match=message):
            encoder_op.encoder(*made)


@pytest.mark.parametrize(
    ("dtype", "place", "length", "message"),
    [
        (torch.float32, 0, 32, "has factors of its input, but no int8 weight"),
        (torch.int8, 0, 20, r"factors .*must be \[32\] of"),
        (torch.int8, 1, 32, r"factors .*must be \[64\] of"),
        (torch.int8, 4, 100, r"factors .*must be \[128\] of"),
    ],
)
def test_factors_that_do_not_fit_are_named_by_the_reference_and_by_the_op(
    dtype: torch.dtype, place: int, length: int, message: str
) -> None:
    embedded, mask, tensors, settings = arguments(mask_of(5, 2), dtype=dtype, mapping=dtype)
    weights = [index for index, tensor in enumerate(tensors) if tensor.dim() == 4]
    tensors.insert(weights[place], torch.ones(length))
    with pytest.raises(ValueError, match=message):
        encoder_op.encoder_reference(embedded, mask, tensors, settings)
    if ops.is_available():
        with pytest.raises(RuntimeError, match=message):
            encoder_op.encoder(embedded, mask, tensors, settings)


@needs_library
def test_a_gradient_is_refused_where_it_is_asked_for() -> None:
    embedded, mask, tensors, settings = arguments(mask_of(5, 2))
    result = encoder_op.encoder(embedded.requires_grad_(), mask, tensors, settings)
    with pytest.raises(RuntimeError, match="encoder"):
        result.sum().backward()
