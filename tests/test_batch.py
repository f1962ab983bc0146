"""Batch and ShapeProfile: what may go in, and one clear error for what may not."""

import pytest
import torch

from albert_fast import AlbertConfig, AlbertForMultipleChoice, AlbertModel, Batch, ShapeProfile
from albert_fast.batch import hull, parse_profiles, smallest_fitting

CONFIG = AlbertConfig(
    vocab_size=50, embedding_size=8, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=24,
    max_position_embeddings=12,
)  # fmt: skip
IDS = torch.ones(2, 5, dtype=torch.long)


@pytest.fixture(scope="module")
def model():
    return AlbertModel(CONFIG).eval()


def test_a_batch_fills_what_is_missing():
    ids, mask, types = Batch(IDS).tensors()
    assert mask.tolist() == [[1] * 5] * 2 and types.tolist() == [[0] * 5] * 2 and ids is IDS


def test_a_batch_moves_to_another_dtype():
    batch = Batch(IDS, IDS).to(torch.int32)
    assert batch.input_ids.dtype == torch.int32 and batch.token_type_ids is None


@pytest.mark.parametrize("text", ["1x16:8x128:32x512", "8x128:8x128:8x128"])
def test_a_profile_reads_what_it_writes(text):
    assert str(ShapeProfile.parse(text)) == text


def test_one_shape_is_a_static_profile():
    assert ShapeProfile.parse("8x128") == ShapeProfile(8, 8, 8, 128, 128, 128)


@pytest.mark.parametrize("text", ["", "8", "1x2:3x4", "1x2:3x4:5x6:7x8", "ax1", "-1x2", "1 x 2"])
def test_what_is_no_profile_is_refused(text):
    with pytest.raises(ValueError, match="is no profile; expected MIN:OPT:MAX"):
        ShapeProfile.parse(text)


@pytest.mark.parametrize("sizes", [(2, 1, 3), (0, 1, 2), (1, 4, 3)])
def test_a_profile_whose_sizes_do_not_grow_is_refused(sizes):
    with pytest.raises(ValueError, match="1 <= minimum <= optimum <= maximum"):
        ShapeProfile(*sizes)


def test_a_profile_names_both_dimensions_that_do_not_fit():
    with pytest.raises(ValueError, match=r"batch 33 is outside 1..32 and length 600 is outside 1..512 .*--profile"):
        ShapeProfile().check(33, 600)
    ShapeProfile().check(32, 512)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_ids": IDS * 50}, r"input_ids holds 50, expected 0..49 \(vocab_size is 50\)"),
        ({"input_ids": IDS - 2}, r"input_ids holds -1"),
        (
            {"input_ids": torch.ones(1, 13, dtype=torch.long)},
            r"13 tokens, the model takes at most 12 .*truncation=True",
        ),
        ({"input_ids": IDS[:0]}, "batch is empty"),
        ({"input_ids": IDS[:, :0]}, "batch is empty"),
        ({"input_ids": IDS.float()}, "input_ids is torch.float32, expected torch.int64"),
        ({"input_ids": IDS[0]}, r"input_ids has shape \[5\], expected \[batch, length\]"),
        ({"input_ids": [[1, 2]]}, "input_ids is a list, expected a torch.Tensor"),
        ({"input_ids": IDS, "attention_mask": IDS[:, :4]}, r"attention_mask has shape \[2, 4\], expected \[2, 5\]"),
        ({"input_ids": IDS, "attention_mask": IDS.to(torch.complex64)}, "attention_mask is torch.complex64"),
        ({"input_ids": IDS, "attention_mask": [[1]]}, "attention_mask is a list"),
        ({"input_ids": IDS, "token_type_ids": IDS * 2}, "token_type_ids holds 2, expected 0..1"),
        ({"input_ids": IDS, "token_type_ids": IDS[:1]}, r"token_type_ids has shape \[1, 5\]"),
        ({"input_ids": IDS, "position_ids": IDS * 12}, "position_ids holds 12"),
        ({"input_ids": IDS, "position_ids": IDS[:, :2]}, r"position_ids has shape \[2, 2\]"),
        ({"input_ids": IDS, "inputs_embeds": torch.zeros(2, 5, 8)}, "exactly one of"),
        ({}, "exactly one of"),
        ({"inputs_embeds": torch.zeros(2, 5, 9)}, r"inputs_embeds has shape \[2, 5, 9\], expected \[batch, length, 8"),
        ({"inputs_embeds": torch.zeros(2, 5, 8, dtype=torch.long)}, "inputs_embeds is torch.int64"),
    ],
)
def test_the_model_refuses_bad_input_with_one_clear_error(model, given, message):
    with pytest.raises(ValueError, match=message):
        model(**given)


def test_several_problems_are_told_at_once(model):
    with pytest.raises(ValueError) as error:
        model(torch.ones(2, 13, dtype=torch.long), IDS, IDS)
    assert all(
        part in str(error.value) for part in ("13 tokens", "attention_mask has shape", "token_type_ids has shape")
    )


def test_int32_ids_give_the_answers_of_int64(model):
    with torch.no_grad():
        assert torch.equal(model(IDS.int()).last_hidden_state, model(IDS).last_hidden_state)


def test_multiple_choice_refuses_ids_without_choices():
    with pytest.raises(ValueError, match=r"\[batch, choices, length\], found \[2, 5\]"):
        AlbertForMultipleChoice(CONFIG)(IDS)


def test_several_profiles_are_read_with_commas_between_them() -> None:
    small, large = parse_profiles("1x1:1x32:1x128,4x16:8x128:32x512")
    assert (str(small), str(large)) == ("1x1:1x32:1x128", "4x16:8x128:32x512")
    assert hull([small, large]) == ShapeProfile(1, 1, 32, 1, 32, 512)
    with pytest.raises(ValueError, match="names a profile twice"):
        parse_profiles("1x8,1x8")
    with pytest.raises(ValueError, match="'' is no profile"):
        parse_profiles("1x8,")


def test_the_smallest_profile_that_takes_a_shape_is_found() -> None:
    profiles = parse_profiles("1x1:8x128:32x512,1x1:1x32:1x128,1x1:4x32:4x128")
    assert [smallest_fitting(profiles, *shape) for shape in ((1, 128), (2, 5), (1, 129), (33, 1))] == [1, 2, 0, None]
