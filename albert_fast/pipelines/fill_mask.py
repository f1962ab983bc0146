"""fill-mask: the likeliest pieces of the vocabulary in place of every ``[MASK]``."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import torch
from torch import Tensor

from albert_fast.batch import Batch
from albert_fast.pipelines.base import Pipeline
from albert_fast.pipelines.texts import Row, Text

logger = logging.getLogger(__name__)


class FillMaskPrediction(TypedDict):
    """One candidate: its probability, its id, its text, and the whole text with it filled in."""

    score: float
    token: int
    token_str: str
    sequence: str


class FillMaskPipeline(Pipeline):
    """Called with one text or a list of texts, each with at least one ``[MASK]``."""

    options = ("top_k", "targets")

    def __call__(self, inputs: str | Sequence[str], **options: Any) -> Any:
        """Predict the masked pieces.

        Args:
            inputs: a text, or a list of texts.
            top_k: candidates per mask, 5 unless given; at most as many as there are ``targets``.
            targets: a word or words; only these are scored, by their probability among the whole vocabulary. One that
                is no piece of the vocabulary counts as its first piece, and a warning says so.
            tokenizer_kwargs, truncation, max_length, padding, add_special_tokens: as for the tokenizer.
            batch_size: as for ``pipeline``.
        Returns:
            For a text (or a list of one): a list of ``FillMaskPrediction``, best first; with several masks a list of
            such lists, one per mask, each scored as if it were alone. For several texts: a list of those.
        Raises:
            ValueError: an input that is no text, has no mask token or too many tokens; options out of range.
        """
        several = isinstance(inputs, list | tuple)
        results = self.run(list(inputs) if several else [inputs], options)
        return results[0] if len(results) == 1 else results

    def check(self, text: Text, row: Row, place: str) -> None:
        """A text needs a mask token that truncation left in it."""
        mask = self.tokenizer.mask_token
        if self.tokenizer.mask_token_id in row.input_ids:
            return
        if mask in text.text or mask in (text.text_pair or ""):
            raise ValueError(
                f"truncation to {len(row.input_ids)} tokens cut off {mask} in {place}; put it further in front"
            )
        raise ValueError(
            f"no mask token in {place}, expected {mask} where a word is to be predicted: {text.text[:60]!r}"
        )

    def prepare(self, options: dict[str, Any]) -> dict[str, Any]:
        """``top_k`` within the vocabulary and the targets' ids."""
        top_k, size = options.get("top_k"), self._known_pieces()
        top_k = 5 if top_k is None else top_k
        if not isinstance(top_k, int) or isinstance(top_k, bool) or not 1 <= top_k <= size:
            raise ValueError(f"top_k is {top_k!r}, expected 1..{size} (the pieces of the vocabulary)")
        return {"top_k": top_k, "targets": self._target_ids(options.get("targets"))}

    def ask(self, batch: Batch) -> Batch:
        """Its masks."""
        if not self.engine.asked:
            return batch
        return dataclasses.replace(batch, asked=batch.input_ids == self.tokenizer.mask_token_id)

    def answer(self, row: Row, outputs: Mapping[str, Tensor], places: Tensor, settings: Mapping[str, Any]) -> Any:
        """``logits`` ``[padded length, vocab_size]``, or ``[masks, vocab_size]`` -> predictions for each mask."""
        ids = torch.tensor(row.input_ids)
        masked = torch.nonzero(ids == self.tokenizer.mask_token_id).squeeze(-1)
        logits = outputs["logits"]
        scored = logits if self.engine.asked else logits[places[masked].to(logits.device)]
        probabilities = scored.float().cpu().softmax(dim=-1)
        targets, top_k = settings["targets"], settings["top_k"]
        if targets is None:
            probabilities = probabilities[:, : self._known_pieces()]
        else:
            probabilities, top_k = probabilities[:, targets], min(top_k, len(targets))
        scores, found = probabilities.topk(top_k)
        predictions = [
            [
                self._prediction(ids, place, token if targets is None else targets[token], score, len(masked) == 1)
                for score, token in zip(row_scores, row_tokens, strict=True)
            ]
            for place, row_scores, row_tokens in zip(masked.tolist(), scores.tolist(), found.tolist(), strict=True)
        ]
        return predictions[0] if len(predictions) == 1 else predictions

    def _known_pieces(self) -> int:
        """How many ids have a piece: a model's word table may be larger than its vocabulary, for alignment."""
        return min(self.engine.config.vocab_size, len(self.tokenizer))

    def _prediction(self, ids: Tensor, place: int, token: int, score: float, single: bool) -> FillMaskPrediction:
        filled = ids.clone()
        filled[place] = token
        kept = filled[filled != self.tokenizer.pad_token_id].tolist()
        # With several masks the others stay visible, so special tokens cannot be left out.
        sequence = self.tokenizer.decode(kept, skip_special_tokens=single)
        return {"score": score, "token": token, "token_str": self.tokenizer.decode([token]), "sequence": sequence}

    def _target_ids(self, targets: str | Sequence[str] | None) -> list[int] | None:
        """Ids of the target words, each once, in their order."""
        if targets is None:
            return None
        words = [targets] if isinstance(targets, str) else list(targets)
        wrong = [word for word in words if not isinstance(word, str) or not word.strip()]
        if wrong or not words:
            raise ValueError(
                f"targets holds {wrong[0]!r}, expected words" if wrong else "targets is empty; name a word"
            )
        vocabulary = self.tokenizer.get_vocab()
        ids = []
        for word in words:
            if word not in vocabulary:
                pieces = self.tokenizer(word, add_special_tokens=False)["input_ids"]
                if not pieces:
                    raise ValueError(f"the target {word!r} has no piece in the vocabulary; leave it out")
                first = self.tokenizer.convert_ids_to_tokens(int(pieces[0]))
                logger.warning("the target %r is no piece of the vocabulary; its first piece %r is scored", word, first)
                ids.append(int(pieces[0]))
            else:
                ids.append(int(vocabulary[word]))
        return list(dict.fromkeys(ids))
