"""build: a typed program in, an engine file with its manifest out, or an error and nothing changed on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.export import ExportedProgram

import albert_fast
from albert_fast.batch import Batch, hull
from albert_fast.engine import files, machine, signature
from albert_fast.engine.comparing import compared
from albert_fast.engine.formats import ENGINE_FILE, EmbeddingFormat, FileFormat, Format, Run, Written
from albert_fast.engine.loader import make_engine
from albert_fast.engine.manifest import SCHEMA_VERSION, Facts, Manifest, TensorSpec
from albert_fast.engine.measure import Budget, MeasuredError, exceeded
from albert_fast.engine.table import file_format, find_format, positions_refusal
from albert_fast.errors import EngineError

SIZE_FACTOR = 1.1
"""An engine file is at most 1.1 times the distinct weights, and the format's ``code_bytes``."""
EXTRA_BYTES = "extra_bytes"
"""The note that keeps ``Written.extra_bytes``; there is none where it is 0."""
STORED_FACTOR, STORED_ALLOWANCE_BYTES = 1.1, 65_536
"""Constants in the file may be this much more than the distinct weights, for alignment and packed layouts."""

Reference = tuple[Batch, Mapping[str, Tensor]]


def build(
    program: ExportedProgram,
    path: str | Path,
    *,
    format: str,
    facts: Facts,
    references: Sequence[Reference],
    budget: Budget,
    device: str = "cpu",
    options: Mapping[str, Any] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Manifest:
    """Lower ``program`` to an engine file, prove it, and write it with its manifest.

    Args:
        program: called with ``(input_ids, attention_mask, token_type_ids)``, returns a dict of tensors. Its dtypes are
            the engine's; nothing is cast.
        path: of the engine file; the manifest goes to ``<path>.manifest.json``. An older pair is replaced in the end.
        format: name of a ``"file"`` row of ``FORMATS``.
        facts: what the manifest holds and the program does not tell.
        references: batches and what float32 eager answers to them, or to what they ask of a program that answers at
            asked positions alone. They should hold pairs and padded rows.
        budget: limits of the measured error.
        device: ``"cpu"`` or ``"cuda"``: what the engine is compiled for.
        options: of the format, for example ``{"linear": "packed"}`` of ``aotinductor``.
        progress: is called with a few words before each step.
    Returns:
        The manifest that was written.
    Raises:
        ValueError: arguments that cannot work, before anything is compiled.
        MissingDependencyError: the format needs an extra.
        EngineError: the folder cannot be written, the error is beyond the budget, or a weight would be stored twice.
            The old pair is then still there.
    """
    say = progress or (lambda text: None)
    path = Path(path)
    row = find_format(format, kind="file")
    machine.check_device_name(device)
    weight_bytes, dtype = signature.distinct_weight_bytes(program), signature.weight_dtype(program)
    refusal = positions_refusal(row) if signature.is_asked(program) else None
    if refusal is not None:
        raise ValueError(refusal)
    _check_arguments(path, row, references, dtype=dtype, device=device, options=options or {})
    if not row.builds_without_device:
        machine.require_device(device)
    inputs = signature.input_specs(program, hull(facts.profiles))
    implementation = file_format(row)
    requires = implementation.requirements(device, options or {})
    with files.pending(path) as temporary:
        say(f"compile for {format}")
        started = time.perf_counter()
        written = implementation.write(
            program, temporary, device=device, profiles=facts.profiles, options=options or {}, tell=say
        )
        notes = _plain({**written.notes, "build_seconds": round(time.perf_counter() - started, 1)})
        if written.extra_bytes:
            notes[EXTRA_BYTES] = written.extra_bytes
        limit = size_limit(weight_bytes, row, profiles=len(facts.profiles), extra_bytes=written.extra_bytes)
        companions = files.companions_of(temporary)
        file_bytes = temporary.stat().st_size + sum(companion.bytes for companion in companions)
        stored_bytes = implementation.stored_weight_bytes(temporary, notes)
        _check_size(format, file_bytes, stored_bytes, weight_bytes, limit)
        say("measure the error against eager")
        run, run_device, measured_on = _runner(implementation, temporary, device, facts, notes, written)
        outputs = signature.output_specs(program)
        error, dtypes = _prove(run, run_device, facts, inputs, outputs, references, budget, row, notes)
        beyond = exceeded(error, budget)
        if beyond:
            raise EngineError(
                f"the {format} engine is not exact enough for precision {facts.precision}: {'; '.join(beyond)}. "
                "Nothing was written; choose another precision or format"
            )
        say("write the engine file")
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            project_version=albert_fast.__version__,
            project_commit=machine.project_commit(),
            format=format,
            device=torch.device(device).type,
            config=_plain(facts.config),
            head=facts.head,
            attention=facts.attention,
            precision=facts.precision,
            scales_digest=facts.scales_digest,
            checkpoint_sha256=facts.checkpoint_sha256,
            checkpoint_source=facts.checkpoint_source,
            labels=facts.labels,
            profile=",".join(str(profile) for profile in facts.profiles),
            inputs=inputs,
            outputs=tuple(replace(spec, dtype=dtypes[spec.name]) for spec in outputs),
            file_sha256="",
            file_bytes=0,
            companions=companions,
            weight_bytes=weight_bytes,
            stored_weight_bytes=stored_bytes,
            error=error,
            measured_on=measured_on,
            requires=replace(requires, op_library=row.op_library or signature.calls_our_ops(program)),
            versions=machine.versions(),
            notes=notes,
        )
        if row.embeds_manifest:
            cast(EmbeddingFormat, implementation).embed(temporary, manifest.to_json())
        manifest = replace(manifest, file_sha256=files.sha256_of(temporary), file_bytes=temporary.stat().st_size)
        text = manifest.to_json()
        Manifest.from_json(text)  # what cannot be read back must not be written
        files.commit(temporary, path, text)
    return manifest


def size_limit(weight_bytes: int, row: Format, *, profiles: int = 1, extra_bytes: int = 0) -> int:
    """The most bytes an engine file of a format may take for so many bytes of distinct weights.

    Args:
        extra_bytes: what options asked to be in the file beside weights and kernels.
    """
    return int(SIZE_FACTOR * weight_bytes) + row.code_bytes * profiles + extra_bytes


def held_once(stored_bytes: int, weight_bytes: int) -> bool:
    """Whether the constants in a file are the distinct weights, each once."""
    return stored_bytes <= STORED_FACTOR * weight_bytes + STORED_ALLOWANCE_BYTES


def _check_arguments(
    path: Path, row: Format, references: Sequence[Reference], *, dtype: str, device: str, options: Mapping[str, Any]
) -> None:
    problems = []
    if path.suffix != row.suffix:
        problems.append(f"the engine file is called {path.name!r}, expected a name that ends in {row.suffix}")
    if path.is_dir():
        problems.append(f"{path} is a folder, expected the name of a file")
    if not path.parent.is_dir():
        problems.append(f"the folder {path.parent} does not exist; create it first")
    if not references:
        problems.append("references is empty, expected at least one batch with its float32 answers to measure against")
    unknown = sorted(set(options) - set(row.options))
    if unknown:
        offered = f"takes the options {', '.join(row.options)}" if row.options else "has no options"
        problems.append(f"the format {row.name} {offered}, found {', '.join(unknown)}")
    gap = row.gap(dtype, device)
    if gap is not None:
        problems.append(gap)
    if problems:
        raise ValueError("; ".join(problems))


def _check_size(format: str, file_bytes: int, stored_bytes: int, weight_bytes: int, limit: int) -> None:
    if file_bytes > limit or not held_once(stored_bytes, weight_bytes):
        raise EngineError(
            f"the {format} engine takes {file_bytes} bytes, {stored_bytes} of them constants, for {weight_bytes} bytes "
            f"of weights; at most {limit} are allowed, each weight stored once. Nothing was written"
        )


def _runner(
    implementation: FileFormat, path: Path, device: str, facts: Facts, notes: Mapping[str, Any], written: Written
) -> tuple[Run, str, str]:
    """What answers the references, on which device, and what it is: the file as it is on disk, or its stand-in."""
    if written.stand_in is not None:
        return written.stand_in, "cpu", written.measured_on
    if not machine.has_device(device):
        raise EngineError(f"the engine cannot be run here, so its error cannot be measured; build it where {device} is")
    return implementation.read(path, device=device, profiles=facts.profiles, notes=notes), device, ENGINE_FILE


def _prove(
    run: Run,
    device: str,
    facts: Facts,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    references: Sequence[Reference],
    budget: Budget,
    row: Format,
    notes: Mapping[str, Any],
) -> tuple[MeasuredError, dict[str, str]]:
    """The error of what ``run`` answers, and the dtypes that it answers in."""
    cutting = row.cutting_on(device, notes)
    engine = make_engine(
        run, facts_config=facts.config, head=facts.head, format="", profiles=facts.profiles, outputs=outputs,
        inputs=inputs, device=device, cutting=cutting,
    )  # fmt: skip
    answers = [engine(batch) for batch, _ in references]
    error = compared(
        answers, references, outputs, skips_padding=row.skips_padding, cuts=cutting is not None, tie=budget.mean_abs
    )
    return error, {name: signature.dtype_name(tensor.dtype) for name, tensor in answers[0].items()}


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """The same as JSON holds it: string keys, lists."""
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return plain
