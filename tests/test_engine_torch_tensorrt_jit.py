"""torch.compile with a backend in Torch-TensorRT's place, which runs the graphs that it is given with PyTorch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from engine_samples import BUDGET, PROFILE, batch_of, differ, eager_answers, small_model
from test_engine_torch_tensorrt import ARGUMENTS

from albert_fast.engine import torch_tensorrt_jit as jit_row
from albert_fast.errors import EngineError


@pytest.fixture()
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.GraphModule]:
    """What the backend is given; it calls all of it one engine, and PyTorch runs that."""
    given: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: Sequence[Any], *, options: Any) -> Any:
        assert options["attn_bias_is_causal"] is False and options["pass_through_build_failures"] is True
        given.append(graph)
        whole = torch.nn.Module()
        whole.add_module("_run_on_acc_0", graph)
        whole.forward = graph.forward
        return whole

    known = dataclasses.make_dataclass("CompilationSettings", [*ARGUMENTS, "pass_through_build_failures"])
    package = SimpleNamespace(dynamo=SimpleNamespace(CompilationSettings=known))
    monkeypatch.setattr(jit_row, "load_package", lambda: package)
    monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda name: backend)
    return given


def test_in_process_weights_are_constants_and_one_graph_serves_all_sizes(graphs: list[torch.fx.GraphModule]) -> None:
    model = small_model("masked-lm")
    run = jit_row.compiled(model, outputs=("logits",), profile=PROFILE)
    with torch.inference_mode():
        for shape in ((2, 9), (3, 17), (4, 48), (2, 2)):
            batch = batch_of(*shape)
            assert differ(run(*batch.tensors()), eager_answers(model, batch)) <= BUDGET.max_abs
    [graph] = graphs
    used = {id(weight) for weight in graph.parameters()}
    assert used == {id(weight) for weight in model.parameters()}
    assert sum(node.op == "placeholder" for node in graph.graph.nodes) <= 3 + 4  # ids, mask, types and their sizes


def test_in_process_single_rows_and_tokens_are_answered_by_engines_of_their_own(
    graphs: list[torch.fx.GraphModule],
) -> None:
    model = small_model("multiple-choice")
    run = jit_row.compiled(model, outputs=("logits",), profile=PROFILE)
    with torch.inference_mode():
        for number, shape in enumerate(((2, 3, 9), (1, 2, 9), (1, 4, 7), (2, 2, 1))):
            batch = batch_of(*shape)
            assert differ(run(*batch.tensors()), eager_answers(model, batch)) <= BUDGET.max_abs
            assert len(graphs) == (1, 2, 2, 3)[number]


def test_in_process_an_op_outside_of_tensorrt_is_refused(
    graphs: list[torch.fx.GraphModule], monkeypatch: pytest.MonkeyPatch
) -> None:
    def backend(graph: torch.fx.GraphModule, inputs: Sequence[Any], **_: Any) -> Any:
        return graph

    monkeypatch.setattr(torch._dynamo, "lookup_backend", lambda name: backend)
    with pytest.raises(EngineError, match=r"no TensorRT layer for .*attn_implementation='sdpa'"):
        jit_row.compiled(small_model(), outputs=("sop_logits",), profile=PROFILE)
