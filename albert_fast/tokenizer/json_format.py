"""``tokenizer.json``, the format of the ``tokenizers`` library: read into a vocabulary, or written from one."""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

from albert_fast.errors import CheckpointError
from albert_fast.tokenizer.added_tokens import AddedToken
from albert_fast.tokenizer.proto import CONTROL, NORMAL, UNKNOWN, USER_DEFINED, SentencePieceModel
from albert_fast.tokenizer.unigram import DIGIT_COMMA_PENALTY, SPACE, Vocabulary, ends_in_digit_and_comma


@dataclass(frozen=True)
class TokenizerJson:
    """What a ``tokenizer.json`` of an ALBERT says."""

    vocabulary: Vocabulary
    added: tuple[tuple[AddedToken, int], ...]
    do_lower_case: bool
    keep_accents: bool


def parse(data: bytes, *, source: str) -> TokenizerJson:
    """Read the file.

    Pieces that end in a digit and a comma get Google's penalty where the file lacks it: ``transformers`` 5 loses it
    when it converts a ``spiece.model``.

    Raises:
        CheckpointError: not JSON, not a unigram vocabulary, or damaged.
    """
    try:
        root = json.loads(data)
        model = root["model"]
        if model.get("type", "Unigram") != "Unigram":
            raise CheckpointError(
                f"{source} holds a {model['type']} vocabulary, expected Unigram (SentencePiece), which ALBERT uses; "
                "load it with the tokenizer class it was made by"
            )
        vocab = [(str(piece), float(score)) for piece, score in model["vocab"]]
        unk_id = int(model["unk_id"])
        added = tuple(
            (AddedToken.from_any(token, special=False), int(token["id"])) for token in root.get("added_tokens") or ()
        )
        steps = _steps(root.get("normalizer"))
        charsmap = b""
        for step in steps:
            if step.get("type") == "Precompiled":
                charsmap = base64.b64decode(step["precompiled_charsmap"] or "", validate=True)
    except CheckpointError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, binascii.Error, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{source} is not a tokenizer.json of an ALBERT ({reason}); download it again") from error
    if not 0 <= unk_id < len(vocab) or len(dict(vocab)) != len(vocab):
        raise CheckpointError(
            f"{source}: unk_id {unk_id} among {len(vocab)} pieces, {len(dict(vocab))} of them different; "
            "download it again"
        )
    kinds = {step.get("type") for step in steps}
    return TokenizerJson(
        _vocabulary(vocab, unk_id, charsmap, {token.content for token, _ in added if token.special}),
        added,
        do_lower_case="Lowercase" in kinds,
        keep_accents="StripAccents" not in kinds,
    )


def _steps(normalizer: Any) -> list[dict[str, Any]]:
    if not normalizer:
        return []
    return list(normalizer["normalizers"]) if normalizer["type"] == "Sequence" else [normalizer]


def _vocabulary(vocab: list[tuple[str, float]], unk_id: int, charsmap: bytes, specials: set[str]) -> Vocabulary:
    """The vocabulary with a SentencePiece model made for it.

    The file does not say which pieces users defined: they are those with score 0 that are no special tokens.
    """
    penalized, trained, kinds = [], [], []
    for index, (piece, score) in enumerate(vocab):
        if ends_in_digit_and_comma(piece):
            score = score if score > -DIGIT_COMMA_PENALTY else score + DIGIT_COMMA_PENALTY
            penalized.append(score - DIGIT_COMMA_PENALTY)
        else:
            penalized.append(score)
        trained.append(score)
        special = CONTROL if piece in specials else USER_DEFINED if score == 0.0 else NORMAL
        kinds.append(UNKNOWN if index == unk_id else special)
    pieces = tuple(piece for piece, _ in vocab)
    model = SentencePieceModel(pieces, tuple(trained), tuple(kinds), charsmap)
    return Vocabulary(pieces, tuple(penalized), unk_id, model)


def serialize(
    vocabulary: Vocabulary,
    added: list[tuple[AddedToken, int]],
    *,
    do_lower_case: bool,
    keep_accents: bool,
    cls: tuple[str, int],
    sep: tuple[str, int],
) -> bytes:
    """The file that ``tokenizers`` loads, and ``transformers`` 4 and 5 through it, with the same ids."""
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": quotes}, "content": '"'} for quotes in ("``", "''")
    ]
    steps += [] if keep_accents else [{"type": "NFKD"}, {"type": "StripAccents"}]
    steps += [{"type": "Lowercase"}] if do_lower_case else []
    if vocabulary.model.charsmap:
        charsmap = base64.b64encode(vocabulary.model.charsmap).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    metaspace = {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "always", "split": True}
    first = [{"SpecialToken": {"id": cls[0], "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    first.append({"SpecialToken": {"id": sep[0], "type_id": 0}})
    second = [{"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": sep[0], "type_id": 1}}]
    root = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": id, **token.to_dict()} for token, id in sorted(added, key=lambda item: item[1])],
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": first,
            "pair": first + second,
            "special_tokens": {text: {"id": text, "ids": [id], "tokens": [text]} for text, id in (cls, sep)},
        },
        "decoder": metaspace,
        "model": {
            "type": "Unigram",
            "unk_id": vocabulary.unk_id,
            "vocab": list(zip(vocabulary.pieces, vocabulary.scores, strict=True)),
            "byte_fallback": False,
        },
    }
    return json.dumps(root, ensure_ascii=False).encode()
