"""text-classification: the likeliest classes of a text, or of a pair of texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor

from albert_fast.config import AlbertConfig
from albert_fast.pipelines.base import Pipeline
from albert_fast.pipelines.texts import Row

FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "softmax": lambda logits: logits.softmax(dim=-1),
    "none": lambda logits: logits,
}
PROBLEM_FUNCTIONS = {
    "regression": "none",
    "multi_label_classification": "sigmoid",
    "single_label_classification": "softmax",
}


class ClassPrediction(TypedDict):
    """One class: its name and its score."""

    label: str
    score: float


def default_function(config: AlbertConfig) -> str:
    """The name in ``FUNCTIONS`` that turns a model's logits into scores: none for regression, sigmoid for several
    labels at once or for one class alone, else softmax."""
    if config.problem_type != "regression" and config.num_labels == 1:
        return "sigmoid"
    return PROBLEM_FUNCTIONS.get(config.problem_type or "single_label_classification", "softmax")


class TextClassificationPipeline(Pipeline):
    """Called with a text, a pair ``{"text": ..., "text_pair": ...}``, or a list of such."""

    options = ("top_k", "function_to_apply")

    def __call__(self, inputs: str | Mapping[str, str] | Sequence[str | Mapping[str, str]], **options: Any) -> Any:
        """Classify.

        Args:
            inputs: a text, a pair, or a list of them.
            top_k: how many classes, best first; None means all. Left out, only the best one is returned.
            function_to_apply: ``"sigmoid"``, ``"softmax"`` or ``"none"``; None takes what the model's ``problem_type``
                and number of labels call for.
            truncation, max_length, padding, add_special_tokens: as for the tokenizer.
            batch_size: as for ``pipeline``.
        Returns:
            Without ``top_k``: for a text ``[ClassPrediction]``, for a pair a ``ClassPrediction``, for a list a list of
            those.
            With ``top_k``: a list of ``ClassPrediction``, and for a list of inputs a list of those.
        Raises:
            ValueError: an input that is no text or has too many tokens; options out of range.
        """
        several = isinstance(inputs, list | tuple)
        results = self.run(list(inputs) if several else [inputs], options)
        if several:
            return results
        # transformers wraps a lone text's answer in a list, unless this very call names top_k; so do we.
        return results if isinstance(inputs, str) and "top_k" not in options else results[0]

    def prepare(self, options: dict[str, Any]) -> dict[str, Any]:
        """``top_k`` and the function that makes scores of logits."""
        top_k = options.get("top_k")
        if top_k is not None and (not isinstance(top_k, int) or isinstance(top_k, bool) or top_k < 1):
            raise ValueError(f"top_k is {top_k!r}, expected a number of classes from 1, or None for all")
        name = options.get("function_to_apply")
        name = default_function(self.engine.config) if name is None else str(name).lower()
        if name not in FUNCTIONS:
            raise ValueError(f"function_to_apply is {name!r}, expected one of {', '.join(FUNCTIONS)}")
        return {"top_k": top_k, "best_only": "top_k" not in options, "function": FUNCTIONS[name]}

    def answer(self, row: Row, outputs: Mapping[str, Tensor], places: Tensor, settings: Mapping[str, Any]) -> Any:
        """``logits`` ``[num_labels]`` -> the best class, or the list of them."""
        scores = settings["function"](outputs["logits"].float().cpu()).tolist()
        names = self.engine.config.id2label
        ranked = sorted(range(len(scores)), key=lambda i: scores[i], reverse=True)
        predictions: list[ClassPrediction] = [{"label": names[i], "score": scores[i]} for i in ranked]
        return predictions[0] if settings["best_only"] else predictions[: settings["top_k"]]
