"""compile: an engine of a model for this machine, built once and found again in a cache the next time.

A cache folder holds engine files whose names end in a digest of all that decides what is in them. The lock beside
each makes a second process wait for the first one's build instead of building again; it goes with the process that
holds it, so a build that is killed blocks nobody.
"""

from __future__ import annotations

import copy
import dataclasses
import fcntl
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import albert_fast
from albert_fast import checkpoint
from albert_fast import engine as engines
from albert_fast.batch import ShapeProfile
from albert_fast.engine import Engine, files, machine, threads
from albert_fast.engine.table import file_format
from albert_fast.errors import EngineError
from albert_fast.files import cache_folder
from albert_fast.heads import HEADS, head_of
from albert_fast.recipe import quantizing
from albert_fast.recipe.automatic import format_of
from albert_fast.recipe.exporting import Progress, Source, check_device, export_source, source_of, with_attention
from albert_fast.recipe.quantizing import AUTO, Quantize
from albert_fast.recipe.words import Recipe

if TYPE_CHECKING:
    from albert_fast.pretrained import AlbertPreTrainedModel

logger = logging.getLogger(__name__)


def compile(
    model: str | os.PathLike[str] | nn.Module,
    *,
    head: str | None = None,
    precision: str = "fp32",
    format: str = "auto",
    profile: ShapeProfile | tuple[ShapeProfile, ...] | str | None = None,
    attention: str = "auto",
    positions: str = "all",
    device: str = "auto",
    options: Mapping[str, Any] | None = None,
    quantize: Mapping[str, Any] | Quantize | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    num_threads: int | None = None,
    progress: Progress | None = None,
) -> Engine:
    """An engine of a model, from the cache where it is there already, else built, proved and kept.

    The engine is built anew when anything that decides what is in it is new: the weights, the config, head, format,
    precision, quantization, profile, attention, positions, device and options, the versions of what compiles it, or the
    machine.

    Args:
        model: a checkpoint folder, a hub name, ``"albert-fast/wordnet"``, or a live model, ours or of ``transformers``,
            in ``eval`` mode; a live model is not changed.
        head: row of ``HEADS``; None takes what the checkpoint was saved as. A live model has its own.
        precision, profile, attention, positions, device, options, revision: as in ``Recipe``.
        quantize: for ``precision="int8"``: as in ``Recipe``, ``{"scales": albert_fast.calibrate(model, texts)}``.
        format: row of ``FORMATS`` that is written to a file; ``"auto"`` is the fastest for this machine and model, see
            ``automatic.format_of``. ``engine.format`` says which it was.
        cache_dir: None is ``$XDG_CACHE_HOME/albert-fast``, or ``~/.cache/albert-fast``. Anyone who can write there can
            run code as you: engine files hold code.
        num_threads: as in ``albert_fast.load``; it decides nothing about the file.
        progress: told the name of every stage as it begins.
    Raises:
        CheckpointError, EngineError, ValueError, MissingDependencyError: what is wrong and what to do about it.
    """
    threads.check_num_threads(num_threads)
    live = isinstance(model, nn.Module)
    recipe = Recipe.from_dict(
        {
            "model": type(model).__name__ if isinstance(model, nn.Module) else os.fspath(model),
            "head": head, "format": "aotinductor" if format == AUTO else format, "precision": precision,
            "profile": profile, "attention": attention, "positions": positions,
            "device": device, "revision": revision, "options": dict(options or {}),
            "quantize": quantize,
        }
    )  # fmt: skip
    check_device(recipe)
    decided = quantizing.identity(recipe.quantize)
    if recipe.quantize is not None:
        recipe = recipe.replace(quantize=dataclasses.replace(recipe.quantize, report=False))
    machine.require_device(recipe.device_name)  # what is compiled here is run here
    threads.check_num_threads(num_threads, recipe.device_name)
    source = live_source(model, head) if live else source_of(recipe)
    if format == AUTO:
        format = format_of(recipe, source.model.config)
        logger.info("format 'auto' is %s here", format)
        recipe = recipe.replace(format=format)
    folder = Path(cache_dir) if cache_dir is not None else cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    key, suffix = _key(source, recipe, decided), engines.FORMATS[format].suffix
    path = folder / f"{head_of(source.model)}-{format}-{precision}-{key}{suffix}"
    with _locked(path):
        cached = _cached(path, recipe.device_name, num_threads)
        if cached is not None:
            return cached
        files.remove_dead(folder)
        export_source(source, recipe, path, progress or (lambda stage: None))
        return engines.load(path, device=recipe.device_name, num_threads=num_threads)


def _cached(path: Path, device: str, num_threads: int | None) -> Engine | None:
    """The engine in the cache; None where there is none or where it is not whole, which is said."""
    if not path.exists() or not engines.manifest_path(path).exists():
        return None
    try:
        return engines.load(path, device=device, num_threads=num_threads)
    except EngineError as error:
        logger.warning("the cached engine is built anew: %s", error)
        return None


def live_source(model: Any, head: str | None) -> Source:
    """A live model as a source: float32, eager, over its own weights where they are float32 already."""
    if type(model).__module__.startswith("transformers."):
        from albert_fast.live_model import from_transformers

        model = from_transformers(model)
    name = head_of(model)
    if head not in (None, name):
        raise ValueError(f"head is {head!r}, the live model is a {HEADS[name].model_class.__name__}; leave head out")
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() first, dropout has no place in an engine")
    if model.dtype != torch.float32:
        model = copy.deepcopy(model).float()
    plain: AlbertPreTrainedModel = with_attention(model, "eager")
    return Source(plain, checkpoint.digest(dict(plain.state_dict())))


def _key(source: Source, recipe: Recipe, quantize: Any) -> str:
    """A digest of everything that decides what an engine file holds and whether it runs here."""
    plain = recipe.replace(
        model="-", head=None, output=None, revision=None, precision="fp32", quantize=None, keep_float32=(),
        overflow_text=None,
    )  # fmt: skip
    facts = {
        "weights": source.sha256,
        "config": source.model.config.to_dict(),
        "head": head_of(source.model),
        "recipe": {**dataclasses.asdict(plain), "precision": recipe.precision, "quantize": quantize,
            "keep_float32": recipe.keep_float32},
        "requires": dataclasses.asdict(file_format(engines.FORMATS[recipe.format]).requirements(
            recipe.device_name, recipe.options)),
        "versions": machine.versions(),
        "cpu_flags": machine.cpu_flags(),
        "project": (albert_fast.__version__, machine.project_commit()),
    }  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:24]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of one engine in the cache; whoever asks for the same one meanwhile waits."""
    handle = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
