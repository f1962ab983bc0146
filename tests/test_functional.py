"""functional and attention: pure arithmetic that stays finite, whatever the dtype and the mask."""

import math

import pytest
import torch

from albert_fast import AlbertConfig, AlbertModel, functional
from albert_fast.attention import ATTENTION, resolve_attention
from albert_fast.config import ACTIVATION_NAMES

CONFIG = AlbertConfig(
    vocab_size=50, embedding_size=8, hidden_size=32, num_hidden_layers=8, num_attention_heads=4, intermediate_size=24,
    initializer_range=0.3, max_position_embeddings=32,
)  # fmt: skip
DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]


def model_in(dtype: torch.dtype, attention: str = "auto") -> AlbertModel:
    torch.manual_seed(0)
    return AlbertModel(CONFIG, attn_implementation=attention).eval().to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("attention", ATTENTION)
def test_a_row_of_all_padding_stays_finite_in_every_dtype(dtype, attention):
    ids = torch.randint(0, 50, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1] = 0
    with torch.no_grad():
        out = model_in(dtype, attention)(ids, mask)
    assert out.last_hidden_state.dtype == dtype
    assert out.last_hidden_state.isfinite().all() and out.pooler_output.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large_scores_next_to_the_mask_stay_finite(dtype):
    bias = functional.attention_bias(torch.zeros(1, 4, dtype=torch.long), dtype)
    scores = torch.tensor([-60000.0, 60000.0, 0.0, -1.0]).to(dtype) / 2
    assert (scores + bias).isfinite().all()


@pytest.mark.parametrize("attention", ATTENTION)
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_changes_no_answer(attention, side):
    model = model_in(torch.float32, attention)
    ids = torch.randint(0, 50, (1, 6), generator=torch.Generator().manual_seed(2))
    padding = torch.full((1, 4), 7)
    row = torch.cat([padding, ids] if side == "left" else [ids, padding], dim=1)
    seen = torch.cat([padding * 0, ids * 0 + 1] if side == "left" else [ids * 0 + 1, padding * 0], dim=1)
    positions = torch.cat(
        [padding * 0, torch.arange(6)[None]] if side == "left" else [torch.arange(6)[None], padding * 0], 1
    )
    with torch.no_grad():
        padded = model(row, seen, position_ids=positions).last_hidden_state[seen.bool()]
        alone = model(ids).last_hidden_state[0]
    torch.testing.assert_close(padded, alone, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("mask_dtype", [torch.int64, torch.int32, torch.bool, torch.float32, torch.uint8], ids=str)
def test_a_mask_of_any_dtype_means_the_same(mask_dtype):
    mask = torch.tensor([[1, 1, 0, 1]])
    bias = functional.attention_bias(mask.to(mask_dtype), torch.float32)
    assert bias.shape == (1, 1, 1, 4)
    assert torch.equal(bias == 0, mask[:, None, None].bool())


@pytest.mark.parametrize("name", [n for n in ATTENTION if n != "eager"])
@pytest.mark.parametrize("head_size", [1, 7, 64])
def test_every_attention_agrees_with_eager(name, head_size):
    q, k, v = torch.randn(3, 2, 4, 11, head_size, generator=torch.Generator().manual_seed(3)).unbind(0)
    mask = torch.ones(2, 11)
    mask[0, 5:] = 0
    bias = functional.attention_bias(mask, torch.float32)
    expected, probabilities = ATTENTION["eager"](q, k, v, bias, dropout_p=0.0)
    answer, _ = ATTENTION[name](q, k, v, bias, dropout_p=0.0)
    torch.testing.assert_close(answer, expected, atol=2e-6, rtol=1e-5)
    assert float(probabilities[0, :, :, 5:].abs().max()) == 0.0


def test_eager_attention_is_the_textbook_formula():
    q, k, v = torch.randn(3, 1, 1, 5, 8, generator=torch.Generator().manual_seed(4)).unbind(0)
    expected = torch.softmax(q @ k.mT / math.sqrt(8), -1) @ v
    torch.testing.assert_close(ATTENTION["eager"](q, k, v, None, dropout_p=0.0)[0], expected)


def test_asking_for_attentions_selects_eager_only_when_nothing_was_chosen():
    assert resolve_attention("auto", need_probabilities=True) is ATTENTION["eager"]
    assert resolve_attention("auto", need_probabilities=False) is ATTENTION["sdpa"]
    with pytest.raises(ValueError, match="output_attentions needs attn_implementation='eager'"):
        model_in(torch.float32, "sdpa")(torch.ones(1, 2, dtype=torch.long), output_attentions=True)


def test_an_unknown_attention_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'flash'.*eager, sdpa"):
        AlbertModel(CONFIG, attn_implementation="flash")


def test_the_table_of_activations_has_every_name_a_config_may_hold():
    assert set(functional.ACTIVATIONS) == set(ACTIVATION_NAMES)


@pytest.mark.parametrize("name", [n for n in ACTIVATION_NAMES if n != "tanh"])
def test_every_activation_is_the_one_transformers_means(name):
    activations = pytest.importorskip("transformers.activations", reason="the reference for activation names")
    x = torch.linspace(-8, 8, 401)
    torch.testing.assert_close(functional.ACTIVATIONS[name](x), activations.ACT2FN[name](x), atol=1e-6, rtol=1e-5)


def test_dropout_acts_in_training_and_only_there():
    model = AlbertModel(CONFIG.replace(hidden_dropout_prob=0.5, attention_probs_dropout_prob=0.5))
    ids = torch.ones(1, 6, dtype=torch.long)
    assert not torch.equal(model(ids).last_hidden_state, model(ids).last_hidden_state)
    model.eval()
    assert torch.equal(model(ids).last_hidden_state, model(ids).last_hidden_state)


def test_the_encoder_reads_the_very_tensors_it_is_given():
    model = model_in(torch.float32)
    layers = model.encoder.layers()
    assert len(layers) == 1 and layers[0].ffn.weight is model.encoder.albert_layer_groups[0].albert_layers[0].ffn.weight
