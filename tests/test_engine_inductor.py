"""torch.compile in process: the shared layer is one region of the graph, however many passes there are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from engine_samples import batch_of, differ, eager_answers, small_config

from albert_fast.batch import ShapeProfile
from albert_fast.engine import inductor
from albert_fast.heads import AlbertForMaskedLM


def traced(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[list[torch.fx.GraphModule], Any]:
    """The graphs that the compiler is given for a model, with a compiler that runs them as they are."""
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **options: compile(function, backend=keep, **options))
    model = AlbertForMaskedLM(small_config(**changes)).eval()
    run = inductor.make(model, outputs=("logits",), profile=ShapeProfile(1, 2, 4, 1, 8, 48))
    return graphs, (model, run)


@pytest.mark.parametrize("passes", [2, 9])
def test_the_layer_is_one_region_that_every_pass_calls(monkeypatch: pytest.MonkeyPatch, passes: int) -> None:
    [graph], _ = traced(monkeypatch, num_hidden_layers=passes)
    regions = [name for name, module in graph.named_children() if isinstance(module, torch.fx.GraphModule)]
    called = [node.args[0].target for node in graph.graph.nodes if "invoke_subgraph" in str(node.target)]
    assert len(regions) == 1
    assert called == regions * passes


def test_one_graph_serves_all_sizes_of_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs, (model, run) = traced(monkeypatch, num_hidden_layers=2)
    with torch.inference_mode():
        for shape in ((2, 9), (3, 17), (4, 48), (2, 2)):
            batch = batch_of(*shape)
            assert differ(run(*batch.tensors()), eager_answers(model, batch)) <= 1e-5
    assert len(graphs) == 1


def test_many_engines_do_not_use_up_each_others_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    with torch._dynamo.config.patch(recompile_limit=1):
        for _ in range(3):
            graphs, _ = traced(monkeypatch, num_hidden_layers=1)
            assert len(graphs) == 1
            monkeypatch.undo()


def test_groups_of_layers_are_compiled_too(monkeypatch: pytest.MonkeyPatch) -> None:
    _, (model, run) = traced(monkeypatch, num_hidden_groups=2, inner_group_num=2, num_hidden_layers=4)
    batch = batch_of(2, 9)
    with torch.inference_mode():
        assert differ(run(*batch.tensors()), eager_answers(model, batch)) <= 1e-5
