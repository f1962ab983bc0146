"""The special tokens around texts: ``[CLS] A [SEP]`` and ``[CLS] A [SEP] B [SEP]``."""

from __future__ import annotations

from albert_fast.tokenizer.tokens import TokenTable


class FramedTokens(TokenTable):
    """Puts special tokens around ids that were made without them."""

    model_max_length: int

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Special tokens around one text or around a pair."""
        return 3 if pair else 2

    @property
    def max_len_single_sentence(self) -> int:
        """Tokens of text that one text may have."""
        return self.model_max_length - 2

    @property
    def max_len_sentences_pair(self) -> int:
        """Tokens of text that a pair may have."""
        return self.model_max_length - 3

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """``[CLS] A [SEP]`` or ``[CLS] A [SEP] B [SEP]``."""
        cls, sep = [self.cls_token_id], [self.sep_token_id]
        one = cls + list(token_ids_0) + sep
        return one if token_ids_1 is None else one + list(token_ids_1) + sep

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """0 for ``[CLS] A [SEP]``, 1 for ``B [SEP]``."""
        one = [0] * (len(token_ids_0) + 2)
        return one if token_ids_1 is None else one + [1] * (len(token_ids_1) + 1)

    def get_special_tokens_mask(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """1 for special tokens: in the given ids, or in what ``build_inputs_with_special_tokens`` makes of them."""
        if already_has_special_tokens:
            if token_ids_1 is not None:
                raise ValueError("ids that have their special tokens are one list; leave token_ids_1 out")
            special = set(self.all_special_ids)
            return [int(id in special) for id in token_ids_0]
        one = [1, *[0] * len(token_ids_0), 1]
        return one if token_ids_1 is None else [*one, *[0] * len(token_ids_1), 1]
