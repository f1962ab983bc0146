"""Checkpoints in, checkpoints out: every format ALBERT has been published in, read without trusting the file."""

from albert_fast.checkpoint.content import Checkpoint, digest
from albert_fast.checkpoint.matching import match
from albert_fast.checkpoint.names import with_prefix, without_prefix
from albert_fast.checkpoint.saving import save
from albert_fast.checkpoint.sources import SOURCES, load

__all__ = ["load", "save", "Checkpoint", "match", "digest", "with_prefix", "without_prefix", "SOURCES"]
