"""The TF classes in the hands of TensorFlow and Keras: XLA, fit, predict, functional models, .keras files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tensorflow_samples import CLASSES, SMALL, largest_difference, pair, tf

import albert_fast

keras = pytest.importorskip("keras", reason="needs Keras: pip install 'albert-fast[tensorflow]'")

NAME = "albert-fast/wordnet"
HELD_OUT = Path(__file__).parent / "data/wordnet_heldout.tsv"
KINDS = ("noun", "verb", "adj", "adv")
WAYS = ("beside the inputs", "among the inputs", "a tf.data pipeline", "a loss of one's own")
ANY_SHAPE = tf.TensorSpec([None, None], tf.int32)


def batch(rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(length).integers(1, 97, (rows, length), dtype=np.int32)
    mask = np.ones_like(ids)
    mask[0, length // 2 + 1 :] = 0
    return ids, mask


# -- XLA -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSES)
def test_xla_compiles_a_model_whole_and_one_trace_serves_every_shape(name: str) -> None:
    ours, _ = pair(name, SMALL)
    compiled = tf.function(
        lambda ids, mask: ours(ids, attention_mask=mask), jit_compile=True, input_signature=[ANY_SHAPE, ANY_SHAPE]
    )
    for shape in ((1, 1), (2, 80), (3, 7)):
        ids, mask = batch(*shape)
        out = compiled(ids, mask)
        assert type(out) is type(ours(ids))
        assert largest_difference(out, ours(ids, attention_mask=mask)) <= 2e-5
    assert compiled.experimental_get_tracing_count() == 1


def test_xla_compiles_the_gradients_of_a_training_step() -> None:
    values = {"num_hidden_layers": 2, "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    ours, _ = pair("AlbertForSequenceClassification", SMALL | values)

    @tf.function(jit_compile=True)
    def step(ids: object, mask: object, labels: object) -> object:
        with tf.GradientTape() as tape:
            loss = ours(ids, mask, labels=labels, training=True).loss
        return loss, tape.gradient(loss, [weight.value for weight in ours.trainable_weights])

    loss, gradients = step(*batch(2, 9), np.array([0, 1]))
    assert np.isfinite(loss)
    assert all(np.isfinite(tf.convert_to_tensor(gradient).numpy()).all() for gradient in gradients)


def test_a_half_precision_policy_compiles_too() -> None:
    ours = albert_fast.TFAlbertForMaskedLM.from_pretrained(NAME, dtype="mixed_bfloat16")
    exact = albert_fast.TFAlbertForMaskedLM.from_pretrained(NAME)
    ids, mask = batch(2, 12)
    found = tf.function(lambda: ours(ids, mask).logits, jit_compile=True)()
    agreement = np.mean(tf.argmax(found, -1) == tf.argmax(exact(ids, mask).logits, -1))
    assert agreement >= 0.95


def test_the_graph_reads_every_weight_once_whatever_the_passes() -> None:
    def reads(passes: int) -> int:
        ours = albert_fast.TFAlbertModel(albert_fast.AlbertConfig(**SMALL | {"num_hidden_layers": passes}))
        graph = tf.function(lambda ids: ours(ids).pooler_output).get_concrete_function(ANY_SHAPE).graph
        assert len(graph.variables) == len(ours.weights)
        return sum(op.type == "ReadVariableOp" for op in graph.get_operations())

    assert reads(24) == reads(1) == 25


def test_sizes_are_compared_while_tracing_and_values_by_the_graph() -> None:
    ours, _ = pair("AlbertModel", SMALL)
    run = tf.function(lambda ids: ours(ids).last_hidden_state)
    with pytest.raises(ValueError, match="81 tokens, the model takes at most 80"):
        run(np.ones((1, 81), np.int32))
    with pytest.raises(tf.errors.InvalidArgumentError, match="97 is not in"):
        run(np.full((1, 3), 97, np.int32))


# -- Keras ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def glosses() -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Real glosses and their part of speech."""
    rows = [line.split("\t") for line in HELD_OUT.read_text(encoding="utf-8").splitlines()[:256]]
    tokenizer = albert_fast.AlbertTokenizer.from_pretrained(NAME)
    texts = [gloss for _, _, gloss in rows]
    encoded = tokenizer(texts, padding="max_length", truncation=True, max_length=24, return_tensors="np")
    return dict(encoded), np.array([KINDS.index(lexname.split(".")[0]) for lexname, _, _ in rows])


def new_head(tmp_path: Path, **options: object) -> object:
    """The embedded encoder under a new classifier of four classes."""
    folder = tmp_path / "encoder"
    albert_fast.AlbertModel.from_pretrained(NAME).save_pretrained(folder)
    keras.utils.set_random_seed(2)
    return albert_fast.TFAlbertForSequenceClassification.from_pretrained(folder, num_labels=4, strict=False, **options)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_fit_fine_tunes_a_classifier_on_real_text(policy: str, glosses: tuple, tmp_path: Path) -> None:
    inputs, labels = glosses
    model = new_head(tmp_path, dtype=policy)
    xla = policy == "float32"  # compiling twelve passes and their gradients takes some seconds
    model.compile(optimizer=keras.optimizers.AdamW(1e-3), metrics=["accuracy"], jit_compile=xla)
    history = model.fit(inputs, labels, batch_size=32, epochs=2, verbose=0).history
    assert history["loss"][1] < 0.5 * history["loss"][0]
    assert history["accuracy"][1] > 0.9 > np.mean(labels == 0)


@pytest.mark.parametrize("where", WAYS)
def test_labels_and_losses_may_come_in_every_way_that_they_did(where: str, glosses: tuple) -> None:
    inputs, labels = {name: array[:8] for name, array in glosses[0].items()}, glosses[1][:8]
    ours, _ = pair("AlbertForSequenceClassification", SMALL | {"vocab_size": 10000, "num_labels": 4})
    expected = float(ours(inputs, labels=labels).loss)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True) if where == "a loss of one's own" else None
    ours.compile(optimizer="sgd", loss=loss, metrics=["accuracy"])
    given = {
        "among the inputs": ({**inputs, "labels": labels},),
        "a tf.data pipeline": (tf.data.Dataset.from_tensor_slices((inputs, labels)).batch(8),),
    }.get(where, (inputs, labels))
    found = ours.evaluate(*given, verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(expected, abs=1e-5)
    assert found["accuracy"] == np.mean(tf.argmax(ours(inputs).logits, -1) == labels)


def test_masked_words_are_learnt_by_fit() -> None:
    ours, _ = pair("AlbertForMaskedLM", SMALL | {"num_hidden_layers": 2})
    ids, mask = batch(4, 9)
    labels = np.where(np.arange(9) % 3 == 0, ids, -100)
    ours.compile(optimizer=keras.optimizers.Adam(1e-2))
    history = ours.fit({"input_ids": ids, "attention_mask": mask, "labels": labels}, epochs=20, verbose=0).history
    assert history["loss"][-1] < 0.5 * history["loss"][0]


def test_predict_gives_arrays_of_all_batches_in_the_models_own_output() -> None:
    ours, _ = pair("AlbertForSequenceClassification", SMALL)
    ids, mask = batch(5, 7)
    found = ours.predict({"input_ids": ids, "attention_mask": mask}, batch_size=2, verbose=0)
    assert type(found) is type(ours(ids))
    assert isinstance(found.logits, np.ndarray)
    np.testing.assert_allclose(found.logits, ours(ids, mask).logits, atol=1e-6)


def test_training_without_labels_or_a_loss_is_refused_in_words() -> None:
    ours, _ = pair("AlbertForSequenceClassification", SMALL)
    ours.compile(optimizer="sgd", run_eagerly=True)
    ids, _ = batch(2, 5)
    with pytest.raises(ValueError, match="there are no labels to learn from"):
        ours.fit({"input_ids": ids}, verbose=0)
    with pytest.raises(ValueError, match="takes no sample weights"):
        ours.fit({"input_ids": ids}, np.array([0, 1]), sample_weight=np.ones(2), verbose=0)
    encoder, _ = pair("AlbertModel", SMALL)
    encoder.compile(optimizer="sgd", run_eagerly=True)
    with pytest.raises(ValueError, match="TFAlbertModel has no loss of its own"):
        encoder.fit({"input_ids": ids}, np.array([0, 1]), verbose=0)


def test_the_encoder_is_a_layer_of_a_functional_keras_model() -> None:
    encoder, _ = pair("AlbertModel", SMALL)
    ids = keras.Input((None,), dtype="int32", name="input_ids")
    mask = keras.Input((None,), dtype="int32", name="attention_mask")
    out = encoder(ids, attention_mask=mask)
    assert out.last_hidden_state.shape == (None, None, 48)
    model = keras.Model([ids, mask], keras.layers.Dense(3)(out.pooler_output))
    given = batch(3, 6)
    np.testing.assert_allclose(model(given), model.layers[-1](encoder(*given)[1]), atol=1e-6)
    model.compile(optimizer="sgd", loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before = encoder.weights[0].numpy()
    model.fit(list(given), np.array([0, 1, 2]), verbose=0)
    assert not np.array_equal(encoder.weights[0].numpy(), before)


@pytest.mark.parametrize("name", CLASSES)
def test_a_keras_file_holds_config_policy_and_weights(name: str, tmp_path: Path) -> None:
    ours, _ = pair(name, SMALL)
    ours.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is type(ours) and loaded.config == ours.config
    ids, mask = batch(2, 6)
    assert largest_difference(loaded(ids, mask), ours(ids, mask)) == 0


def test_weights_files_of_keras_load_back(tmp_path: Path) -> None:
    ours, _ = pair("AlbertForMaskedLM", SMALL)
    ours.save_weights(tmp_path / "model.weights.h5")
    other = albert_fast.TFAlbertForMaskedLM(ours.config)
    other.load_weights(tmp_path / "model.weights.h5")
    ids, mask = batch(2, 6)
    assert largest_difference(other(ids, mask), ours(ids, mask)) == 0
