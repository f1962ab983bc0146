"""Who owns the parameters: Keras layers named as in ``transformers`` 4, so that every weight keeps its historical path.

``tf_albert_model/albert/encoder/albert_layer_groups_._0/albert_layers_._0/attention/query/kernel`` is the path of a
weight here and its name in ``tf_model.h5``. No layer here computes anything: they hand their weights, cast once a call,
to ``functional``.
"""

from __future__ import annotations

from typing import Any

from albert_fast.config import AlbertConfig
from albert_fast.tensorflow import functional
from albert_fast.tensorflow.functional import LayerWeights
from albert_fast.tensorflow.runtime import keras, tf

Layer: Any = keras.Layer


class Owner(Layer):
    """A layer that owns weights and sub-layers and is built with them, under its own name, in one go."""

    def __init__(self, config: AlbertConfig, **options: Any) -> None:
        super().__init__(autocast=False, **options)
        self.config = config

    def build(self, input_shape: Any = None) -> None:
        """Make the weights; sub-layers are built here too, so that their paths begin with this layer's."""
        raise NotImplementedError

    def call(self, *inputs: Any) -> Any:
        """Refused: the weights are used by the model's functions."""
        raise NotImplementedError(f"{type(self).__name__} holds weights; call the model that it belongs to")

    def matrix(self, name: str, *shape: int) -> Any:
        """A weight drawn as ALBERT draws them: a normal distribution cut at two standard deviations."""
        drawn = keras.initializers.TruncatedNormal(stddev=self.config.initializer_range)
        return self.add_weight(name=name, shape=shape, initializer=drawn, autocast=False)

    def vector(self, name: str, size: int, value: str = "zeros") -> Any:
        """A weight that starts as all ``"zeros"`` or all ``"ones"``."""
        return self.add_weight(name=name, shape=(size,), initializer=value, autocast=False)

    def part(self, layer: Any) -> Any:
        """Build a sub-layer inside this one's name."""
        layer.build()
        return layer

    def options(self, name: str) -> dict[str, Any]:
        """What a sub-layer called ``name`` is made with."""
        return {"name": name, "dtype": self.dtype_policy}


class Linear(Owner):
    """Kernel ``[in, out]`` and bias ``[out]``."""

    def __init__(self, config: AlbertConfig, in_size: int, out_size: int, **options: Any) -> None:
        super().__init__(config, **options)
        self.in_size, self.out_size = in_size, out_size

    def build(self, input_shape: Any = None) -> None:
        """Make both."""
        self.kernel = self.matrix("kernel", self.in_size, self.out_size)
        self.bias = self.vector("bias", self.out_size)

    def weights_in(self, dtype: Any) -> functional.Affine:
        """Both in ``dtype``."""
        return functional.Affine(tf.cast(self.kernel, dtype), tf.cast(self.bias, dtype))


class LayerNorm(Owner):
    """Gamma and beta."""

    def __init__(self, config: AlbertConfig, size: int, **options: Any) -> None:
        super().__init__(config, **options)
        self.size = size

    def build(self, input_shape: Any = None) -> None:
        """Make both."""
        self.gamma = self.vector("gamma", self.size, "ones")
        self.beta = self.vector("beta", self.size)

    def weights_in(self, dtype: Any = None) -> functional.Affine:
        """Both as they are: ``functional`` computes LayerNorms in float32."""
        return functional.Affine(tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta))


class Table(Owner):
    """Rows of embeddings, in a weight called ``leaf``."""

    def __init__(self, config: AlbertConfig, leaf: str, rows: int, **options: Any) -> None:
        super().__init__(config, **options)
        self.leaf, self.rows = leaf, rows

    def build(self, input_shape: Any = None) -> None:
        """Make the rows."""
        self.weight = self.matrix(self.leaf, self.rows, self.config.embedding_size)


class TFAlbertEmbeddings(Owner):
    """The three tables and their LayerNorm."""

    def build(self, input_shape: Any = None) -> None:
        """Make them."""
        c = self.config
        self.word_embeddings = self.part(Table(c, "weight", c.vocab_size, **self.options("word_embeddings")))
        self.token_type_embeddings = self.part(
            Table(c, "embeddings", c.type_vocab_size, **self.options("token_type_embeddings"))
        )
        self.position_embeddings = self.part(
            Table(c, "embeddings", c.max_position_embeddings, **self.options("position_embeddings"))
        )
        self.LayerNorm = self.part(LayerNorm(c, c.embedding_size, **self.options("LayerNorm")))


class TFAlbertAttention(Owner):
    """Query, key, value, output projection and LayerNorm of one layer."""

    def build(self, input_shape: Any = None) -> None:
        """Make them."""
        size = self.config.hidden_size
        for name in ("query", "key", "value", "dense"):
            setattr(self, name, self.part(Linear(self.config, size, size, **self.options(name))))
        self.LayerNorm = self.part(LayerNorm(self.config, size, **self.options("LayerNorm")))


class TFAlbertLayer(Owner):
    """The parameters of one transformer layer."""

    def build(self, input_shape: Any = None) -> None:
        """Make them."""
        c = self.config
        self.attention = self.part(TFAlbertAttention(c, **self.options("attention")))
        self.ffn = self.part(Linear(c, c.hidden_size, c.intermediate_size, **self.options("ffn")))
        self.ffn_output = self.part(Linear(c, c.intermediate_size, c.hidden_size, **self.options("ffn_output")))
        self.full_layer_layer_norm = self.part(LayerNorm(c, c.hidden_size, **self.options("full_layer_layer_norm")))

    def weights_in(self, dtype: Any) -> LayerWeights:
        """The layer as ``functional.encode`` takes it."""
        a = self.attention
        owners = (a.query, a.key, a.value, a.dense, a.LayerNorm, self.ffn, self.ffn_output, self.full_layer_layer_norm)
        return LayerWeights(*(owner.weights_in(dtype) for owner in owners))


class TFAlbertLayerGroup(Owner):
    """The ``inner_group_num`` layers of one group."""

    def build(self, input_shape: Any = None) -> None:
        """Make them."""
        self.albert_layers = [
            self.part(TFAlbertLayer(self.config, **self.options(f"albert_layers_._{k}")))
            for k in range(self.config.inner_group_num)
        ]


class TFAlbertTransformer(Owner):
    """The map from embedding to hidden size, and the layer groups."""

    def build(self, input_shape: Any = None) -> None:
        """Make them."""
        c = self.config
        self.embedding_hidden_mapping_in = self.part(
            Linear(c, c.embedding_size, c.hidden_size, **self.options("embedding_hidden_mapping_in"))
        )
        self.albert_layer_groups = [
            self.part(TFAlbertLayerGroup(c, **self.options(f"albert_layer_groups_._{g}")))
            for g in range(c.num_hidden_groups)
        ]

    def layers(self) -> list[TFAlbertLayer]:
        """The distinct layers, group by group, in the order ``AlbertConfig.schedule`` counts them."""
        return [layer for group in self.albert_layer_groups for layer in group.albert_layers]


class TFAlbertMLMHead(Owner):
    """Hidden states -> scores over the vocabulary; the decoder's weight is the word table, unless the config unties it.

    ``bias`` is what PyTorch's classes call ``predictions.bias``. In ``tf_model.h5`` it stands twice, a second time as
    ``decoder/bias``.
    """

    def build(self, input_shape: Any = None) -> None:
        """Make them."""
        c = self.config
        self.bias = self.vector("bias", c.vocab_size)
        self.dense = self.part(Linear(c, c.hidden_size, c.embedding_size, **self.options("dense")))
        self.LayerNorm = self.part(LayerNorm(c, c.embedding_size, **self.options("LayerNorm")))
        if not c.tie_word_embeddings:
            self.decoder = self.part(Table(c, "weight", c.vocab_size, **self.options("decoder")))
