"""Between tokens and ids: the vocabulary, the special tokens by their role, added tokens, and ids back to text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, overload

from albert_fast.tokenizer.added_tokens import AddedToken
from albert_fast.tokenizer.unigram import SPACE, Vocabulary

ROLES = {
    "bos_token": "[CLS]",
    "eos_token": "[SEP]",
    "unk_token": "<unk>",
    "sep_token": "[SEP]",
    "pad_token": "<pad>",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_CLEAN_UP = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


class TokenTable:
    """The tokens that a tokenizer knows. ``cls_token``, ``cls_token_id`` and so on name the special ones.

    Args:
        vocabulary: the pieces.
        roles: the special token of each role of ROLES, as text or with its flags.
        added: tokens to find in the text, with their ids.
    """

    bos_token: str
    eos_token: str
    unk_token: str
    sep_token: str
    pad_token: str
    cls_token: str
    mask_token: str
    bos_token_id: int
    eos_token_id: int
    unk_token_id: int
    sep_token_id: int
    pad_token_id: int
    cls_token_id: int
    mask_token_id: int
    clean_up_tokenization_spaces: bool = False

    def __init__(
        self, vocabulary: Vocabulary, roles: Mapping[str, object], added: Iterable[tuple[AddedToken, int]]
    ) -> None:
        self.vocabulary = vocabulary
        self._roles: dict[str, str] = {}
        self._added: dict[str, tuple[AddedToken, int]] = {}
        self._content: dict[int, AddedToken] = {}
        for token, id in added:
            self._put(token, id)
        for role, value in roles.items():
            self._set_role(role, value)

    def _put(self, token: AddedToken, id: int) -> None:
        size = len(self.vocabulary.pieces)
        known = self.vocabulary.ids.get(token.content, id)
        if id < 0 or known != id or (id < size and self.vocabulary.pieces[id] != token.content):
            taken = self.vocabulary.pieces[id] if 0 <= id < size else "not in the vocabulary"
            raise ValueError(
                f"the added token {token.content!r} has id {id}, where the vocabulary has {taken!r}; "
                "tokenizer files of two models are mixed"
            )
        self._added[token.content] = (token, id)
        self._content[id] = token

    def _set_role(self, role: str, value: object) -> None:
        """Give a role to a token; a plain text keeps the flags of the token it names."""
        token = AddedToken.from_any(value, special=True)
        known = self._added.get(token.content)
        if known is not None and isinstance(value, str):
            token = known[0]
        if known is None or known[0] != token or not token.special:
            self._put(replace(token, special=True), self._id_or_next(token.content))
        self._roles[role] = token.content

    def _id_or_next(self, content: str) -> int:
        """The id of a token, the next free one for a new token."""
        if content in self._added:
            return self._added[content][1]
        return self.vocabulary.ids.get(content, max([len(self.vocabulary.pieces) - 1, *self._content]) + 1)

    def _changed(self) -> None:
        """Called after tokens were added."""

    def __getattr__(self, name: str) -> Any:
        roles = self.__dict__.get("_roles", {})
        if name in roles:
            return roles[name]
        if name.endswith("_id") and name[:-3] in roles:
            return self._added[roles[name[:-3]]][1]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in ROLES:
            object.__setattr__(self, name, value)
            return
        self._set_role(name, value)
        self._changed()

    def add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        """Add tokens to find in the text; a ``str`` is looked for in the normalized text unless it is special.

        Returns:
            How many were not there before. Enlarge the model's embeddings to ``len(tokenizer)`` after it.
        """
        tokens = new_tokens if isinstance(new_tokens, (list, tuple)) else [new_tokens]
        count = 0
        for value in tokens:
            token = AddedToken.from_any(value, special=special_tokens, normalized=not special_tokens)
            if not token.content or token.content in self._added:
                continue
            self._put(token, self._id_or_next(token.content))
            count += 1
        self._changed()
        return count

    def add_special_tokens(self, special_tokens_dict: Mapping[str, Any]) -> int:
        """Set special tokens by role, and more with the key ``additional_special_tokens``; returns how many are new."""
        before = len(self._added)
        for role, value in special_tokens_dict.items():
            if role in ("additional_special_tokens", "extra_special_tokens"):
                self.add_tokens(list(value), special_tokens=True)
            elif role in ROLES:
                setattr(self, role, value)
            else:
                raise ValueError(f"{role!r}, expected additional_special_tokens or one of {', '.join(ROLES)}")
        self._changed()
        return len(self._added) - before

    @property
    def vocab_size(self) -> int:
        """Pieces of the vocabulary, added tokens not counted."""
        return len(self.vocabulary.pieces)

    def __len__(self) -> int:
        return max([len(self.vocabulary.pieces) - 1, *self._content]) + 1

    def get_vocab(self) -> dict[str, int]:
        """Id of every token, added ones too."""
        return {**self.vocabulary.ids, **self.added_tokens_encoder}

    @property
    def vocab(self) -> dict[str, int]:
        """The same as :meth:`get_vocab`."""
        return self.get_vocab()

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """Id of every token that is looked for in the text."""
        return {token.content: id for id, token in self.added_tokens_decoder.items()}

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """Every token that is looked for in the text, by id."""
        return dict(sorted(self._content.items()))

    def get_added_vocab(self) -> dict[str, int]:
        """The same as ``added_tokens_encoder``."""
        return self.added_tokens_encoder

    @property
    def special_tokens_map(self) -> dict[str, str | list[str]]:
        """The special token of every role."""
        extra = self.additional_special_tokens
        return {**self._roles, **({"additional_special_tokens": extra} if extra else {})}

    @property
    def additional_special_tokens(self) -> list[str]:
        """Special tokens without a role."""
        roles = set(self._roles.values())
        return [token.content for token in self._content.values() if token.special and token.content not in roles]

    @property
    def all_special_tokens(self) -> list[str]:
        """Every special token once."""
        return list(dict.fromkeys([*self._roles.values(), *self.additional_special_tokens]))

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of ``all_special_tokens``."""
        return [self._added[token][1] for token in self.all_special_tokens]

    @overload
    def convert_tokens_to_ids(self, tokens: str) -> int: ...
    @overload
    def convert_tokens_to_ids(self, tokens: list[str] | tuple[str, ...]) -> list[int]: ...
    def convert_tokens_to_ids(self, tokens: str | list[str] | tuple[str, ...]) -> int | list[int]:
        """The id of a token, or of each; ``unk_token_id`` for what is no token."""
        if isinstance(tokens, str):
            known = self._added.get(tokens)
            return known[1] if known else self.vocabulary.ids.get(tokens, self.unk_token_id)
        return [self.convert_tokens_to_ids(token) for token in tokens]

    @overload
    def convert_ids_to_tokens(self, ids: int, skip_special_tokens: bool = False) -> str: ...
    @overload
    def convert_ids_to_tokens(self, ids: Sequence[int], skip_special_tokens: bool = False) -> list[str]: ...
    def convert_ids_to_tokens(self, ids: int | Sequence[int], skip_special_tokens: bool = False) -> str | list[str]:
        """The token of an id, or of each.

        Raises:
            ValueError: an id that no token has.
        """
        if not hasattr(ids, "__iter__"):
            return self._token(ids)
        special = set(self.all_special_ids) if skip_special_tokens else ()
        return [self._token(id) for id in _plain(ids) if id not in special]

    def _token(self, id: Any) -> str:
        id = int(id)
        if id in self._content:
            return self._content[id].content
        if 0 <= id < len(self.vocabulary.pieces):
            return self.vocabulary.pieces[id]
        raise ValueError(
            f"id {id}, expected 0..{len(self) - 1}; ids come from this tokenizer or its model "
            "(replace labels such as -100 by pad_token_id before decoding)"
        )

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Tokens joined to a text: ``▁`` becomes a space, none at the beginning."""
        if not tokens:
            return ""
        return tokens[0].replace(SPACE, "") + "".join(tokens[1:]).replace(SPACE, " ")

    def decode(
        self, token_ids: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> Any:
        """The text of ids (int, list, array or tensor); of each row, as a list, where there are rows.

        Args:
            skip_special_tokens: leave out special tokens, ``<unk>`` too.
            clean_up_tokenization_spaces: remove spaces before punctuation and English contractions.
        """
        if isinstance(token_ids, Mapping):
            token_ids = token_ids["input_ids"]
        ids = _plain(token_ids)
        if isinstance(ids, list) and ids and isinstance(ids[0], (list, tuple)):
            return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in ids]
        tokens = self.convert_ids_to_tokens(ids if isinstance(ids, list) else [ids], skip_special_tokens)
        text = self.convert_tokens_to_string(tokens)
        clean = (
            self.clean_up_tokenization_spaces if clean_up_tokenization_spaces is None else clean_up_tokenization_spaces
        )
        if clean:
            for spaced, joined in _CLEAN_UP:
                text = text.replace(spaced, joined)
        return text

    def batch_decode(
        self, sequences: Any, skip_special_tokens: bool = False, clean_up_tokenization_spaces: bool | None = None
    ) -> list[str]:
        """The text of each row of ids."""
        if isinstance(sequences, Mapping):
            sequences = sequences["input_ids"]
        return [self.decode(row, skip_special_tokens, clean_up_tokenization_spaces) for row in _plain(sequences)]


def _plain(ids: Any) -> Any:
    """Ids of an array or tensor as Python lists; all else as it is."""
    return ids.tolist() if hasattr(ids, "tolist") else list(ids) if isinstance(ids, tuple) else ids
