"""The encoder as one Keras layer: embeddings, the shared transformer layer applied pass after pass, the pooler."""

from __future__ import annotations

from typing import Any

from albert_fast.config import AlbertConfig
from albert_fast.tensorflow import functional
from albert_fast.tensorflow.functional import EmbeddingWeights, LayerSettings, Tensor
from albert_fast.tensorflow.inputs import TakesInputs, check_inputs
from albert_fast.tensorflow.layers import Linear, Owner, Table, TFAlbertEmbeddings, TFAlbertTransformer
from albert_fast.tensorflow.outputs import TFBaseModelOutputWithPooling
from albert_fast.tensorflow.runtime import keras, tf


class TFAlbertMainLayer(TakesInputs, Owner):
    """Embeddings, encoder and, if asked for, pooler; every model has one under the name ``albert``.

    Args:
        add_pooling_layer: also give ``pooler_output``.
    """

    def __init__(self, config: AlbertConfig, add_pooling_layer: bool = True, **options: Any) -> None:
        super().__init__(config, **{"name": "albert", **options})
        self.add_pooling_layer = add_pooling_layer
        self.seed_generator = keras.random.SeedGenerator()

    @classmethod
    def made(cls, model: Any, **options: Any) -> TFAlbertMainLayer:
        """The main layer of a model that is being built, with its weights."""
        layer = cls(model.config, dtype=model.dtype_policy, **options)
        layer.build()
        return layer

    def build(self, input_shape: Any = None) -> None:
        """Make the parts."""
        c = self.config
        self.embeddings = self.part(TFAlbertEmbeddings(c, **self.options("embeddings")))
        self.encoder = self.part(TFAlbertTransformer(c, **self.options("encoder")))
        pooler = Linear(c, c.hidden_size, c.hidden_size, **self.options("pooler")) if self.add_pooling_layer else None
        self.pooler = None if pooler is None else self.part(pooler)

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
        """See ``TFAlbertModel``."""
        c, dtype = self.config, tf.as_dtype(self.compute_dtype)
        scores_in = tf.float64 if dtype == tf.float64 else tf.float32
        check_inputs(
            c, input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids,
            position_ids=position_ids, inputs_embeds=inputs_embeds, head_mask=head_mask,
        )  # fmt: skip
        want_attentions = c.output_attentions if output_attentions is None else output_attentions
        want_hidden = c.output_hidden_states if output_hidden_states is None else output_hidden_states
        weights, settings = self.embedding_weights(dtype), self.settings(bool(training))
        words = inputs_embeds
        if words is None:
            words = functional.look_up(weights.word, input_ids, c.pad_token_id)
        x_TD = functional.embed(
            words, token_type_ids, position_ids, weights, layer_norm_eps=c.layer_norm_eps, dtype=dtype,
            drop=self.drop, hidden_dropout=settings.hidden_dropout,
        )  # fmt: skip
        bias = None if attention_mask is None else functional.attention_bias(attention_mask, scores_in)
        layers = [layer.weights_in(dtype) for layer in self.encoder.layers()]
        encoded = functional.encode(
            x_TD, functional.sizes(words)[:2], bias, layers, c.schedule, settings,
            collect=want_attentions or want_hidden,
        )  # fmt: skip
        output = TFBaseModelOutputWithPooling(
            last_hidden_state=encoded.last,
            pooler_output=None if self.pooler is None else functional.pool(encoded.last, self.pooler.weights_in(dtype)),
            hidden_states=encoded.hidden_states if want_hidden else None,
            attentions=encoded.attentions if want_attentions else None,
        )
        return output if (c.return_dict if return_dict is None else return_dict) else output.to_tuple()

    def get_input_embeddings(self) -> Table:
        """The word table."""
        table: Table = self.embeddings.word_embeddings
        return table

    def drop(self, x: Tensor, p: float) -> Tensor:
        """Dropout with probability ``p``; the same after the same ``keras.utils.set_random_seed``."""
        return keras.random.dropout(x, p, seed=self.seed_generator)

    def embedding_weights(self, dtype: Any) -> EmbeddingWeights:
        """The embeddings as ``functional.embed`` takes them: the tables as they are, the map to D in ``dtype``."""
        e = self.embeddings
        return EmbeddingWeights(
            tf.convert_to_tensor(e.word_embeddings.weight),
            tf.convert_to_tensor(e.position_embeddings.weight),
            tf.convert_to_tensor(e.token_type_embeddings.weight),
            e.LayerNorm.weights_in(),
            self.encoder.embedding_hidden_mapping_in.weights_in(dtype),
        )

    def settings(self, training: bool) -> LayerSettings:
        """The settings that every pass shares; dropouts are 0 outside training."""
        c = self.config
        return LayerSettings(
            num_heads=c.num_attention_heads,
            layer_norm_eps=c.layer_norm_eps,
            activation=functional.ACTIVATIONS[c.hidden_act],
            drop=self.drop,
            hidden_dropout=c.hidden_dropout_prob if training else 0.0,
            attention_dropout=c.attention_probs_dropout_prob if training else 0.0,
        )
