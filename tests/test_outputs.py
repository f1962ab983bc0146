"""Model outputs: by attribute, name and position, counting only what is set, as in transformers."""

import pytest
import torch

from albert_fast.outputs import OUTPUTS, MaskedLMOutput


def test_unset_fields_do_not_count():
    out = MaskedLMOutput(logits=torch.zeros(1))
    assert out.keys() == ("logits",) and len(out) == 1 and "loss" not in out and out.loss is None
    assert out[0] is out["logits"] is out.logits
    assert out[:2] == (out.logits,) and out.to_tuple() == (out.logits,)
    assert dict(**out) == {"logits": out.logits} and list(out) == ["logits"] and out.get("loss", 1) == 1


def test_a_missing_field_raises_as_in_a_dict():
    with pytest.raises(KeyError):
        MaskedLMOutput(logits=torch.zeros(1))["loss"]


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda o: o.__name__)
def test_the_fields_are_those_of_transformers(output):
    import dataclasses

    transformers = pytest.importorskip("transformers", reason="the reference for field names")
    import transformers.modeling_outputs as theirs
    from transformers.models.albert import modeling_albert

    reference = getattr(theirs, output.__name__, None) or getattr(modeling_albert, output.__name__)
    assert transformers and [f.name for f in dataclasses.fields(output)] == [
        f.name for f in dataclasses.fields(reference)
    ]
