"""bfloat16 attention as two products: the same answers as the fused one, every shape, and only where it pays."""

from __future__ import annotations

import pytest
import torch
from precision_samples import CONFIG, answers, batches_of, graph_of, prepared_graph
from torch.export import ExportedProgram

from albert_fast.batch import Batch
from albert_fast.engine import cpu_attention, machine

fused = torch.ops.aten.scaled_dot_product_attention.default


def calls(program: ExportedProgram) -> int:
    return sum(node.target is fused for node in program.graph.nodes)


def test_every_pass_of_a_bfloat16_graph_is_rewritten_and_the_graph_given_stays() -> None:
    program = prepared_graph("bf16")
    expanded, count = cpu_attention.expand(program)
    assert count == calls(program) == CONFIG.num_hidden_layers
    assert calls(expanded) == 0


@pytest.mark.parametrize("name", ["fp32", "fp16"])
def test_other_dtypes_keep_the_fused_attention(name: str) -> None:
    expanded, count = cpu_attention.expand(prepared_graph(name))
    assert count == 0 and calls(expanded) == CONFIG.num_hidden_layers


def test_the_products_are_as_close_to_float32_as_the_fused_attention() -> None:
    ids = torch.arange(24).reshape(3, 8) + 5
    mask = torch.ones_like(ids)
    mask[0, 3:] = 0
    mask[2] = 0  # nothing but padding
    batches = [*batches_of(), Batch(ids, mask, torch.zeros_like(ids)), Batch(ids[:1, :1])]
    expanded, _ = cpu_attention.expand(prepared_graph("bf16"))
    exact, before, after = (answers(one, batches) for one in (graph_of(), prepared_graph("bf16"), expanded))
    for name in exact[0]:
        lost, now_lost = (
            torch.cat([(a[name] - b[name]).abs().flatten() for a, b in zip(exact, some, strict=True)]).mean()
            for some in (before, after)
        )
        assert now_lost <= 1.2 * lost


@pytest.mark.parametrize(
    ("flags", "expected"),
    [(("avx512f", "avx512_bf16"), True), (("avx512f", "avx512_bf16", "amx_bf16"), False), (("avx2",), False)],
)
def test_products_are_chosen_where_bfloat16_is_multiplied_without_tiles(
    flags: tuple[str, ...], expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cpu_flags", lambda: flags)
    assert cpu_attention.pays() == (expected and torch.backends.mkldnn.is_available())
