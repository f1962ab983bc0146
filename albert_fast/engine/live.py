"""in_process: an engine of a live model, in this process only."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

from albert_fast.batch import ShapeProfile
from albert_fast.engine import machine, signature, threads
from albert_fast.engine.asked import ASKED
from albert_fast.engine.engine import Engine
from albert_fast.engine.manifest import Dimension, TensorSpec
from albert_fast.engine.table import find_format, in_process_format, positions_refusal

if TYPE_CHECKING:
    from albert_fast.heads import Head
    from albert_fast.pretrained import AlbertPreTrainedModel


def in_process(
    model: AlbertPreTrainedModel,
    *,
    format: str = "eager",
    profile: ShapeProfile,
    device: str = "cpu",
    asked: bool = False,
    num_threads: int | None = None,
) -> Engine:
    """Make an engine of a model without writing a file.

    Args:
        model: a class of ``heads.HEADS`` in ``eval`` mode. It is not changed; on another device than ``device`` it is
            copied there.
        format: name of an ``"in-process"`` row of ``FORMATS``.
        profile: shapes the engine takes.
        device: ``"cpu"`` or ``"cuda"``.
        asked: whether it answers at asked positions alone, see ``capture.capture``.
        num_threads: as in ``load``.
    Raises:
        ValueError: an unknown format or device, a wrong number of threads, a model in training mode, or a profile
            longer than its positions; or with ``asked`` a head or format that cannot.
    """
    from albert_fast.heads import HEADS, asked_refusal, head_of

    row = find_format(format, kind="in-process")
    machine.require_device(device)
    threads.check_num_threads(num_threads, device)
    name = head_of(model)
    refusal = (asked_refusal(name) or positions_refusal(row)) if asked else None
    if refusal is not None:
        raise ValueError(refusal)
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() first, dropout has no place in an engine")
    positions = model.config.max_position_embeddings
    if profile.max_length > positions:
        raise ValueError(
            f"the profile {profile} asks for length {profile.max_length}, but the model has {positions} positions "
            f"(max_position_embeddings); choose a maximum of at most {positions}"
        )
    if model.device.type != device.split(":")[0]:
        model = copy.deepcopy(model).to(device)
    without_pooler = getattr(model, "pooler", ...) is None
    outputs = tuple(n for n in HEADS[name].outputs if not (without_pooler and n == "pooler_output"))
    asking = {"asked": True} if asked else {}
    with threads.using(num_threads):
        run = in_process_format(row).make(model, outputs=outputs, profile=profile, **asking)
    return Engine(
        threads.limited(run, num_threads),
        config=model.config,
        head=name,
        format=format,
        device=device,
        profiles=(profile,),
        outputs=tuple(_spec(n, HEADS[name], model.dtype, profile, asked=asked) for n in outputs),
        ids_rank=HEADS[name].ids_rank,
        cutting=row.cutting_on(device, {}),
        num_threads=num_threads,
    )


def _spec(name: str, head: Head, dtype: torch.dtype, profile: ShapeProfile, *, asked: bool) -> TensorSpec:
    """An output's leading dimensions, which are all that cutting a batch into pieces has to know."""
    batch = Dimension("batch", profile.min_batch, profile.max_batch)
    length = Dimension("length", profile.min_length, profile.max_length)
    dimensions = (batch, length) if name in head.per_token else (batch,)
    if asked and name in head.asked:
        dimensions = (Dimension(ASKED, 1, profile.max_batch * profile.max_length),)
    return TensorSpec(name, signature.dtype_name(dtype), dimensions)
