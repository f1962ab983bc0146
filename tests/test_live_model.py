"""from_transformers: the same parameters in another class, nothing copied."""

from __future__ import annotations

import pytest
import torch
import transformers
from checkpoint_samples import CLASSES, their_model

import albert_fast
from albert_fast import from_transformers
from albert_fast.errors import CheckpointError


def outputs(model, *inputs):
    with torch.no_grad():
        output = model(*inputs)
    return output.to_tuple() if hasattr(output, "to_tuple") else output


@pytest.mark.parametrize("class_name", CLASSES)
def test_the_parameters_are_shared_and_the_outputs_equal(class_name):
    theirs = their_model(class_name)
    ours = from_transformers(theirs)
    assert type(ours) is getattr(albert_fast, class_name)
    assert not ours.training
    their_parameters = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter is their_parameters[name]
    assert len(dict(ours.named_parameters())) == len(their_parameters)
    ids = torch.randint(0, 50, (2, 3, 9) if class_name == "AlbertForMultipleChoice" else (2, 9))
    for a, b in zip(outputs(ours, ids), outputs(theirs, ids), strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=0)


def test_training_one_trains_the_other_and_frozen_parameters_stay_frozen():
    theirs = their_model("AlbertForMaskedLM").train()
    theirs.albert.embeddings.requires_grad_(False)
    ours = from_transformers(theirs)
    assert ours.training
    assert not ours.albert.embeddings.word_embeddings.weight.requires_grad
    assert theirs.predictions.dense.weight.requires_grad
    with torch.no_grad():
        ours.predictions.bias.fill_(7)
    assert theirs.predictions.decoder.bias.eq(7).all()


def test_kokoros_plbert_works_with_its_config_and_its_subclass():
    class CustomAlbert(transformers.AlbertModel):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs).last_hidden_state

    config = transformers.AlbertConfig(
        vocab_size=178, hidden_size=96, num_attention_heads=12, intermediate_size=128, max_position_embeddings=512,
        num_hidden_layers=12, dropout=0.1,
    )  # fmt: skip
    theirs = CustomAlbert(config).eval()
    ours = from_transformers(theirs)
    assert ours.config.extra["dropout"] == 0.1
    assert type(ours) is albert_fast.AlbertModel
    ids, mask = torch.randint(0, 178, (2, 40)), torch.ones(2, 40, dtype=torch.long)
    mask[1, 25:] = 0
    with torch.no_grad():
        torch.testing.assert_close(ours(ids, mask).last_hidden_state, theirs(ids, mask), atol=2e-5, rtol=0)


def test_a_model_without_pooler_stays_without():
    theirs = transformers.AlbertModel(their_model("AlbertModel").config, add_pooling_layer=False).eval()
    ours = from_transformers(theirs)
    assert ours.pooler is None
    assert ours(torch.arange(5)[None]).pooler_output is None


@pytest.mark.parametrize("class_name", ["AlbertModel", "AlbertForMaskedLM"])
def test_dtype_casts_into_copies_and_keeps_ties(class_name):
    theirs = their_model(class_name)
    ours = from_transformers(theirs, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in theirs.parameters()} == {torch.float32}
    assert len(list(ours.parameters())) == len(list(theirs.parameters()))
    half = their_model(class_name).to(torch.bfloat16)
    assert from_transformers(half).dtype == torch.bfloat16


def test_untied_decoders_stay_untied():
    theirs = their_model("AlbertForMaskedLM", tie_word_embeddings=False)
    ours = from_transformers(theirs)
    assert ours.predictions.decoder.weight is theirs.predictions.decoder.weight
    assert ours.predictions.decoder.weight is not ours.albert.embeddings.word_embeddings.weight
    ids = torch.arange(9)[None]
    torch.testing.assert_close(outputs(ours, ids)[0], outputs(theirs, ids)[0], atol=2e-6, rtol=0)


@pytest.mark.parametrize("model", [torch.nn.Linear(2, 2), torch.nn.DataParallel(torch.nn.Linear(2, 2))])
def test_what_is_no_albert_is_one_clear_error(model):
    with pytest.raises(ValueError, match=r"torch\.nn.*expected an ALBERT of transformers"):
        from_transformers(model)


def test_a_bert_and_our_own_model_are_one_clear_error():
    config = transformers.BertConfig(
        hidden_size=16, num_attention_heads=2, num_hidden_layers=1, intermediate_size=8, vocab_size=9
    )
    with pytest.raises(ValueError, match="BertModel, expected an ALBERT"):
        from_transformers(transformers.BertModel(config))
    with pytest.raises(ValueError, match="of this library already"):
        from_transformers(from_transformers(their_model("AlbertModel")))


def test_changed_parameters_are_all_listed():
    theirs = their_model("AlbertModel")
    theirs.embeddings.word_embeddings = torch.nn.Embedding(60, 8)
    theirs.extra_layer = torch.nn.Linear(2, 2)
    with pytest.raises(CheckpointError) as error:
        from_transformers(theirs)
    message = str(error.value)
    assert "unexpected (2): extra_layer.weight [2, 2], extra_layer.bias [2]" in message
    assert "albert.embeddings.word_embeddings.weight: found [60, 8], expected [50, 8]" in message


def test_parameters_without_memory_and_loose_ties_are_refused():
    with torch.device("meta"):
        empty = transformers.AlbertModel(their_model("AlbertModel").config)
    with pytest.raises(CheckpointError, match="load its weights first"):
        from_transformers(empty)
    loose = their_model("AlbertForMaskedLM")
    loose.predictions.decoder.weight = torch.nn.Parameter(torch.ones(50, 8))
    with pytest.raises(CheckpointError, match="tie_weights"):
        from_transformers(loose)
