"""Writing an engine file and its manifest so that an interruption leaves the old pair, the new pair, or none.

Both are made in a hidden folder beside the target and flushed to disk. Then the old manifest is removed (from here on
there is no pair), the engine file is renamed into place, and last the manifest. A process that is killed leaves its
hidden folder behind; the next export to the same target removes it. A lock on the folder tells a dead one from one in
use.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from albert_fast.engine.manifest import Companion, manifest_path
from albert_fast.errors import EngineError
from albert_fast.files import flush


@contextmanager
def pending(target: Path) -> Iterator[Path]:
    """Give a path in a temporary folder beside ``target`` to write the engine file to.

    On leaving, the temporary folder is removed with all that is in it, so what ``commit`` has not moved is gone.

    Raises:
        EngineError: the folder of ``target`` does not exist or cannot be written.
    """
    try:
        with _locked(target.parent):
            remove_dead(target.parent, of=target.name)
            folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
            lock = os.open(folder, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        raise EngineError(
            f"the engine cannot be written to {target.parent}: {error.strerror}; "
            "give a folder that exists and is writable"
        ) from None
    try:
        yield folder / target.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def commit(temporary: Path, target: Path, manifest_text: str) -> None:
    """Move ``temporary`` (from ``pending``) and its companions to ``target``, with its manifest, each in one step."""
    temporary_manifest, target_manifest = manifest_path(temporary), manifest_path(target)
    companions = companion_paths(temporary)
    temporary_manifest.write_text(manifest_text, encoding="utf-8")
    for path in (temporary, *companions, temporary_manifest):
        flush(path)
    with _locked(target.parent):
        target_manifest.unlink(missing_ok=True)
        flush(target.parent)
        for companion in companions:
            os.replace(companion, target.with_name(target.name + companion.name.removeprefix(temporary.name)))
        os.replace(temporary, target)
        flush(target.parent)
        os.replace(temporary_manifest, target_manifest)
        flush(target.parent)


def companion_paths(engine_file: Path) -> list[Path]:
    """The plain files beside an engine file under construction that carry its name and more: what belongs to it."""
    beside = sorted(engine_file.parent.glob(glob.escape(engine_file.name) + ".*"))
    return [path for path in beside if path.is_file() and path != manifest_path(engine_file)]


def companions_of(engine_file: Path) -> tuple[Companion, ...]:
    """The companions of an engine file under construction, for its manifest."""
    return tuple(Companion(p.name, sha256_of(p), p.stat().st_size) for p in companion_paths(engine_file))


def sha256_of(path: Path) -> str:
    """The hex sha256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock on ``folder``; another process that asks for it waits."""
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def remove_dead(folder: Path, *, of: str = "") -> None:
    """Remove the hidden folders that killed exports to ``folder`` left: those that nobody holds the lock of.

    Args:
        of: name of the engine file that was to be written; empty: any.
    """
    for entry in os.scandir(folder):
        if not (entry.name.startswith(f".{of}." if of else ".") and entry.name.endswith(".tmp")):
            continue
        if not entry.is_dir(follow_symlinks=False):
            continue
        lock = os.open(entry.path, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(entry.path, ignore_errors=True)
        except BlockingIOError:  # a living export
            pass
        finally:
            os.close(lock)
