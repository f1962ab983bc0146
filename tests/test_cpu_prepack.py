"""Packed linear maps: the rewritten graph is a sound program that answers as the one before."""

from __future__ import annotations

import pytest
import torch
from small_checkpoint import small_config

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
