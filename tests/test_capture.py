"""capture: one whole graph for every head, dynamic as the profile says, holding the shared layer once."""

import pytest
import torch

from albert_fast import AlbertConfig, ShapeProfile
from albert_fast.capture import capture
from albert_fast.heads import HEADS

CONFIG = AlbertConfig(
    vocab_size=120, embedding_size=16, hidden_size=48, num_hidden_layers=5, num_attention_heads=4, intermediate_size=80,
    max_position_embeddings=64,
)  # fmt: skip
PROFILE = ShapeProfile(1, 4, 8, 1, 16, 64)


def model_of(head: str, config: AlbertConfig = CONFIG):
    torch.manual_seed(0)
    return HEADS[head].model_class(config).eval()


def inputs(head: str, batch: int, length: int) -> tuple[torch.Tensor, ...]:
    shape = (batch, 3, length) if HEADS[head].ids_rank == 3 else (batch, length)
    ids = torch.randint(5, CONFIG.vocab_size, shape, generator=torch.Generator().manual_seed(length))
    mask = torch.ones_like(ids)
    mask[0, ..., length // 2 + 1 :] = 0
    return ids, mask, (torch.arange(length) > length // 3).long().expand(shape).contiguous()


@pytest.fixture(scope="module", params=list(HEADS))
def captured(request: pytest.FixtureRequest):
    model = model_of(request.param)
    return request.param, model, capture(model, PROFILE)


def test_a_captured_program_answers_every_shape_of_its_profile_as_the_model_does(captured):
    head, model, program = captured
    run = program.module()
    for batch, length in ((1, 1), (1, 64), (8, 1), (8, 64), (3, 17)):
        arguments = inputs(head, batch, length)
        with torch.no_grad():
            answer, expected = run(*arguments), model(*arguments)
        assert tuple(answer) == HEADS[head].outputs
        for name in answer:
            torch.testing.assert_close(answer[name], expected[name], atol=2e-6, rtol=1e-5)


def test_a_captured_program_refers_to_each_weight_once(captured):
    _, model, program = captured
    held = {t.data_ptr(): t.numel() for t in [*program.state_dict.values(), *program.constants.values()]}
    assert sum(held.values()) == sum(p.numel() for p in model.parameters())
    layer = model.get_submodule("encoder" if hasattr(model, "encoder") else "albert.encoder").albert_layer_groups[0]
    linears = [n for n in program.graph.nodes if n.target is torch.ops.aten.linear.default]
    ffn = next(k for k, v in program.state_dict.items() if v is layer.albert_layers[0].ffn.weight)
    placeholder = next(k for k, v in program.graph_signature.inputs_to_parameters.items() if v == ffn)
    assert sum(n.args[1].name == placeholder for n in linears) == CONFIG.num_hidden_layers


def test_the_program_refuses_shapes_outside_the_profile(captured):
    head, _, program = captured
    with pytest.raises((AssertionError, RuntimeError), match=r"[Gg]uard|<= 8|expected"):
        program.module()(*inputs(head, 9, 16))


def test_a_static_profile_gives_a_static_program():
    program = capture(model_of("base"), ShapeProfile(2, 2, 2, 16, 16, 16))
    ids = next(n for n in program.graph.nodes if n.op == "placeholder" and n.name == "input_ids")
    assert list(ids.meta["val"].shape) == [2, 16]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_is_an_argument_of_the_captured_graph(attention):
    torch.manual_seed(0)
    model = HEADS["base"].model_class(CONFIG, attn_implementation=attention).eval()
    targets = [str(n.target) for n in capture(model, PROFILE).graph.nodes]
    fused = sum("scaled_dot_product_attention" in t for t in targets)
    softmaxes = sum("softmax" in t for t in targets)
    assert (fused, softmaxes) == ((5, 0) if attention == "sdpa" else (0, 5))


def test_groups_and_inner_layers_are_captured_in_their_order():
    config = CONFIG.replace(num_hidden_layers=6, num_hidden_groups=2, inner_group_num=2)
    model = model_of("base", config)
    program = capture(model, PROFILE)
    arguments = inputs("base", 2, 9)
    with torch.no_grad():
        torch.testing.assert_close(
            program.module()(*arguments)["last_hidden_state"], model(*arguments).last_hidden_state, atol=2e-6, rtol=1e-5
        )


def test_capture_refuses_a_profile_longer_than_the_positions():
    with pytest.raises(ValueError, match=r"length 512.*64 positions"):
        capture(model_of("base"), ShapeProfile())


def test_capture_refuses_a_model_in_training_mode():
    with pytest.raises(ValueError, match=r"model\.eval\(\)"):
        capture(model_of("base").train(), PROFILE)
