"""The TF classes against our PyTorch ones on the same weights: outputs, losses, gradients, and ways to call them."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from tensorflow_samples import CLASSES, SMALL, in_numpy, largest_difference, pair, same_in_tensorflow, tf, torch_model
from test_golden import CASES, CONFIGS, SHAPES, arguments

import albert_fast
from albert_fast.tensorflow import functional
from albert_fast.tensorflow.outputs import TFSequenceClassifierOutput

BOUND = 2e-5
IDS = np.array([[2, 9, 8, 3, 0], [2, 5, 7, 11, 3]])
MASK = (IDS != 0).astype(np.int64)

# The golden cases; those of heads that TensorFlow never got here go to the three that it has, in turn.
OURS = list(
    dict.fromkeys(
        (name if name in CLASSES else CLASSES[number % 3], config, shape, mask)
        for number, (name, config, shape, mask) in enumerate(CASES)
    )
)


def test_there_are_at_least_sixty_cases() -> None:
    assert len(OURS) >= 60


@pytest.mark.parametrize(("name", "config", "shape", "mask"), OURS, ids=lambda v: str(v).replace(" ", "-"))
def test_outputs_equal_those_of_the_torch_class(name: str, config: str, shape: str, mask: str) -> None:
    ours, theirs = pair(name, CONFIGS[config])
    given = arguments(name, CONFIGS[config], SHAPES[shape], mask)
    with torch.no_grad():
        assert largest_difference(ours(**in_numpy(given)), theirs(**given)) <= BOUND


@pytest.mark.parametrize("name", CLASSES)
def test_hidden_states_and_attentions_equal_those_of_the_torch_class(name: str) -> None:
    ours, theirs = pair(name, CONFIGS["two inner layers"])
    given = arguments(name, CONFIGS["two inner layers"], (3, 11), "right padding")
    given |= {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        mine, expected = ours(**in_numpy(given)), theirs(**given)
    assert len(mine.hidden_states) == 9 and len(mine.attentions) == 8
    assert largest_difference(mine, expected) <= BOUND


@pytest.mark.parametrize("name", ["AlbertModel", "AlbertForMaskedLM"])
def test_inputs_embeds_and_position_ids_equal_those_of_the_torch_class(name: str) -> None:
    ours, theirs = pair(name, SMALL)
    given = {"inputs_embeds": torch.randn(2, 9, 16), "position_ids": torch.arange(9, 0, -1)[None] * 7}
    with torch.no_grad():
        assert largest_difference(ours(**in_numpy(given)), theirs(**given)) <= BOUND


@pytest.mark.parametrize("act", functional.ACTIVATIONS)
def test_every_activation_equals_that_of_the_torch_class(act: str) -> None:
    ours, theirs = pair("AlbertModel", SMALL | {"hidden_act": act, "num_hidden_layers": 2})
    with torch.no_grad():
        assert largest_difference(ours(IDS), theirs(torch.tensor(IDS))) <= BOUND


# -- losses and gradients ------------------------------------------------------------------------------------------


def masked_labels() -> torch.Tensor:
    labels = torch.randint(0, 97, (3, 11), generator=torch.Generator().manual_seed(3))
    labels[:, ::2] = -100
    return labels


@pytest.mark.parametrize(
    ("name", "labels", "changes"),
    [
        ("AlbertForMaskedLM", masked_labels(), {}),
        ("AlbertForSequenceClassification", torch.tensor([4, 0, 2]), {"num_labels": 5}),
        ("AlbertForSequenceClassification", torch.tensor([4, -100, 2]), {"num_labels": 5}),
        ("AlbertForSequenceClassification", torch.randn(3), {"num_labels": 1}),
        ("AlbertForSequenceClassification", torch.randn(3, 5), {"num_labels": 5, "problem_type": "regression"}),
        ("AlbertForSequenceClassification", torch.randint(0, 2, (3, 5)).float(), {"num_labels": 5}),
    ],
    ids=["masked words", "one label", "one ignored", "one number", "five numbers", "several labels"],
)
def test_losses_and_their_gradients_equal_those_of_the_torch_class(
    name: str, labels: torch.Tensor, changes: dict
) -> None:
    ours, theirs = pair(name, SMALL | changes)
    given = arguments(name, SMALL, (3, 11), "right padding") | {"labels": labels}
    expected = theirs(**given)
    expected.loss.backward()
    with tf.GradientTape() as tape:
        mine = ours(**in_numpy(given))
    assert mine.loss.shape == ()
    assert largest_difference(mine, expected) <= BOUND
    rows = ours.named_weights()
    found = tape.gradient(mine.loss, [variable.value for variable, _ in rows.values()])
    wanted = dict(theirs.named_parameters())
    for (key, (_, transposed)), gradient in zip(rows.items(), found, strict=True):
        array = tf.convert_to_tensor(gradient).numpy()
        np.testing.assert_allclose(array.T if transposed else array, wanted[key].grad, atol=1e-4, rtol=0, err_msg=key)


def test_an_unknown_problem_type_is_refused_with_the_known_ones() -> None:
    ours, _ = pair("AlbertForSequenceClassification", SMALL | {"problem_type": "ranking"})
    with pytest.raises(ValueError, match="problem_type is 'ranking', expected one of regression"):
        ours(IDS, labels=[0, 1])


# -- dtype policies ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "weights", "outputs", "bound"),
    [
        ("mixed_bfloat16", "float32", "bfloat16", 0.15),
        ("mixed_float16", "float32", "float16", 0.01),
        ("bfloat16", "bfloat16", "bfloat16", 0.15),
        ("float16", "float16", "float16", 0.01),
        ("float64", "float64", "float64", 2e-5),
    ],
)
def test_a_dtype_policy_is_kept_and_stays_close_to_float32(policy, weights, outputs, bound) -> None:
    theirs = torch_model("AlbertForSequenceClassification", SMALL)
    ours = same_in_tensorflow(theirs, policy)
    mask = MASK * [[1], [0]]  # one row of all padding
    mine = ours(IDS, attention_mask=mask, labels=[0, 1])
    assert {variable.dtype for variable in ours.weights} == {weights}
    assert mine.logits.dtype.name == outputs
    assert mine.loss.dtype.name == ("float64" if policy == "float64" else "float32")
    with torch.no_grad():
        expected = theirs(torch.tensor(IDS), torch.tensor(mask), labels=torch.tensor([0, 1]))
    assert largest_difference(mine, expected) <= bound


def test_layer_norm_and_softmax_are_computed_in_float32() -> None:
    norm = functional.Affine(tf.ones(4), tf.zeros(4))
    same_values = tf.constant([[1, 1, 1, 1]], tf.float16)  # variance 0, and eps 1e-12 is 0 in float16
    assert functional.layer_norm(same_values, norm, 1e-12).numpy().tolist() == [[0, 0, 0, 0]]
    ours = same_in_tensorflow(torch_model("AlbertModel", SMALL), "mixed_float16")
    graph = tf.function(lambda ids: ours(ids).last_hidden_state).get_concrete_function(tf.TensorSpec([1, 4], tf.int32))
    kinds = {op.type: {t.dtype.name for t in op.inputs} for op in graph.graph.get_operations()}
    assert kinds["Softmax"] == {"float32"}
    assert kinds["Rsqrt"] == {"float32"}
    assert kinds["BiasAdd"] == {"float16"}


def test_the_global_policy_of_keras_is_taken_where_none_is_given() -> None:
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert albert_fast.TFAlbertModel(albert_fast.AlbertConfig(**SMALL)).compute_dtype == "bfloat16"
    finally:
        keras.config.set_dtype_policy(before)


# -- ways to call --------------------------------------------------------------------------------------------------


def test_every_way_to_pass_inputs_gives_the_same() -> None:
    ours, _ = pair("AlbertForSequenceClassification", SMALL)
    types = np.zeros_like(IDS)
    types[:, 3:] = 1
    expected = ours(input_ids=IDS, attention_mask=MASK, token_type_ids=types).logits.numpy()
    forms = {
        "dict": lambda: ours({"input_ids": IDS, "attention_mask": MASK, "token_type_ids": types}),
        "dict and keyword": lambda: ours({"input_ids": IDS, "token_type_ids": types}, attention_mask=MASK),
        "list": lambda: ours([IDS, MASK, types]),
        "tuple as keyword": lambda: ours(input_ids=(IDS, MASK, types)),
        "position": lambda: ours(IDS, MASK, types, training=False),
        "TF tensors": lambda: ours(tf.constant(IDS), tf.constant(MASK), tf.constant(types)),
        "int32": lambda: ours(IDS.astype(np.int32), MASK.astype(np.int32), types.astype(np.int32)),
        "floating mask": lambda: ours(IDS, MASK.astype(np.float32), types),
        "torch tensors": lambda: ours(*map(torch.tensor, (IDS, MASK, types))),
        "None between": lambda: ours([IDS, MASK, types, None]),
    }
    for form, call in forms.items():
        np.testing.assert_array_equal(call().logits.numpy(), expected, err_msg=form)


def test_what_our_tokenizer_returns_can_be_passed_on() -> None:
    tokenizer = albert_fast.AlbertTokenizer.from_pretrained("albert-fast/wordnet")
    model = albert_fast.TFAlbertForSequenceClassification.from_pretrained("albert-fast/wordnet")
    out = model(tokenizer(["a bird of prey", "quickly"], padding=True, return_tensors="np"))
    named = [model.config.id2label[int(i)].split(".")[0] for i in tf.argmax(out.logits, -1)]
    assert named == ["noun", "adv"]


def test_outputs_are_read_by_attribute_name_and_position() -> None:
    ours, _ = pair("AlbertForSequenceClassification", SMALL)
    out = ours(IDS, labels=[0, 1], output_hidden_states=True)
    assert isinstance(out, TFSequenceClassifierOutput)
    assert list(out) == ["loss", "logits", "hidden_states"]
    assert out[0] is out["loss"] is out.loss
    assert out[1:][0] is out.logits
    assert out.attentions is None and "attentions" not in out and out.get("attentions") is None
    assert out.to_tuple()[1] is out.logits
    with pytest.raises(AttributeError, match="has no 'last_hidden_state'"):
        _ = out.last_hidden_state


def test_return_dict_false_gives_a_tuple() -> None:
    ours, _ = pair("AlbertModel", SMALL)
    last, pooled = ours(IDS, return_dict=False)
    assert last.shape == (2, 5, 48) and pooled.shape == (2, 48)
    ours, _ = pair("AlbertForMaskedLM", SMALL | {"return_dict": False, "output_attentions": True})
    logits, attentions = ours(IDS)
    assert logits.shape == (2, 5, 97) and len(attentions) == 6


def test_dropout_acts_in_training_only_and_follows_the_seed_of_keras() -> None:
    import keras

    def trained() -> np.ndarray:
        keras.utils.set_random_seed(5)
        values = SMALL | {"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.3}
        ours, _ = pair("AlbertForSequenceClassification", values)
        still = ours(IDS).logits.numpy()
        np.testing.assert_array_equal(ours(IDS, training=False).logits.numpy(), still)
        moved = ours(IDS, training=True).logits.numpy()
        assert abs(moved - still).max() > 1e-3
        return moved

    np.testing.assert_array_equal(trained(), trained())


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"input_ids": IDS + 95}, "input_ids holds 106, expected 0..96"),
        ({"input_ids": IDS, "token_type_ids": IDS}, "token_type_ids holds 11, expected 0..1"),
        ({"input_ids": np.ones((1, 81), int)}, "81 tokens, the model takes at most 80"),
        ({"input_ids": IDS, "attention_mask": MASK[:, :3]}, r"attention_mask has shape \(2, 3\), expected \[2, 5\]"),
        ({"input_ids": IDS[0]}, r"input_ids has shape \(5,\), expected \[batch, length\]"),
        ({"input_ids": IDS.astype(float)}, "input_ids is float64, expected int32 or int64"),
        ({"input_ids": IDS[:, :0]}, "the batch is empty"),
        ({}, "exactly one of input_ids and inputs_embeds"),
        ({"inputs_embeds": np.ones((1, 2, 3))}, r"expected \[batch, length, 16 \(embedding_size\)\]"),
        ({"input_ids": IDS, "head_mask": np.ones((6, 4))}, "head_mask is given"),
        ({"input_ids": {"input_ids": IDS, "offset_mapping": IDS}}, "offset_mapping, which it does not know"),
        ({"input_ids": {"input_ids": IDS, "attention_mask": MASK}, "attention_mask": MASK}, "attention_mask twice"),
    ],
)
def test_wrong_inputs_are_refused_in_words(inputs: dict, words: str) -> None:
    ours, _ = pair("AlbertModel", SMALL)
    with pytest.raises(ValueError, match=words):
        ours(**inputs)


def test_a_list_of_rows_is_told_from_a_list_of_inputs() -> None:
    ours, _ = pair("AlbertModel", SMALL)
    with pytest.raises(ValueError, match="for rows of ids pass an array"):
        ours([[2, 9, 3], [2, 8, 3]])


def test_a_foreign_config_is_refused() -> None:
    with pytest.raises(ValueError, match=r"config is a dict, expected albert_fast\.AlbertConfig"):
        albert_fast.TFAlbertModel({})


# -- what is imported when -----------------------------------------------------------------------------------------


def run(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def test_a_tf_model_runs_in_a_process_without_torch() -> None:
    done = run(
        "import sys; sys.modules['torch'] = None\n"
        "import albert_fast\n"
        f"model = albert_fast.TFAlbertForMaskedLM(albert_fast.AlbertConfig(**{SMALL}))\n"
        "assert model([[[2, 5, 3]]]).logits.shape == (1, 3, 97)\n"
    )
    assert done.returncode == 0, done.stderr


def test_without_tensorflow_the_message_says_what_to_install() -> None:
    done = run("import sys; sys.modules['tensorflow'] = None\nimport albert_fast; albert_fast.TFAlbertModel")
    assert "MissingDependencyError: tensorflow is needed to run ALBERT in TensorFlow" in done.stderr
    assert "pip install 'albert-fast[tensorflow]'" in done.stderr


def test_another_backend_of_keras_is_refused_with_the_variable_to_set() -> None:
    done = run("import albert_fast; albert_fast.TFAlbertModel", KERAS_BACKEND="torch")
    assert "Keras runs on 'torch'" in done.stderr
    assert "KERAS_BACKEND=tensorflow" in done.stderr
