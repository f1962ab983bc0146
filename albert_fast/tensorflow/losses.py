"""What training minimises: the losses of the TF heads, the same numbers as those of the PyTorch classes, scalars."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from albert_fast.tensorflow.functional import at_least_float32
from albert_fast.tensorflow.runtime import tf

Tensor = Any
IGNORED = -100


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over all labels but -100; ``logits`` ``[..., classes]``, ``labels`` ``[...]`` integers."""
    logits, labels = tf.reshape(at_least_float32(logits), [-1, logits.shape[-1]]), tf.reshape(labels, [-1])
    counted = tf.not_equal(labels, IGNORED)
    each = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.where(counted, labels, 0), logits)
    weights = tf.cast(counted, each.dtype)
    return tf.reduce_sum(each * weights) / tf.reduce_sum(weights)


def regression_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean squared error; a single output is compared as a plain number."""
    logits = at_least_float32(logits)
    labels = tf.reshape(tf.cast(labels, logits.dtype), tf.shape(logits))
    return tf.reduce_mean(tf.square(logits - labels))


def binary_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over all labels of the cross-entropy of each, on its own."""
    logits = at_least_float32(logits)
    return tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(tf.cast(labels, logits.dtype), logits))


CLASSIFICATION_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "regression": regression_loss,
    "single_label_classification": cross_entropy,
    "multi_label_classification": binary_cross_entropy,
}


def classification_loss(logits: Tensor, labels: Tensor, problem_type: str | None) -> Tensor:
    """The loss of ``problem_type``; None infers it as ``transformers`` does in PyTorch."""
    if problem_type is None:
        problem_type = "single_label_classification" if labels.dtype.is_integer else "multi_label_classification"
        problem_type = "regression" if logits.shape[-1] == 1 else problem_type
    if problem_type not in CLASSIFICATION_LOSSES:
        raise ValueError(f"problem_type is {problem_type!r}, expected one of {', '.join(CLASSIFICATION_LOSSES)}")
    return CLASSIFICATION_LOSSES[problem_type](logits, labels)
