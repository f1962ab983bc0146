"""A checkpoint beside a model: the tensors that it takes, or one error that lists everything that does not fit."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from albert_fast.checkpoint import names
from albert_fast.errors import CheckpointError

logger = logging.getLogger(__name__)


def match(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Sequence[int]],
    *,
    tied: Mapping[str, str] | None = None,
    strict: bool = True,
    ignorable: Iterable[str] = (),
    origin: str = "this checkpoint",
) -> dict[str, Tensor]:
    """Compare a checkpoint with a model's keys and shapes.

    Keys of heads that this model lacks are left out of the result and logged; they are no error.

    Args:
        tensors: name -> tensor, as in ``Checkpoint.tensors``: encoder names start with ``albert.``.
        expected: the model's keys, named in the same way, and their shapes. Taken from a model on the meta device, the
            shapes are known to agree before memory is taken.
        tied: a key of the model -> the key whose tensor it shares, for example decoder and word embeddings. Tied keys
            may be absent from the checkpoint and then take the tensor of the other key.
        strict: with False, head keys (and the pooler) may be absent; a warning names them.
        ignorable: regular expressions of further keys that may be present without being asked for.
        origin: names the checkpoint in messages.
    Returns:
        A tensor in the checkpoint's dtype for every expected key, but for the absent head keys of ``strict=False``.
    Raises:
        CheckpointError: lists all missing, unexpected and wrongly shaped keys at once.
    """
    found = names.with_prefix(tensors)
    for name, source in (tied or {}).items():
        if name in expected and name not in found and source in found:
            found[name] = found[source]
    missing = [key for key in expected if key not in found]
    present = [key for key in expected if key in found]
    wrong = [key for key in present if tuple(found[key].shape) != tuple(expected[key])]
    not_floating = [key for key in present if not found[key].is_floating_point()]
    left = [key for key in found if key not in expected]
    patterns = [*map(re.compile, ignorable), names.BUFFERS]
    unexpected = [key for key in left if not names.is_head(key) and not any(p.fullmatch(key) for p in patterns)]
    new = [] if strict else [key for key in missing if names.is_head(key)]
    missing = [key for key in missing if key not in new]
    if missing or unexpected or wrong or not_floating:
        lines = [
            f"{origin} does not fit the model:",
            *_list("missing", [f"{key} {list(expected[key])}" for key in missing]),
            *_list("unexpected", [f"{key} {list(found[key].shape)}" for key in unexpected]),
            *_list("wrong shape", [f"{k}: found {list(found[k].shape)}, expected {list(expected[k])}" for k in wrong]),
            *_list("no floating-point numbers", [f"{key}: {found[key].dtype}" for key in not_floating]),
            _next_step(missing, unexpected, wrong, not_floating),
        ]
        raise CheckpointError("\n".join(lines))
    if new:
        logger.warning("newly initialised, since %s lacks them: %s; train them before use", origin, ", ".join(new))
    unused = [key for key in left if not names.BUFFERS.fullmatch(key)]
    if unused:
        logger.info("not used by this model: %s", ", ".join(unused))
    return {key: found[key] for key in present}


def _list(title: str, rows: list[str]) -> list[str]:
    return [f"  {title} ({len(rows)}): " + ", ".join(rows)] if rows else []


def _next_step(missing: list[str], unexpected: list[str], wrong: list[str], not_floating: list[str]) -> str:
    """What the reader can do, by the kind of misfit."""
    if missing and not (unexpected or wrong or not_floating) and all(names.is_head(key) for key in missing):
        return (
            "Only a head's parameters are absent: load it as the class that it was trained as, or pass strict=False to "
            "start with a newly initialised head"
        )
    if wrong and not (missing or unexpected or not_floating):
        return "Config and weights disagree: use the config that was saved with these weights"
    return "Check that the folder holds an ALBERT of this config and that all of its files are there"
