"""Packed linear maps: the rewritten graph is a sound program that answers as the one before."""

from __future__ import annotations

import pytest
import torch
from small_checkpoint import small_config
from torch import Tensor, nn
from torch.nn import functional as F

from albert_fast.batch import Batch, ShapeProfile
from albert_fast.capture import capture
from albert_fast.engine import cpu_prepack
from albert_fast.heads import HEADS


@pytest.mark.skipif(not cpu_prepack.is_available(), reason="needs a torch with oneDNN")
@pytest.mark.parametrize("head", ["masked-lm", "pretraining", "sequence-classification", "token-classification"])
def test_packing_keeps_the_outputs_whose_last_step_is_a_packed_linear_map(head: str) -> None:
    model = HEADS[head].model_class(small_config()).eval()
    program = capture(model, ShapeProfile.parse("1x1:4x16:8x32"))
    inputs = Batch(torch.randint(5, 90, (3, 9))).tensors()
    with torch.inference_mode():
        before, after = program.module()(*inputs), cpu_prepack.pack_weights(program).module()(*inputs)
    assert list(after) == list(before)
    for name in before:
        torch.testing.assert_close(after[name], before[name], atol=1e-5, rtol=0)


class Company(nn.Module):
    """Linear maps ``a`` and ``b`` that read one value, and what else ``a`` reads."""

    def __init__(self, *, alone: bool = False, gelu: bool = False) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 4)
        self.alone, self.gelu = alone, gelu

    def forward(self, x: Tensor) -> Tensor:
        y, z = self.a(x), self.b(x)
        y = F.gelu(y) if self.gelu else y
        return torch.cat([self.a(y) if self.alone else y, z], 1)


@pytest.mark.skipif(not cpu_prepack.is_available(), reason="needs a torch with oneDNN")
@pytest.mark.parametrize(
    ("settings", "products", "weights"),
    [({}, 1, 1), ({"alone": True}, 3, 2), ({"gelu": True}, 2, 2)],
    ids=["together", "one of them also alone", "one with an activation"],
)
def test_maps_of_one_value_are_one_product_unless_a_weight_is_read_otherwise_too(
    settings: dict[str, bool], products: int, weights: int
) -> None:
    module, x = Company(**settings).eval(), torch.randn(5, 8)
    packed = cpu_prepack.pack_weights(torch.export.export(module, (x,)))
    targets = [node.target for node in packed.graph.nodes]
    assert targets.count(torch.ops.mkldnn._linear_pointwise.default) == products
    assert targets.count(torch.ops.mkldnn._reorder_linear_weight.default) == weights
    torch.testing.assert_close(packed.module()(x), module(x), atol=1e-5, rtol=0)
