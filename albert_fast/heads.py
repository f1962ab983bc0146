"""The task heads: one class each, named as in ``transformers``, and the table that knows them all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from albert_fast import functional
from albert_fast.config import AlbertConfig
from albert_fast.losses import classification_loss, cross_entropy, span_loss
from albert_fast.model import AlbertModel
from albert_fast.outputs import (
    AlbertForPreTrainingOutput,
    BaseModelOutputWithPooling,
    MaskedLMOutput,
    MultipleChoiceModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
    returned,
)
from albert_fast.predictions import TIED_DECODER, AlbertMLMHead, AlbertSOPHead
from albert_fast.pretrained import AlbertPreTrainedModel


class _WithEncoder(AlbertPreTrainedModel):
    """A head's common part: the encoder, and how its arguments and outputs pass through."""

    needs_pooler = True

    def __init__(self, config: AlbertConfig, *, attn_implementation: str = "auto") -> None:
        super().__init__(config, attn_implementation=attn_implementation)
        self.albert = AlbertModel(config, self.needs_pooler, attn_implementation=attn_implementation)
        self.add_head(config)
        if self.albert.device.type != "meta":
            self.init_weights()

    def add_head(self, config: AlbertConfig) -> None:
        """Make the head's modules; runs once, before the weights are initialised."""
        raise NotImplementedError

    def get_input_embeddings(self) -> nn.Embedding:
        """The word table."""
        return self.albert.embeddings.word_embeddings

    def encode(self, *inputs: Tensor | None, **options: Any) -> BaseModelOutputWithPooling:
        output: BaseModelOutputWithPooling = self.albert(*inputs, return_dict=True, **options)
        return output

    def _returned(self, output: Any, return_dict: bool | None) -> Any:
        return returned(output, self.config.return_dict if return_dict is None else return_dict)


class AlbertForPreTraining(_WithEncoder):
    """Masked-LM and sentence-order heads, as in pretraining."""

    tied_weights = TIED_DECODER

    def add_head(self, config: AlbertConfig) -> None:
        self.predictions = AlbertMLMHead(config)
        self.sop_classifier = AlbertSOPHead(config)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        sentence_order_label: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        positions: Tensor | None = None,
    ) -> Any:
        """``labels`` ``[B, S]`` (-100 ignored) and ``sentence_order_label`` ``[B]`` together give the summed loss.

        ``positions`` as in ``AlbertForMaskedLM``: ``prediction_logits`` are then ``[asked, vocab_size]``.
        """
        out = self.encode(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states,
        )  # fmt: skip
        prediction_logits = self.predictions(out.last_hidden_state, positions)
        sop_logits = self.sop_classifier(out.pooler_output)
        loss = None
        if labels is not None and sentence_order_label is not None:
            loss = cross_entropy(prediction_logits, _at(labels, positions))
            loss = loss + cross_entropy(sop_logits, sentence_order_label)
        return self._returned(
            AlbertForPreTrainingOutput(loss, prediction_logits, sop_logits, out.hidden_states, out.attentions),
            return_dict,
        )


class AlbertForMaskedLM(_WithEncoder):
    """Scores over the vocabulary for every token."""

    tied_weights = TIED_DECODER
    needs_pooler = False

    def add_head(self, config: AlbertConfig) -> None:
        self.predictions = AlbertMLMHead(config)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        positions: Tensor | None = None,
    ) -> Any:
        """Encode a batch and score the vocabulary.

        Args:
            labels: ``[B, S]`` int64 gives ``loss``, the mean cross-entropy over labels other than -100.
            positions: ``[asked]`` int64, indices into the ``B * S`` tokens (``Batch.positions``): their scores alone
                are computed, ``logits`` ``[asked, vocab_size]``, and count in ``loss``. Not in ``transformers``.
        Raises:
            ValueError: as ``AlbertModel``, or the positions are no places in the batch.
        """
        out = self.encode(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states,
        )  # fmt: skip
        logits = self.predictions(out.last_hidden_state, positions)
        loss = None if labels is None else cross_entropy(logits, _at(labels, positions))
        return self._returned(MaskedLMOutput(loss, logits, out.hidden_states, out.attentions), return_dict)


class AlbertForSequenceClassification(_WithEncoder):
    """One label, several labels, or numbers for a text or a pair of texts."""

    def add_head(self, config: AlbertConfig) -> None:
        self.num_labels = config.num_labels
        self.dropout = nn.Dropout(config.classifier_dropout_prob or 0.0)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """``labels``: ``[B]`` int64 (single label), ``[B, num_labels]`` float (multi label), or float (regression).

        The config's ``problem_type`` decides which; None infers it from ``num_labels`` and the labels' dtype.
        """
        out = self.encode(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states,
        )  # fmt: skip
        logits = self.classifier(self.dropout(out.pooler_output))
        loss = None if labels is None else classification_loss(logits, labels, self.config.problem_type)
        return self._returned(SequenceClassifierOutput(loss, logits, out.hidden_states, out.attentions), return_dict)


class AlbertForTokenClassification(_WithEncoder):
    """One label for every token."""

    needs_pooler = False

    def add_head(self, config: AlbertConfig) -> None:
        self.num_labels = config.num_labels
        p = config.classifier_dropout_prob
        self.dropout = nn.Dropout(config.hidden_dropout_prob if p is None else p)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """``labels`` ``[B, S]`` int64 gives ``loss``; -100 is ignored."""
        out = self.encode(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states,
        )  # fmt: skip
        logits = self.classifier(self.dropout(out.last_hidden_state))
        loss = None if labels is None else cross_entropy(logits, labels)
        return self._returned(TokenClassifierOutput(loss, logits, out.hidden_states, out.attentions), return_dict)


class AlbertForQuestionAnswering(_WithEncoder):
    """Scores for where the answer starts and ends."""

    needs_pooler = False

    def add_head(self, config: AlbertConfig) -> None:
        if config.num_labels != 2:
            raise ValueError(
                f"question answering needs num_labels 2 (start and end), the config has {config.num_labels}"
            )
        self.num_labels = config.num_labels
        self.qa_outputs = nn.Linear(config.hidden_size, config.num_labels)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """``start_positions`` and ``end_positions`` ``[B]`` together give ``loss``; those past the text are ignored."""
        out = self.encode(
            input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states,
        )  # fmt: skip
        start_logits, end_logits = self.qa_outputs(out.last_hidden_state).unbind(-1)
        start_logits, end_logits = start_logits.contiguous(), end_logits.contiguous()
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = (span_loss(start_logits, start_positions) + span_loss(end_logits, end_positions)) / 2
        return self._returned(
            QuestionAnsweringModelOutput(loss, start_logits, end_logits, out.hidden_states, out.attentions),
            return_dict,
        )


class AlbertForMultipleChoice(_WithEncoder):
    """One score for each of several choices; inputs are ``[B, choices, S]``."""

    def add_head(self, config: AlbertConfig) -> None:
        self.dropout = nn.Dropout(config.classifier_dropout_prob or 0.0)
        self.classifier = nn.Linear(config.hidden_size, 1)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> Any:
        """``labels`` ``[B]`` int64, the right choice's number, gives ``loss``."""
        source = input_ids if input_ids is not None else inputs_embeds
        if source is None or source.dim() < 3:
            found = None if source is None else list(source.shape)
            raise ValueError(f"multiple choice takes input_ids of shape [batch, choices, length], found {found}")
        num_choices = source.shape[1]
        flat = [
            None if t is None else t.flatten(0, 1) for t in (input_ids, attention_mask, token_type_ids, position_ids)
        ]
        out = self.encode(
            *flat, None if inputs_embeds is None else inputs_embeds.flatten(0, 1),
            output_attentions=output_attentions, output_hidden_states=output_hidden_states,
        )  # fmt: skip
        logits = self.classifier(self.dropout(out.pooler_output)).view(-1, num_choices)
        loss = None if labels is None else cross_entropy(logits, labels)
        return self._returned(MultipleChoiceModelOutput(loss, logits, out.hidden_states, out.attentions), return_dict)


def _at(labels: Tensor, positions: Tensor | None) -> Tensor:
    """The labels that belong to the scores: of every token, or of those at ``positions``."""
    return labels if positions is None else functional.at_positions(labels, positions)


@dataclass(frozen=True)
class Head:
    """One row of ``HEADS``.

    Attributes:
        model_class: the class of the same name in ``transformers``.
        outputs: names of the tensors an engine of this head returns, in order.
        per_token: those of them that have a dimension of tokens, the second.
        asked: those of them that the model also gives at asked positions alone, with ``positions``.
        ids_rank: dimensions of ``input_ids``: 2, or 3 where there are choices.
    """

    model_class: type[AlbertPreTrainedModel]
    outputs: tuple[str, ...]
    per_token: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    ids_rank: int = 2


HEADS: Mapping[str, Head] = {
    "base": Head(AlbertModel, ("last_hidden_state", "pooler_output"), ("last_hidden_state",)),
    "pretraining": Head(
        AlbertForPreTraining, ("prediction_logits", "sop_logits"), ("prediction_logits",), asked=("prediction_logits",)
    ),
    "masked-lm": Head(AlbertForMaskedLM, ("logits",), ("logits",), asked=("logits",)),
    "sequence-classification": Head(AlbertForSequenceClassification, ("logits",)),
    "token-classification": Head(AlbertForTokenClassification, ("logits",), ("logits",)),
    "question-answering": Head(
        AlbertForQuestionAnswering, ("start_logits", "end_logits"), ("start_logits", "end_logits")
    ),
    "multiple-choice": Head(AlbertForMultipleChoice, ("logits",), ids_rank=3),
}


def head_of(model: nn.Module) -> str:
    """The name of the row in ``HEADS`` that ``model`` belongs to."""
    for name, head in HEADS.items():
        if type(model) is head.model_class:
            return name
    raise ValueError(
        f"{type(model).__name__} is no ALBERT of this library; for a transformers model use from_transformers"
    )


def asked_refusal(name: str) -> str | None:
    """Why a head cannot answer at asked positions alone, in a sentence; None where it can."""
    if HEADS[name].asked:
        return None
    able = ", ".join(other for other, head in HEADS.items() if head.asked)
    return f"the head {name!r} has no scores over the vocabulary to ask for at some positions; only {able} have"
