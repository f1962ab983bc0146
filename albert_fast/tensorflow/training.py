"""How Keras trains and predicts with models that return named outputs and know their own loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from albert_fast.tensorflow.outputs import TFModelOutput
from albert_fast.tensorflow.runtime import keras

Model: Any = keras.Model


class TrainedByKeras(Model):
    """A Keras model whose ``compile`` needs no loss: without one it minimises its own, as in ``transformers`` 4.

    Labels come beside the inputs (``(inputs, labels)``) or among them (``inputs["labels"]``). A loss or metric that is
    given to ``compile`` sees ``logits``.
    """

    minimises_own_loss = False

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, **options: Any) -> None:
        """``keras.Model.compile``; ``loss=None`` stands for the model's own loss."""
        self.minimises_own_loss = loss is None
        super().compile(optimizer=optimizer, loss=loss, **options)

    def own_loss(self, logits: Any, labels: Any) -> Any:
        """The loss of this model's task, a scalar."""
        raise ValueError(f"{type(self).__name__} has no loss of its own; give compile() one")

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """The loss that ``fit`` and ``evaluate`` use.

        Raises:
            ValueError: sample weights without a loss in ``compile``, or no labels anywhere.
        """
        labels, scores = _labels(x, y), _scores(y_pred)
        if not self.minimises_own_loss:
            return super().compute_loss(x=x, y=labels, y_pred=scores, sample_weight=sample_weight, training=training)
        if sample_weight is not None:
            raise ValueError(f"{type(self).__name__}'s own loss takes no sample weights; give compile() a loss")
        if labels is None:
            raise ValueError(
                "there are no labels to learn from: give fit() pairs of inputs and labels, or inputs with 'labels'"
            )
        own = y_pred.loss if y is None else self.own_loss(scores, y)
        return sum(self.losses, start=own)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The metrics of ``compile``, of labels and ``logits``."""
        return super().compute_metrics(x, _labels(x, y), _scores(y_pred), sample_weight)


def _labels(x: Any, y: Any) -> Any:
    return x.get("labels") if y is None and isinstance(x, Mapping) else y


def _scores(output: Any) -> Any:
    if not isinstance(output, TFModelOutput):
        return output
    return output["logits"] if "logits" in output else dict(output)
