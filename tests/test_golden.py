"""Golden: equality with ``transformers`` on random weights, where one layer serves several passes.

Each case is one config x one shape x one mask; the bound is 2e-5 of max abs difference in float32.
"""

import itertools

import pytest
import torch

import albert_fast
from albert_fast import AlbertConfig

transformers = pytest.importorskip(
    "transformers", reason="the reference implementation: pip install 'albert-fast[dev]'"
)

BOUND = 2e-5
HEADS = {
    "AlbertModel": {},
    "AlbertForPreTraining": {},
    "AlbertForMaskedLM": {},
    "AlbertForSequenceClassification": {"num_labels": 5},
    "AlbertForTokenClassification": {"num_labels": 7},
    "AlbertForQuestionAnswering": {},
    "AlbertForMultipleChoice": {},
}
SMALL = dict(
    vocab_size=97, embedding_size=16, hidden_size=48, num_hidden_layers=6, num_attention_heads=4, intermediate_size=72,
    max_position_embeddings=80, initializer_range=0.2,
)  # fmt: skip
CONFIGS = {
    "12 passes of one layer": SMALL | {"num_hidden_layers": 12},
    "24 passes of one layer, relu": SMALL | {"num_hidden_layers": 24, "hidden_act": "relu"},
    "erf gelu as in v1": SMALL | {"hidden_act": "gelu"},
    "one head": SMALL | {"num_attention_heads": 1},
    "three heads of odd size 17": SMALL | {"hidden_size": 51, "num_attention_heads": 3},
    "embedding as wide as hidden": SMALL | {"embedding_size": 48},
    "four types, large eps": SMALL | {"type_vocab_size": 4, "layer_norm_eps": 1e-5},
    "two groups of four passes": SMALL | {"num_hidden_layers": 8, "num_hidden_groups": 2},
    "three groups over eight layers": SMALL | {"num_hidden_layers": 8, "num_hidden_groups": 3},
    "two inner layers": SMALL | {"num_hidden_layers": 4, "inner_group_num": 2},
    "swish, vocabulary of 178 as in PL-BERT": SMALL | {"vocab_size": 178, "hidden_act": "swish"},
    "untied decoder": SMALL | {"tie_word_embeddings": False},
}
SHAPES = {"1x1": (1, 1), "2x80": (2, 80), "5x13": (5, 13)}
MASKS = ("none", "right padding", "left padding", "one row all padding", "3-D")


def reference(name: str, values: dict, *, attention: str = "eager"):
    torch.manual_seed(1)
    config = transformers.AlbertConfig(**values, **HEADS[name], attn_implementation=attention)
    theirs = getattr(transformers, name)(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():  # biases and LayerNorms start at 0 and 1, which would hide a swap
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return theirs


def pair(name: str, values: dict, *, attention: str = "auto"):
    theirs = reference(name, values)
    ours = getattr(albert_fast, name)(AlbertConfig(**values, **HEADS[name]), attn_implementation=attention).eval()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def arguments(name: str, values: dict, shape: tuple[int, int], mask: str) -> dict[str, torch.Tensor]:
    batch, length = shape
    generator = torch.Generator().manual_seed(batch * 100 + length)
    size = (batch, 3, length) if name == "AlbertForMultipleChoice" else (batch, length)
    given = {
        "input_ids": torch.randint(0, values["vocab_size"], size, generator=generator),
        "token_type_ids": torch.randint(0, values.get("type_vocab_size", 2), size, generator=generator),
    }
    seen = torch.ones(size, dtype=torch.long)
    if mask == "right padding":
        seen[0, ..., length // 2 + 1 :] = 0
    elif mask == "left padding":
        seen[0, ..., : length // 2] = 0
    elif mask == "one row all padding":
        seen[-1] = 0
    elif mask == "3-D":
        seen = torch.ones(batch, length, length, dtype=torch.long).tril()
    return given if mask == "none" else given | {"attention_mask": seen}


def largest_difference(ours, theirs) -> float:
    assert list(ours.keys()) == list(theirs.keys())
    flat = [[t for v in out.values() for t in (v if isinstance(v, tuple) else [v])] for out in (ours, theirs)]
    assert [t.shape for t in flat[0]] == [t.shape for t in flat[1]]
    assert all(t.isfinite().all() for t in flat[0])
    return max(float((a - b).abs().max()) for a, b in zip(*flat, strict=True))


CASES = [
    *((name, config, "5x13", mask) for name, config, mask in zip(
        itertools.cycle(HEADS), itertools.chain.from_iterable(itertools.repeat(c, 4) for c in CONFIGS),
        itertools.cycle(MASKS[:4]))),
    *(("AlbertModel", "12 passes of one layer", shape, mask) for shape in SHAPES for mask in MASKS),
    *((name, "erf gelu as in v1", "2x80", "right padding") for name in HEADS),
]  # fmt: skip


def test_there_are_at_least_sixty_golden_cases():
    assert len(set(CASES)) >= 60


@pytest.mark.parametrize(("name", "config", "shape", "mask"), CASES, ids=lambda v: str(v).replace(" ", "-"))
def test_outputs_equal_those_of_transformers(name, config, shape, mask):
    values = CONFIGS[config]
    given = arguments(name, values, SHAPES[shape], mask)
    for attention in ("eager", "sdpa"):
        ours, theirs = pair(name, values, attention=attention)
        if mask == "3-D":  # transformers takes a 3-D mask only as the additive 4-D one
            bias = (1.0 - given["attention_mask"][:, None].float()) * torch.finfo(torch.float32).min
            reference_arguments = given | {"attention_mask": bias}
        else:
            reference_arguments = given
        with torch.no_grad():
            assert largest_difference(ours(**given), theirs(**reference_arguments)) <= BOUND


@pytest.mark.parametrize("name", HEADS)
def test_hidden_states_and_attentions_equal_those_of_transformers(name):
    values = CONFIGS["two inner layers"]
    ours, theirs = pair(name, values)
    given = arguments(name, values, (3, 11), "right padding") | {
        "output_hidden_states": True,
        "output_attentions": True,
    }
    with torch.no_grad():
        mine, expected = ours(**given), theirs(**given)
    assert len(mine.hidden_states) == 9 and len(mine.attentions) == 8
    assert largest_difference(mine, expected) <= BOUND


@pytest.mark.parametrize("name", ["AlbertModel", "AlbertForMaskedLM"])
def test_inputs_embeds_and_position_ids_equal_those_of_transformers(name):
    values = CONFIGS["12 passes of one layer"]
    ours, theirs = pair(name, values)
    given = {"inputs_embeds": torch.randn(2, 9, 16), "position_ids": torch.arange(9, 0, -1)[None] * 7}
    with torch.no_grad():
        assert largest_difference(ours(**given), theirs(**given)) <= BOUND


LABELS = {
    "AlbertForPreTraining": lambda: {"labels": token_labels(97), "sentence_order_label": torch.tensor([0, 1, 1])},
    "AlbertForMaskedLM": lambda: {"labels": token_labels(97)},
    "AlbertForSequenceClassification": lambda: {"labels": torch.tensor([4, 0, 2])},
    "AlbertForTokenClassification": lambda: {"labels": token_labels(7)},
    "AlbertForQuestionAnswering": lambda: {
        "start_positions": torch.tensor([1, 0, 99]), "end_positions": torch.tensor([[2], [5], [99]])
    },
    "AlbertForMultipleChoice": lambda: {"labels": torch.tensor([2, 0, 1])},
}  # fmt: skip


def token_labels(classes: int) -> torch.Tensor:
    labels = torch.randint(0, classes, (3, 11), generator=torch.Generator().manual_seed(3))
    labels[:, ::2] = -100
    return labels


@pytest.mark.parametrize("name", LABELS)
def test_losses_and_their_gradients_equal_those_of_transformers(name):
    ours, theirs = pair(name, SMALL)
    given = arguments(name, SMALL, (3, 11), "right padding") | LABELS[name]()
    mine, expected = ours(**given), theirs(**given)
    assert abs(mine.loss.item() - expected.loss.item()) <= BOUND
    mine.loss.backward()
    expected.loss.backward()
    gradients = dict(theirs.named_parameters())
    for key, parameter in ours.named_parameters():
        torch.testing.assert_close(
            parameter.grad, gradients[key].grad, atol=2e-5, rtol=1e-3, msg=lambda m, k=key: f"{k}: {m}"
        )


@pytest.mark.parametrize(
    ("labels", "num_labels", "problem_type"),
    [
        (torch.randn(3), 1, None),
        (torch.randn(3, 5), 5, "regression"),
        (torch.randint(0, 2, (3, 5)).float(), 5, None),
        (torch.tensor([1, 4, 0]), 5, None),
    ],
    ids=["one number", "five numbers", "several labels", "one label"],
)
def test_every_kind_of_classification_loss_equals_that_of_transformers(labels, num_labels, problem_type):
    values = SMALL | {"num_labels": num_labels, "problem_type": problem_type}
    torch.manual_seed(1)
    theirs = transformers.AlbertForSequenceClassification(transformers.AlbertConfig(**values)).eval()
    ours = albert_fast.AlbertForSequenceClassification(AlbertConfig(**values)).eval()
    ours.load_state_dict(theirs.state_dict())
    ids = torch.randint(0, 97, (3, 11))
    assert abs(ours(ids, labels=labels).loss.item() - theirs(ids, labels=labels).loss.item()) <= BOUND


@pytest.mark.parametrize("name", HEADS)
def test_return_dict_false_gives_the_same_tuple_as_transformers(name):
    ours, theirs = pair(name, SMALL)
    given = arguments(name, SMALL, (2, 7), "none") | {"return_dict": False}
    with torch.no_grad():
        mine, expected = ours(**given), theirs(**given)
    assert isinstance(mine, tuple) and len(mine) == len(expected)
    assert max(float((a - b).abs().max()) for a, b in zip(mine, expected, strict=True)) <= BOUND


@pytest.mark.parametrize("name", HEADS)
def test_state_dict_keys_are_those_of_transformers(name):
    ours, theirs = pair(name, SMALL)
    assert set(ours.state_dict()) == set(theirs.state_dict())
    tied = sum(p.numel() for p in ours.parameters()), sum(p.numel() for p in theirs.parameters())
    assert tied[0] == tied[1]


@pytest.mark.parametrize("size", ["base", "large", "xlarge", "xxlarge"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_published_sizes_have_their_published_parameter_counts(size, version):
    counts = {"base": 11_683_584, "large": 17_683_968, "xlarge": 58_724_864, "xxlarge": 222_595_584}
    with torch.device("meta"):
        model = albert_fast.AlbertModel(AlbertConfig.published(f"albert-{size}-{version}"))
    assert sum(p.numel() for p in model.parameters()) == counts[size]
