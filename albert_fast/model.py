"""AlbertModel: owns the parameters, under Hugging Face's names, and hands them to ``functional``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from albert_fast import functional
from albert_fast.attention import resolve_attention
from albert_fast.batch import check_inputs
from albert_fast.config import AlbertConfig
from albert_fast.functional import Affine, EmbeddingWeights, LayerSettings, LayerWeights
from albert_fast.outputs import BaseModelOutputWithPooling, returned
from albert_fast.pretrained import AlbertPreTrainedModel


def affine(module: nn.Linear | nn.LayerNorm) -> Affine:
    """The module's weight and bias as the pair ``functional`` takes."""
    return Affine(module.weight, module.bias)


class AlbertEmbeddings(nn.Module):
    """The three tables and their LayerNorm."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        size = config.embedding_size
        self.word_embeddings = nn.Embedding(config.vocab_size, size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, size)
        self.LayerNorm = nn.LayerNorm(size, eps=config.layer_norm_eps)


class AlbertAttention(nn.Module):
    """Query, key, value, output projection and LayerNorm of one layer."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.dense = nn.Linear(size, size)
        self.LayerNorm = nn.LayerNorm(size, eps=config.layer_norm_eps)


class AlbertLayer(nn.Module):
    """The parameters of one transformer layer."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.full_layer_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = AlbertAttention(config)
        self.ffn = nn.Linear(config.hidden_size, config.intermediate_size)
        self.ffn_output = nn.Linear(config.intermediate_size, config.hidden_size)

    def weights(self) -> LayerWeights:
        """The layer as ``functional.encode`` takes it."""
        a = self.attention
        return LayerWeights(
            affine(a.query), affine(a.key), affine(a.value), affine(a.dense), affine(a.LayerNorm),
            affine(self.ffn), affine(self.ffn_output), affine(self.full_layer_layer_norm),
        )  # fmt: skip


class AlbertLayerGroup(nn.Module):
    """The ``inner_group_num`` layers of one group."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.albert_layers = nn.ModuleList([AlbertLayer(config) for _ in range(config.inner_group_num)])


class AlbertTransformer(nn.Module):
    """The map from embedding to hidden size, and the layer groups."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.embedding_hidden_mapping_in = nn.Linear(config.embedding_size, config.hidden_size)
        self.albert_layer_groups = nn.ModuleList([AlbertLayerGroup(config) for _ in range(config.num_hidden_groups)])

    def layers(self) -> list[LayerWeights]:
        """The distinct layers, group by group, in the order ``AlbertConfig.schedule`` counts them."""
        groups = cast(Iterable[AlbertLayerGroup], self.albert_layer_groups)
        return [cast(AlbertLayer, layer).weights() for group in groups for layer in group.albert_layers]


class AlbertModel(AlbertPreTrainedModel):
    """The encoder without a task head.

    Args:
        add_pooling_layer: also give ``pooler_output``.

    Attributes:
        apply_layer: computes one pass, see ``functional.encode``; set on an instance by whoever compiles it.
    """

    apply_layer: functional.TransformerLayer = staticmethod(functional.transformer_layer)

    def __init__(
        self, config: AlbertConfig, add_pooling_layer: bool = True, *, attn_implementation: str = "auto"
    ) -> None:
        super().__init__(config, attn_implementation=attn_implementation)
        self.embeddings = AlbertEmbeddings(config)
        self.encoder = AlbertTransformer(config)
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size) if add_pooling_layer else None
        if self.embeddings.word_embeddings.weight.device.type != "meta":
            self.init_weights()

    def get_input_embeddings(self) -> nn.Embedding:
        """The word table."""
        return self.embeddings.word_embeddings

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """Encode a batch.

        Args:
            input_ids: ``[B, S]`` int64 or int32; or ``inputs_embeds`` ``[B, S, embedding_size]`` instead.
            attention_mask: ``[B, S]`` or ``[B, S, S]``, nonzero where attended; None attends everywhere.
            token_type_ids, position_ids: ``[B, S]``; None means 0, and 0..S-1.
            output_attentions, output_hidden_states, return_dict: None takes the config's.
        Returns:
            ``BaseModelOutputWithPooling``, or a tuple with ``return_dict=False``.
        Raises:
            ValueError: ids outside the vocabulary, too long, empty, or of another dtype, rank or shape; all at once.
        """
        config = self.config
        if not torch.compiler.is_compiling():
            check_inputs(
                input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids,
                position_ids=position_ids, inputs_embeds=inputs_embeds, vocab_size=config.vocab_size,
                max_position_embeddings=config.max_position_embeddings, type_vocab_size=config.type_vocab_size,
                embedding_size=config.embedding_size,
            )  # fmt: skip
        want_attentions = config.output_attentions if output_attentions is None else output_attentions
        want_hidden = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        weights = self.embedding_weights()
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = nn.functional.embedding(input_ids, weights.word, padding_idx=config.pad_token_id)
        x = functional.embed(
            inputs_embeds, token_type_ids, position_ids, weights, layer_norm_eps=config.layer_norm_eps,
            hidden_dropout=config.hidden_dropout_prob if self.training else 0.0,
        )  # fmt: skip
        bias = None if attention_mask is None else functional.attention_bias(attention_mask, x.dtype)
        encoded = functional.encode(
            x, bias, self.encoder.layers(), config.schedule, self.layer_settings(want_attentions),
            collect=want_attentions or want_hidden, apply_layer=self.apply_layer,
        )  # fmt: skip
        output = BaseModelOutputWithPooling(
            last_hidden_state=encoded.last,
            pooler_output=None if self.pooler is None else functional.pool(encoded.last, affine(self.pooler)),
            hidden_states=encoded.hidden_states if want_hidden else None,
            attentions=encoded.attentions if want_attentions else None,
        )
        return returned(output, config.return_dict if return_dict is None else return_dict)

    def embedding_weights(self) -> EmbeddingWeights:
        """The embeddings as ``functional.embed`` takes them."""
        e = self.embeddings
        return EmbeddingWeights(
            e.word_embeddings.weight, e.position_embeddings.weight, e.token_type_embeddings.weight,
            affine(e.LayerNorm), affine(self.encoder.embedding_hidden_mapping_in),
        )  # fmt: skip

    def layer_settings(self, need_probabilities: bool = False) -> LayerSettings:
        """The settings every pass shares; dropouts are 0 outside training."""
        config = self.config
        return LayerSettings(
            num_heads=config.num_attention_heads,
            layer_norm_eps=config.layer_norm_eps,
            activation=functional.ACTIVATIONS[config.hidden_act],
            attention=resolve_attention(self.attn_implementation, need_probabilities=need_probabilities),
            hidden_dropout=config.hidden_dropout_prob if self.training else 0.0,
            attention_dropout=config.attention_probs_dropout_prob if self.training else 0.0,
        )
