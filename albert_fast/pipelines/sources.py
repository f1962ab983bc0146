"""Whatever holds a model -> an Engine and the tokenizer that belongs to it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from albert_fast import engine as engines
from albert_fast.batch import ShapeProfile
from albert_fast.config import AlbertConfig
from albert_fast.engine import Engine
from albert_fast.heads import HEADS, head_of

if TYPE_CHECKING:
    from albert_fast.tokenizer import AlbertTokenizer

LARGEST_BATCH = 1024
"""Of a model that runs in this process; there is no engine file whose profile would say."""


def tokenizer_folder(engine_file: str | os.PathLike[str]) -> Path:
    """Where the tokenizer of an engine file lies: ``name.pt2.tokenizer`` beside ``name.pt2``."""
    path = Path(engine_file)
    return path.with_name(path.name + ".tokenizer")


def in_process_profile(config: AlbertConfig, *, batch: int = 8) -> ShapeProfile:
    """Every length that the model can take, and any batch."""
    longest = config.max_position_embeddings
    return ShapeProfile(1, min(batch, LARGEST_BATCH), LARGEST_BATCH, 1, min(128, longest), longest)


def resolve(
    model: str | os.PathLike[str] | nn.Module | Engine,
    tokenizer: str | os.PathLike[str] | AlbertTokenizer | None,
    *,
    task: str,
    head: str,
    device: str | None = None,
    format: str | None = None,
    num_threads: int | None = None,
) -> tuple[Engine, Any]:
    """An engine with the head, and its tokenizer. Arguments and errors are those of ``pipeline``."""
    if isinstance(model, str | os.PathLike):
        name = os.fspath(model)
        if os.path.isfile(name):
            _only_in_process(format, f"the engine file {name}")
            engine = engines.load(name, device=device, num_threads=num_threads)
            _check_head(engine.head, head, task, name)
            return engine, _tokenizer(tokenizer, beside=tokenizer_folder(name), source=name)
        live: nn.Module = HEADS[head].model_class.from_pretrained(name)
        return _run_live(live, device, format, num_threads), _tokenizer(tokenizer, beside=name, source=name)
    if isinstance(model, nn.Module):
        kind = type(model).__name__
        ours = _as_ours(model)
        _check_head(head_of(ours), head, task, kind)
        return _run_live(ours, device, format, num_threads), _tokenizer(tokenizer, beside=None, source=f"a live {kind}")
    if isinstance(model, Engine):
        _only_in_process(format, "an Engine")
        if num_threads is not None and num_threads != model.num_threads:
            raise ValueError(
                f"the engine computes with num_threads={model.num_threads}, num_threads={num_threads!r} was asked for; "
                "give it where the engine is loaded"
            )
        if device is not None and torch.device(device).type != torch.device(model.device).type:
            raise ValueError(f"the engine is on {model.device}, device asks for {device!r}; leave device out")
        _check_head(model.head, head, task, "the engine")
        return model, _tokenizer(tokenizer, beside=None, source="an Engine")
    raise ValueError(
        f"model is a {type(model).__name__}, expected an engine file, a checkpoint folder, a name, an Engine or a live "
        "model"
    )


def _run_live(model: Any, device: str | None, format: str | None, num_threads: int | None) -> Engine:
    profile, kind = in_process_profile(model.config), format or "eager"
    return engines.in_process(model, format=kind, profile=profile, device=device or "cpu", num_threads=num_threads)


def _as_ours(model: nn.Module) -> nn.Module:
    """The model itself, or for a live model of ``transformers`` ours with the same weights."""
    if type(model).__module__.startswith("transformers."):
        from albert_fast.live_model import from_transformers

        return from_transformers(model)
    return model


def _only_in_process(format: str | None, what: str) -> None:
    if format is not None:
        raise ValueError(f"format {format!r} is for models that run in this process; {what} has its own: leave it out")


def _check_head(found: str, wanted: str, task: str, source: str) -> None:
    if found != wanted:
        raise ValueError(
            f"{task} needs a model with the head {wanted!r}, {source} has {found!r}; load it as "
            f"{HEADS[wanted].model_class.__name__}, or export an engine with --head {wanted}"
        )


def _tokenizer(given: Any, *, beside: str | Path | None, source: str) -> Any:
    """The tokenizer that was given (loaded where only its place was), or the one that lies beside the model."""
    from albert_fast.tokenizer import AlbertTokenizer

    if given is None:
        if beside is None:
            raise ValueError(
                f"{source} does not say which tokenizer it was trained with; pass tokenizer=, a folder with "
                "spiece.model, a name, or an AlbertTokenizer"
            )
        if os.path.isfile(source) and not os.path.isdir(beside):
            raise ValueError(
                f"no tokenizer lies beside the engine file: {os.fspath(beside)} is missing; copy that folder too, or "
                "pass tokenizer= a folder with spiece.model"
            )
        return AlbertTokenizer.from_pretrained(beside)
    if isinstance(given, str | os.PathLike):
        return AlbertTokenizer.from_pretrained(os.fspath(given))
    if not callable(given) or not hasattr(given, "mask_token_id"):
        raise ValueError(f"tokenizer is a {type(given).__name__}, expected an AlbertTokenizer, a folder or a name")
    return given
