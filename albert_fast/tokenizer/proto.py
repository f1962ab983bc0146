"""A SentencePiece ``.model`` file: read into pieces and a character map, or written from them.

The file is one protobuf message, ``sentencepiece.ModelProto``. Its few fields are read and written here by their wire
format, because the message classes that the ``sentencepiece`` package ships need the protobuf runtime, and its
processor gives no access to the character map that ``tokenizer.json`` needs.
Source: sentencepiece/src/sentencepiece_model.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from albert_fast.errors import CheckpointError

NORMAL: Final = 1
UNKNOWN: Final = 2
CONTROL: Final = 3
USER_DEFINED: Final = 4
_UNIGRAM: Final = 1
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_KINDS = frozenset({NORMAL, UNKNOWN, CONTROL, USER_DEFINED, 5, 6})


@dataclass(frozen=True)
class SentencePieceModel:
    """What a unigram SentencePiece model says.

    Attributes:
        pieces: the text of every piece; its index is its id.
        scores: log-probability of every piece, as stored (float32).
        kinds: NORMAL, UNKNOWN, CONTROL or USER_DEFINED, per piece.
        charsmap: the compiled character map (``precompiled_charsmap``); empty for an identity normalizer.
    """

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    kinds: tuple[int, ...]
    charsmap: bytes = b""


def parse(data: bytes, *, source: str) -> SentencePieceModel:
    """Read a serialized model.

    Args:
        data: the bytes of the file.
        source: its name, for messages.
    Raises:
        CheckpointError: not such a file, damaged, or a model that is not unigram.
    """
    pieces: list[str] = []
    scores: list[float] = []
    kinds: list[int] = []
    charsmap, model_type = b"", _UNIGRAM
    try:
        for field, value in _fields(data):
            if field == 1 and isinstance(value, bytes):
                text, score, kind = _piece(value)
                pieces.append(text)
                scores.append(score)
                kinds.append(kind)
            elif field == 2 and isinstance(value, bytes):
                model_type = next((v for f, v in _fields(value) if f == 3 and isinstance(v, int)), _UNIGRAM)
            elif field == 3 and isinstance(value, bytes):
                charsmap = next((v for f, v in _fields(value) if f == 2 and isinstance(v, bytes)), b"")
    except (ValueError, IndexError, struct.error) as error:
        raise CheckpointError(
            f"{source} is not a SentencePiece model ({len(data)} bytes: {error}); {_ADVICE}"
        ) from error
    if not pieces:
        raise CheckpointError(f"{source} is not a SentencePiece model ({len(data)} bytes, no pieces); {_ADVICE}")
    if model_type != _UNIGRAM:
        raise CheckpointError(f"{source} holds a SentencePiece model of type {model_type}, expected 1 (unigram)")
    if len(set(pieces)) != len(pieces):
        raise CheckpointError(f"{source} holds a piece twice; {_ADVICE}")
    return SentencePieceModel(tuple(pieces), tuple(scores), tuple(kinds), charsmap)


_ADVICE = "download it again, or train one with sentencepiece"


def serialize(model: SentencePieceModel, *, identity: bool = False) -> bytes:
    """Write a model that the ``sentencepiece`` library loads.

    Args:
        model: what to write.
        identity: leave the character map out and keep white space as it is, for text that is normalized already.
    """
    out = bytearray()
    for text, score, kind in zip(model.pieces, model.scores, model.kinds, strict=True):
        body = _length_delimited(1, text.encode()) + b"\x15" + struct.pack("<f", score)
        out += _length_delimited(1, body if kind == NORMAL else body + b"\x18" + _varint(kind))
    ids = {name: model.pieces.index(name) if name in model.pieces else -1 for name in ("<unk>", "<pad>", "<s>", "</s>")}
    trainer = b"\x18" + _varint(_UNIGRAM) + b"\x20" + _varint(len(model.pieces))
    for field, name in ((40, "<unk>"), (41, "<s>"), (42, "</s>"), (43, "<pad>")):
        trainer += _varint(field << 3 | _VARINT) + _varint(ids[name] & 0xFFFFFFFFFFFFFFFF)
    charsmap = b"" if identity else model.charsmap
    normalizer = _length_delimited(1, b"nmt_nfkc" if charsmap else b"identity") + _length_delimited(2, charsmap)
    normalizer += b"\x18\x01" + (b"\x20\x00" if identity else b"\x20\x01") + b"\x28\x01"
    return bytes(out + _length_delimited(2, trainer) + _length_delimited(3, normalizer))


def _piece(data: bytes) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, NORMAL
    for field, value in _fields(data):
        if field == 1 and isinstance(value, bytes):
            text = value.decode()
        elif field == 2 and isinstance(value, bytes):
            (score,) = struct.unpack("<f", value)
        elif field == 3 and isinstance(value, int):
            kind = value
    if not text or score != score or kind not in _KINDS:
        raise ValueError(f"a piece with text {text!r}, score {score} and type {kind}")
    return text, score, kind


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The fields of one message: (number, an int for varints, else the bytes)."""
    position, end = 0, len(data)
    while position < end:
        key, position = _read_varint(data, position)
        wire = key & 7
        if wire == _VARINT:
            number, position = _read_varint(data, position)
            yield key >> 3, number
            continue
        if wire == _BYTES:
            size, position = _read_varint(data, position)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {wire} at byte {position}")
        if size > end - position:
            raise ValueError(f"a field of {size} bytes at byte {position}, where {end - position} are left")
        yield key >> 3, data[position : position + size]
        position += size


def _read_varint(data: bytes, position: int) -> tuple[int, int]:
    byte = data[position]
    if byte < 0x80:
        return byte, position + 1
    value, shift = 0, 0
    while byte >= 0x80:
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if shift > 63:
            raise ValueError(f"a number without end at byte {position}")
        byte = data[position]
    return value | byte << shift, position + 1


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _length_delimited(field: int, payload: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(payload)) + payload
