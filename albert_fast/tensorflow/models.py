"""The TensorFlow classes of ``transformers`` 4, by their old names: the encoder, masked-LM, classification."""

from __future__ import annotations

from typing import Any

from albert_fast.tensorflow import functional
from albert_fast.tensorflow.functional import ACTIVATIONS, Affine
from albert_fast.tensorflow.layers import Linear, TFAlbertMLMHead
from albert_fast.tensorflow.losses import classification_loss, cross_entropy
from albert_fast.tensorflow.main_layer import TFAlbertMainLayer
from albert_fast.tensorflow.outputs import (
    TFMaskedLMOutput,
    TFSequenceClassifierOutput,
)
from albert_fast.tensorflow.pretrained import TFAlbertPreTrainedModel
from albert_fast.tensorflow.runtime import keras, tf

_serializable = keras.saving.register_keras_serializable(package="albert_fast")


@_serializable
class TFAlbertModel(TFAlbertPreTrainedModel):
    """The encoder without a task head.

    It is called with inputs by name, by position, in a dict (what a tokenizer returns) or in a list.
    """

    def build(self, input_shape: Any = None) -> None:
        """Make the weights."""
        self.albert = TFAlbertMainLayer.made(self)

    def call(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        training: bool | None = False,
    ) -> Any:
        """Encode a batch.

        Args:
            input_ids: ``[B, S]`` int32 or int64; or ``inputs_embeds`` ``[B, S, embedding_size]`` instead.
            attention_mask: ``[B, S]`` or ``[B, S, S]``, nonzero where attended; None attends everywhere.
            token_type_ids, position_ids: ``[B, S]``; None means 0, and 0..S-1.
            head_mask: must be None; it is here because the old classes name it, which never used it either.
            output_attentions, output_hidden_states, return_dict: None takes the config's.
            training: whether to drop out.
        Returns:
            ``TFBaseModelOutputWithPooling``, or a tuple with ``return_dict=False``.
        Raises:
            ValueError: ids outside the vocabulary, too long, empty, or of another dtype, rank or shape; all at once.
        """
        return self.albert(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states, return_dict=return_dict,
            training=training,
        )  # fmt: skip


@_serializable
class TFAlbertForMaskedLM(TFAlbertPreTrainedModel):
    """Scores over the vocabulary for every token. Called as ``TFAlbertModel``, and with ``labels``."""

    def build(self, input_shape: Any = None) -> None:
        """Make the weights."""
        self.albert = TFAlbertMainLayer.made(self, add_pooling_layer=False)
        self.predictions = TFAlbertMLMHead(self.config, name="predictions", dtype=self.dtype_policy)
        self.predictions.build()

    def own_loss(self, logits: Any, labels: Any) -> Any:
        """Mean cross-entropy over labels other than -100."""
        return cross_entropy(logits, labels)

    def call(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: Any = None,
        training: bool | None = False,
    ) -> Any:
        """``labels`` ``[B, S]`` integers give ``loss``, the mean cross-entropy over labels other than -100."""
        out = self.albert(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states, return_dict=True,
            training=training,
        )  # fmt: skip
        head, dtype = self.predictions, self.compute_dtype
        table = self.get_input_embeddings() if self.config.tie_word_embeddings else head.decoder
        logits = functional.masked_lm_logits(
            out.last_hidden_state, head.dense.weights_in(dtype), head.LayerNorm.weights_in(),
            Affine(tf.cast(table.weight, dtype), tf.cast(head.bias, dtype)),
            activation=ACTIVATIONS[self.config.hidden_act], layer_norm_eps=self.config.layer_norm_eps,
        )  # fmt: skip
        output = TFMaskedLMOutput(
            loss=None if labels is None else self.own_loss(logits, labels),
            logits=logits,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )
        return self.returned(output, return_dict)


@_serializable
class TFAlbertForSequenceClassification(TFAlbertPreTrainedModel):
    """One label, several labels, or numbers for a text or a pair of texts. Called as ``TFAlbertModel``, and with
    ``labels``."""

    def build(self, input_shape: Any = None) -> None:
        """Make the weights."""
        c = self.config
        self.num_labels = c.num_labels
        self.albert = TFAlbertMainLayer.made(self)
        self.classifier = Linear(c, c.hidden_size, c.num_labels, name="classifier", dtype=self.dtype_policy)
        self.classifier.build()

    def own_loss(self, logits: Any, labels: Any) -> Any:
        """The loss of the config's ``problem_type``; None infers it from ``num_labels`` and the labels' dtype."""
        return classification_loss(logits, labels, self.config.problem_type)

    def call(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        labels: Any = None,
        training: bool | None = False,
    ) -> Any:
        """``labels``: ``[B]`` integers (single label), ``[B, num_labels]`` float (multi label), or float (regression).

        The config's ``problem_type`` decides which; None infers it from ``num_labels`` and the labels' dtype.
        """
        out = self.albert(
            input_ids, attention_mask, token_type_ids, position_ids, head_mask, inputs_embeds,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states, return_dict=True,
            training=training,
        )  # fmt: skip
        pooled, p = out.pooler_output, self.config.classifier_dropout_prob
        if training and p:
            pooled = self.albert.drop(pooled, p)
        logits = functional.linear(pooled, self.classifier.weights_in(self.compute_dtype))
        output = TFSequenceClassifierOutput(
            loss=None if labels is None else self.own_loss(logits, labels),
            logits=logits,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )
        return self.returned(output, return_dict)
