"""The files a tokenizer is kept in: read from the layouts that exist, written for everyone to load."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from albert_fast.errors import CheckpointError
from albert_fast.tokenizer import json_format, proto
from albert_fast.tokenizer.added_tokens import AddedToken
from albert_fast.tokenizer.unigram import Vocabulary, vocabulary_of

logger = logging.getLogger(__name__)

SPIECE, JSON, CONFIG = "spiece.model", "tokenizer.json", "tokenizer_config.json"
MODEL_NAMES = (SPIECE, "30k-clean.model")
PATTERNS = (*MODEL_NAMES, JSON, CONFIG, "special_tokens_map.json", "added_tokens.json")
_LARGEST = 256 * 1024 * 1024


@dataclass(frozen=True)
class TokenizerFiles:
    """A tokenizer as read.

    Attributes:
        vocabulary: its pieces.
        added: tokens found in the text before segmentation, with their ids; empty if the files do not say.
        settings: keyword arguments of the tokenizer class that the files hold.
    """

    vocabulary: Vocabulary
    added: tuple[tuple[AddedToken, int], ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)


def read_file(path: str | Path) -> TokenizerFiles:
    """Read one vocabulary file: a SentencePiece ``.model`` or a ``tokenizer.json``.

    Raises:
        CheckpointError: absent, too large, or neither of the two.
    """
    path = Path(path)
    data = _read(path)
    if data.lstrip()[:1] == b"{":
        return _from_json(json_format.parse(data, source=str(path)))
    target = _symlink_text(path, data)
    if target is not None:
        logger.info("%s holds the name %s (a symbolic link checked out as text); reading that file", path, target)
        data = _read(target)
    model = proto.parse(data, source=str(path))
    if proto.UNKNOWN not in model.kinds:
        raise CheckpointError(f"{path} has no piece of type UNKNOWN; train the model with unk_id=1")
    unk_id = model.kinds.index(proto.UNKNOWN)
    return TokenizerFiles(vocabulary_of(model, unk_id=unk_id, serialized=data))


def read_folder(folder: Path) -> TokenizerFiles:
    """Read a folder as written by ``transformers`` 4 (slow or fast) or 5, by Google, or by this project.

    ``tokenizer.json`` decides where it is; a ``spiece.model`` beside it must hold the same pieces.

    Raises:
        CheckpointError: no vocabulary in the folder, or a damaged one, or two different ones.
    """
    model = next((folder / name for name in MODEL_NAMES if (folder / name).is_file()), None)
    if model is None:
        others = sorted(folder.glob("*.model")) if folder.is_dir() else []
        model = others[0] if len(others) == 1 else None
    described = folder / JSON
    if described.is_file():
        files = read_file(described)
        if model is not None:
            files = _with_model(files, read_file(model), described, model)
    elif model is not None:
        files = read_file(model)
    else:
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:12]) if folder.is_dir() else "no such folder"
        wordpiece = (
            "; vocab.txt is a BERT WordPiece vocabulary (Chinese ALBERT): load it with transformers.BertTokenizer"
        )
        raise CheckpointError(
            f"{folder} holds no ALBERT vocabulary: expected {SPIECE}, 30k-clean.model or {JSON}, "
            f"found {found or 'nothing'}" + (wordpiece if (folder / "vocab.txt").is_file() else "")
        )
    return _with_config(files, folder)


def _with_model(files: TokenizerFiles, model: TokenizerFiles, described: Path, path: Path) -> TokenizerFiles:
    pieces, others = files.vocabulary.pieces, model.vocabulary.pieces
    if pieces != others:
        pairs = enumerate(zip(pieces, others, strict=False))
        where = next((f"piece {i} is {a!r} and {b!r}" for i, (a, b) in pairs if a != b), "one is longer")
        raise CheckpointError(
            f"{described} ({len(pieces)} pieces) and {path} ({len(others)}) hold different vocabularies: {where}; "
            "remove the one that does not belong to the checkpoint"
        )
    vocabulary, known = files.vocabulary, model.vocabulary
    kept = Vocabulary(pieces, vocabulary.scores, vocabulary.unk_id, known.model, known.serialized)
    return TokenizerFiles(kept, files.added, files.settings)


def _with_config(files: TokenizerFiles, folder: Path) -> TokenizerFiles:
    """Add what ``tokenizer_config.json``, ``special_tokens_map.json`` and ``added_tokens.json`` say."""
    config = {**_json(folder / "special_tokens_map.json"), **_json(folder / CONFIG)}
    added = {token.content: (token, id) for token, id in files.added}
    for content, id in _json(folder / "added_tokens.json").items():
        added.setdefault(content, (AddedToken(content, normalized=True), int(id)))
    for id, value in (config.pop("added_tokens_decoder", None) or {}).items():
        token = AddedToken.from_any(value, special=False)
        added.setdefault(token.content, (token, int(id)))
    return TokenizerFiles(
        files.vocabulary, _without_user_defined(added, files.vocabulary), {**files.settings, **config}
    )


def _without_user_defined(
    added: dict[str, tuple[AddedToken, int]], vocabulary: Vocabulary
) -> tuple[tuple[AddedToken, int], ...]:
    """All but the pieces that segmentation finds anyway: ``transformers`` 5 lists ``(`` and others as added tokens."""
    kinds = zip(vocabulary.pieces, vocabulary.model.kinds, strict=True)
    defined = {piece for piece, kind in kinds if kind == proto.USER_DEFINED}
    return tuple((token, id) for token, id in added.values() if token.special or token.content not in defined)


def _from_json(parsed: json_format.TokenizerJson) -> TokenizerFiles:
    settings = {"do_lower_case": parsed.do_lower_case, "keep_accents": parsed.keep_accents}
    added = _without_user_defined({token.content: (token, id) for token, id in parsed.added}, parsed.vocabulary)
    return TokenizerFiles(parsed.vocabulary, added, settings)


def _symlink_text(path: Path, data: bytes) -> Path | None:
    """The file that a small text file names: git writes a symbolic link so where links do not exist."""
    if len(data) > 512 or not data.endswith(b".model"):
        return None
    try:
        target = path.parent / data.decode()
    except UnicodeDecodeError:
        return None
    return target if target.is_file() and target.resolve() != path.resolve() else None


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(_read(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}; download it again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds a {type(value).__name__}, expected an object; download it again")
    return value


def _read(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > _LARGEST:
            raise CheckpointError(f"{path} has {size} bytes, expected a vocabulary of at most {_LARGEST}")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}; give a folder or a vocabulary file") from error


def locate(name: str | Path, *, revision: str | None, cache_dir: str | Path | None, local_files_only: bool) -> Path:
    """The folder or file that a name means: a path, the built-in ``albert-fast/wordnet``, or a name on the hub."""
    path = Path(name)
    if path.exists():
        return path
    from albert_fast.checkpoint import hub

    return hub.resolve(
        str(name),
        revision=revision,
        cache_dir=cache_dir,
        local_files_only=local_files_only,
        allow_patterns=list(PATTERNS),
    )


def write(folder: Path, contents: dict[str, bytes]) -> list[Path]:
    """Write files so that each is whole or not there: to a temporary sibling first, flushed, then renamed."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, data in contents.items():
        path, temporary = folder / name, folder / f".{name}.{os.getpid()}.tmp"
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        paths.append(path)
    return paths
