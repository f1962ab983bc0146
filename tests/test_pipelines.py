"""Pipelines: the same answers, in the same shape, as ``transformers.pipeline``; and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_checkpoint import write_small_checkpoint

from albert_fast import AlbertConfig, AlbertForMaskedLM, AlbertForSequenceClassification, AlbertForTokenClassification
from albert_fast.batch import ShapeProfile
from albert_fast.engine import in_process
from albert_fast.pipelines import TASKS, pipeline, task_of
from albert_fast.tokenizer import AlbertTokenizer

TOLERANCE = {"rel": 1e-4, "abs": 1e-7}
"""Scores are probabilities down to 1e-5, so the difference is measured against the score itself."""
SMALL: dict[str, Any] = dict(
    vocab_size=30000, embedding_size=16, hidden_size=32, num_hidden_layers=4, num_attention_heads=2,
    intermediate_size=48, max_position_embeddings=48, initializer_range=0.3,
)  # fmt: skip
LABELS = {0: "noun", 1: "verb", 2: "adverb"}
ONE = "The capital of France is [MASK]."
TWO = "A [MASK] of milk and a [MASK] of bread."
LONG = "[MASK] " + "very long " * 60
PAIR = {"text": "Is it a noun?", "text_pair": "It is (most likely) a verb."}


@pytest.fixture(scope="module")
def tokenizer(vocab_dir: Path) -> AlbertTokenizer:
    return AlbertTokenizer.from_pretrained(str(vocab_dir / "tok_hub"))


@pytest.fixture(scope="module")
def masked_lm() -> AlbertForMaskedLM:
    torch.manual_seed(1)
    return AlbertForMaskedLM(AlbertConfig(**SMALL)).eval()


@pytest.fixture(scope="module")
def classifier() -> AlbertForSequenceClassification:
    torch.manual_seed(2)
    return AlbertForSequenceClassification(AlbertConfig(**SMALL, id2label=LABELS)).eval()


@pytest.fixture(scope="module")
def fill_mask(masked_lm: AlbertForMaskedLM, tokenizer: AlbertTokenizer) -> Any:
    return pipeline("fill-mask", masked_lm, tokenizer)


@pytest.fixture(scope="module")
def classify(classifier: AlbertForSequenceClassification, tokenizer: AlbertTokenizer) -> Any:
    return pipeline("text-classification", classifier, tokenizer)


@pytest.fixture(scope="module")
def theirs(
    masked_lm: AlbertForMaskedLM,
    classifier: AlbertForSequenceClassification,
    vocab_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """``transformers.pipeline`` over the same weights and vocabulary, by task; segments of pairs asked for."""
    transformers = pytest.importorskip(
        "transformers", reason="the reference implementation: pip install 'albert-fast[dev]'"
    )
    their_tokenizer = transformers.AlbertTokenizer.from_pretrained(vocab_dir / "tok_hub")
    their_tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]

    def make(task: str, **config: Any) -> Any:
        ours = masked_lm if task == "fill-mask" else classifier
        folder = tmp_path_factory.mktemp("model")
        ours.save_pretrained(folder)
        model = getattr(transformers, type(ours).__name__).from_pretrained(folder, **config)
        return transformers.pipeline(task, model=model, tokenizer=their_tokenizer)

    return make


@pytest.fixture(scope="module")
def their_fill_mask(theirs: Any) -> Any:
    return theirs("fill-mask")


@pytest.fixture(scope="module")
def their_classify(theirs: Any) -> Any:
    return theirs("text-classification")


def same(ours: Any, expected: Any) -> None:
    """Equal structure, words and ids; scores within ``TOLERANCE``."""
    assert type(ours) is type(expected)
    if isinstance(expected, list):
        assert len(ours) == len(expected)
        for one, other in zip(ours, expected, strict=True):
            same(one, other)
    elif isinstance(expected, dict):
        assert list(ours) == list(expected)
        for key in expected:
            same(ours[key], expected[key])
    elif isinstance(expected, float):
        assert ours == pytest.approx(expected, **TOLERANCE)
    else:
        assert ours == expected


FILL_MASK_CALLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "one text": (ONE, {}),
    "a list of one": ([ONE], {}),
    "two masks": (TWO, {}),
    "a list of one with two masks": ([TWO], {"top_k": 2}),
    "texts of unlike length": ([ONE, TWO, "[MASK]"], {}),
    "top_k": (ONE, {"top_k": 1}),
    "targets": (ONE, {"targets": ["▁paris", "▁london", "▁paris"]}),
    "one target": (ONE, {"targets": "▁paris"}),
    "a target that is no piece": (ONE, {"targets": ["Constantinople", "▁rome"]}),
    "fewer targets than top_k": (TWO, {"targets": ["▁cup", "▁loaf"], "top_k": 4}),
    "truncated": (LONG, {"tokenizer_kwargs": {"truncation": True, "max_length": 20}}),
    "digits, quotes and accents": ("Café ``1,000'' [MASK] 9,9 £", {}),
}


@pytest.mark.parametrize("name", FILL_MASK_CALLS)
def test_fill_mask_answers_as_transformers_does(name: str, fill_mask: Any, their_fill_mask: Any) -> None:
    inputs, options = FILL_MASK_CALLS[name]
    same(fill_mask(inputs, **options), their_fill_mask(inputs, **options))


CLASSIFICATION_CALLS: dict[str, tuple[Any, dict[str, Any]]] = {
    "one text": (ONE, {}),
    "a list of one": ([ONE], {}),
    "texts of unlike length": ([ONE, "verb", TWO], {}),
    "a pair": (PAIR, {}),
    "a list of pairs": ([PAIR, {"text": "a", "text_pair": "b"}], {}),
    "empty text": ("", {}),
    "top_k of a text": (ONE, {"top_k": 2}),
    "top_k of one": (ONE, {"top_k": 1}),
    "all classes": (ONE, {"top_k": None}),
    "more than all classes": ([ONE, TWO], {"top_k": 9}),
    "top_k of a pair": (PAIR, {"top_k": 2}),
    "sigmoid": (ONE, {"function_to_apply": "sigmoid", "top_k": None}),
    "logits": (ONE, {"function_to_apply": "none", "top_k": None}),
    "softmax": (ONE, {"function_to_apply": "softmax"}),
    "truncated": (LONG, {"truncation": True, "max_length": 20}),
    "padded to a length": ([ONE, TWO], {"padding": "max_length", "max_length": 30}),
}


@pytest.mark.parametrize("name", CLASSIFICATION_CALLS)
def test_text_classification_answers_as_transformers_does(name: str, classify: Any, their_classify: Any) -> None:
    inputs, options = CLASSIFICATION_CALLS[name]
    same(classify(inputs, **options), their_classify(inputs, **options))


@pytest.mark.parametrize(
    "problem_type", ["regression", "multi_label_classification", "single_label_classification", None]
)
def test_the_problem_type_decides_which_function_makes_scores(
    problem_type: str | None, classifier: AlbertForSequenceClassification, tokenizer: AlbertTokenizer, theirs: Any
) -> None:
    changed = AlbertForSequenceClassification(classifier.config.replace(problem_type=problem_type)).eval()
    changed.load_state_dict(classifier.state_dict())
    ours = pipeline("text-classification", changed, tokenizer)
    same(ours(ONE, top_k=None), theirs("text-classification", problem_type=problem_type)(ONE, top_k=None))


def test_one_class_alone_is_scored_by_a_sigmoid(tokenizer: AlbertTokenizer) -> None:
    model = AlbertForSequenceClassification(AlbertConfig(**SMALL, num_labels=1)).eval()
    logit = pipeline("text-classification", model, tokenizer)(ONE, function_to_apply="none")[0]["score"]
    score = pipeline("text-classification", model, tokenizer)(ONE)[0]["score"]
    assert score == pytest.approx(torch.tensor(logit).sigmoid().item(), **TOLERANCE)


def test_options_of_the_pipeline_are_the_defaults_of_its_calls(
    classifier: AlbertForSequenceClassification, tokenizer: AlbertTokenizer
) -> None:
    made = pipeline("text-classification", classifier, tokenizer, top_k=2)
    assert len(made([ONE])[0]) == 2
    assert len(made([ONE], top_k=1)[0]) == 1


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_the_batch_size_changes_no_answer_and_no_order(batch_size: int, classify: Any) -> None:
    texts = [ONE, "a", TWO, "", "verb " * 12]
    same(classify(texts, batch_size=batch_size, top_k=None), [classify(text, top_k=None) for text in texts])


def test_left_padding_answers_each_text_at_its_own_masks(masked_lm: AlbertForMaskedLM, vocab_dir: Path) -> None:
    left = AlbertTokenizer.from_pretrained(str(vocab_dir / "tok_hub"), padding_side="left")
    texts = [TWO, "[MASK]"]
    predictions = pipeline("fill-mask", masked_lm, left)(texts, top_k=1)
    padded = left(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        probabilities = masked_lm(**padded).logits[padded["input_ids"] == left.mask_token_id].softmax(-1)
    found = [*(one[0] for one in predictions[0]), predictions[1][0]]
    assert [one["score"] for one in found] == pytest.approx(probabilities.amax(-1).tolist(), **TOLERANCE)
    assert [one["token"] for one in found] == probabilities.argmax(-1).tolist()


def test_a_static_profile_is_filled_up_with_rows_and_padding(
    classifier: AlbertForSequenceClassification, tokenizer: AlbertTokenizer, classify: Any
) -> None:
    engine = in_process(classifier, format="eager", profile=ShapeProfile.parse("4x32"))
    static = pipeline("text-classification", engine, tokenizer)
    texts = [ONE, TWO, "a", "b", "c"]
    same(static(texts), classify(texts))


def test_a_live_model_of_transformers_answers_through_our_engine(
    their_fill_mask: Any, tokenizer: AlbertTokenizer
) -> None:
    same(pipeline("fill-mask", their_fill_mask.model, tokenizer)(ONE), their_fill_mask(ONE))


def test_a_tokenizer_of_transformers_will_do(masked_lm: AlbertForMaskedLM, their_fill_mask: Any) -> None:
    same(pipeline("fill-mask", masked_lm, their_fill_mask.tokenizer)([ONE, TWO]), their_fill_mask([ONE, TWO]))


def test_a_folder_holds_model_and_tokenizer(
    masked_lm: AlbertForMaskedLM, tokenizer: AlbertTokenizer, fill_mask: Any, tmp_path: Path
) -> None:
    masked_lm.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    same(pipeline("fill-mask", tmp_path)(ONE), fill_mask(ONE))


def test_an_id_of_the_word_table_that_has_no_piece_is_no_candidate(tmp_path: Path) -> None:
    checkpoint = write_small_checkpoint(tmp_path)
    made = pipeline("fill-mask", checkpoint)
    assert made.engine.config.vocab_size > len(made.tokenizer)
    assert len(made("a [MASK]", top_k=len(made.tokenizer))) == len(made.tokenizer)
    with pytest.raises(ValueError, match=r"expected 1\.\.\d+ \(the pieces"):
        made("a [MASK]", top_k=len(made.tokenizer) + 1)


def test_every_task_has_a_pipeline_for_its_head() -> None:
    for name, task in TASKS.items():
        assert task_of(task.head) == name
    with pytest.raises(ValueError, match="no pipeline answers with the head 'base'"):
        task_of("base")


NOT_TEXT: dict[str, tuple[Any, str]] = {
    "a number": (7, "the input is a int, expected text"),
    "none": (None, "the input is a NoneType"),
    "bytes": (b"text", r"decode it first"),
    "a number in a list": (["text", 7], "input 1 is a int"),
    "a list as pair": ([["first", "second"]], '"text_pair": second'),
    "a dict of other keys": ({"txt": "a"}, "has the keys"),
    "a pair with a number": ({"text": "a", "text_pair": 3}, "text_pair of the input is a int"),
}


@pytest.mark.parametrize("name", NOT_TEXT)
def test_what_is_no_text_is_refused(name: str, classify: Any) -> None:
    value, message = NOT_TEXT[name]
    with pytest.raises(ValueError, match=message):
        classify(value)


@pytest.mark.parametrize("text", ["", "no mask here", "[mask]"])
def test_fill_mask_refuses_a_text_without_a_mask(text: str, fill_mask: Any) -> None:
    with pytest.raises(ValueError, match=r"no mask token in the input, expected \[MASK\]"):
        fill_mask(text)


def test_a_mask_that_truncation_cut_off_is_told_from_none(fill_mask: Any) -> None:
    with pytest.raises(ValueError, match=r"truncation to 8 tokens cut off \[MASK\] in input 1"):
        fill_mask([ONE, "a " * 30 + "[MASK]"], truncation=True, max_length=8)


def test_a_long_text_is_refused_with_its_limit_unless_truncation_is_asked_for(classify: Any) -> None:
    with pytest.raises(ValueError, match=r"input 1 has \d+ tokens, at most 48 fit .*max_position.*truncation=True"):
        classify([ONE, LONG])
    assert classify([ONE, LONG], truncation=True)
    with pytest.raises(ValueError, match="at most 48 fit"):
        classify(LONG, truncation=True, max_length=50)


def test_the_profile_of_an_engine_bounds_texts_and_batches(
    classifier: AlbertForSequenceClassification, tokenizer: AlbertTokenizer
) -> None:
    engine = in_process(classifier, format="eager", profile=ShapeProfile.parse("1x1:2x8:4x16"))
    small = pipeline("text-classification", engine, tokenizer)
    with pytest.raises(ValueError, match=r"at most 16 fit \(profile 1x1:2x8:4x16"):
        small(LONG)
    with pytest.raises(ValueError, match=r"batch_size is 5, expected 1\.\.4"):
        small(ONE, batch_size=5)


BAD_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "top_k of zero": ({"top_k": 0}, "top_k is 0"),
    "top_k beyond the vocabulary": ({"top_k": 30001}, r"top_k is 30001, expected 1\.\.30000 "),
    "top_k in words": ({"top_k": "two"}, "top_k is 'two'"),
    "no targets": ({"targets": []}, "targets is empty"),
    "an empty target": ({"targets": [" "]}, "targets holds ' '"),
    "an unknown option": ({"topk": 3}, "unknown options topk; FillMaskPipeline takes top_k"),
    "batch_size of zero": ({"batch_size": 0}, "batch_size is 0"),
}


@pytest.mark.parametrize("name", BAD_OPTIONS)
def test_options_out_of_range_are_refused(name: str, fill_mask: Any) -> None:
    options, message = BAD_OPTIONS[name]
    with pytest.raises(ValueError, match=message):
        fill_mask(ONE, **options)


def test_an_unknown_function_is_told_with_those_that_are(classify: Any) -> None:
    with pytest.raises(ValueError, match="function_to_apply is 'tanh', expected one of sigmoid, softmax, none"):
        classify(ONE, function_to_apply="tanh")


def test_a_model_with_another_head_is_refused(
    classifier: AlbertForSequenceClassification, tokenizer: AlbertTokenizer
) -> None:
    with pytest.raises(
        ValueError, match=r"fill-mask needs a model with the head 'masked-lm'.*'sequence-classification'"
    ):
        pipeline("fill-mask", classifier, tokenizer)
    token_classifier = AlbertForTokenClassification(AlbertConfig(**SMALL)).eval()
    with pytest.raises(ValueError, match=r"text-classification needs .*'token-classification'"):
        pipeline("text-classification", token_classifier, tokenizer)


def test_what_a_pipeline_cannot_be_made_of_is_refused(
    masked_lm: AlbertForMaskedLM, tokenizer: AlbertTokenizer, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="task is 'translation', expected one of fill-mask, text-classification"):
        pipeline("translation", masked_lm, tokenizer)
    with pytest.raises(ValueError, match="model is a int"):
        pipeline("fill-mask", 3, tokenizer)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="does not say which tokenizer"):
        pipeline("fill-mask", masked_lm)
    with pytest.raises(ValueError, match="tokenizer is a int"):
        pipeline("fill-mask", masked_lm, 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="holds no checkpoint"):
        pipeline("fill-mask", tmp_path, tokenizer)
    engine = in_process(masked_lm, format="eager", profile=ShapeProfile(max_length=48, opt_length=8))
    with pytest.raises(ValueError, match="format 'inductor' is for models"):
        pipeline("fill-mask", engine, tokenizer, format="inductor")
