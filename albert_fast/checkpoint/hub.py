"""From a name to a folder: the embedded models need nothing, hub names go through ``huggingface_hub``."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from albert_fast._optional import require
from albert_fast.errors import CheckpointError

# Name -> folder of package data. These need no network.
EMBEDDED = {"albert-fast/wordnet": "wordnet"}

_HUB_NAME = re.compile(r"[A-Za-z0-9_][\w.\-]*(?:/[A-Za-z0-9_][\w.\-]*)?")


def is_hub_name(name: str) -> bool:
    """Whether a string can be the hub name of a repository, ``owner/name`` or ``name``."""
    return bool(_HUB_NAME.fullmatch(name)) and len(name) <= 96 and ".." not in name and "--" not in name


def resolve(
    name: str,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: bool | str | None = None,
    allow_patterns: Sequence[str] | None = None,
) -> Path:
    """The local folder of an embedded model or of a hub repository, downloaded into the cache where needed.

    Args:
        revision: branch, tag or commit; None means the main branch.
        cache_dir: None means the cache of ``huggingface_hub``.
        local_files_only: take what the cache has and open no connection.
        allow_patterns: download only files that match one of these; None means all.
    Raises:
        CheckpointError: no such repository or revision, no permission, or no connection and nothing in the cache.
        MissingDependencyError: ``huggingface_hub`` is not installed.
    """
    if name in EMBEDDED:
        return Path(__file__).parents[1] / "embedded" / EMBEDDED[name]
    if not is_hub_name(name):
        raise CheckpointError(
            f"{name!r} is no folder on this machine and no hub name, expected a folder, 'owner/name' or one of "
            f"{', '.join(EMBEDDED)}; check the spelling"
        )
    hub = require("huggingface_hub", extra="hub", purpose=f"find the checkpoint {name!r} by its hub name")
    errors = require("huggingface_hub.errors", extra="hub", purpose=f"find the checkpoint {name!r} by its hub name")
    steps = {
        "GatedRepoError": "ask for access on its page and pass token=",
        "RepositoryNotFoundError": "check the spelling, or pass token= if it is private",
        "RevisionNotFoundError": "pass a branch, tag or commit that the repository has as revision=",
    }
    # The base classes of HfHubHTTPError are those of the HTTP library in use, whose other errors pass unwrapped.
    failures = (OSError, ValueError, *errors.HfHubHTTPError.__bases__)
    try:
        folder = hub.snapshot_download(
            name,
            revision=revision,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            token=token,
            allow_patterns=list(allow_patterns) if allow_patterns is not None else None,
        )
    except failures as error:
        offline = "allow the network once (local_files_only=False, HF_HUB_OFFLINE unset), or pass a folder"
        step = steps.get(type(error).__name__, offline)
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"the checkpoint {name!r} (revision {revision or 'main'}) cannot be had from the hub or its cache: "
            f"{type(error).__name__}: {reason} Next step: {step}"
        ) from error
    return Path(folder)
