"""build: a typed program in, an engine file with its manifest out, or an error and nothing changed on disk."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

import albert_fast
from albert_fast.batch import Batch, ShapeProfile
from albert_fast.engine import files, machine
from albert_fast.engine.formats import FileFormat, file_format, find_format
from albert_fast.engine.loader import make_engine
from albert_fast.engine.manifest import SCHEMA_VERSION, Dimension, Facts, Manifest, TensorSpec
from albert_fast.engine.measure import Budget, MeasuredError, exceeded, measure
from albert_fast.errors import EngineError

OP_NAMESPACE = "albert_fast"
SIZE_FACTOR, SIZE_ALLOWANCE_BYTES = 1.1, 2_000_000
"""An engine file is at most 1.1 times the distinct weights, and 2 MB of code."""
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
        references: batches and what float32 eager answers to them. They should hold pairs and padded rows.
        budget: limits of the measured error.
        device: ``"cpu"`` or ``"cuda"``: what the engine is compiled for.
        options: of the format, for example ``{"linear": "packed"}`` of ``aotinductor``.
        progress: is called with a few words before each step.
    Returns:
        The manifest that was written.
    Raises:
        ValueError: arguments that cannot work, before anything is compiled.
        EngineError: the folder cannot be written, the error is beyond the budget, or a weight would be stored twice.
            The old pair is then still there.
    """
    say = progress or (lambda text: None)
    path = Path(path)
    row = find_format(format, kind="file")
    machine.require_device(device)
    inputs = _input_specs(program, facts.profile)
    _check_arguments(path, row.suffix, references)
    implementation = file_format(row)
    requires = replace(implementation.requirements(device), op_library=_calls_our_ops(program))
    weight_bytes = distinct_weight_bytes(program)
    with files.pending(path) as temporary:
        say(f"compile for {format}")
        started = time.perf_counter()
        notes = implementation.write(program, temporary, device=device, profile=facts.profile, options=options or {})
        notes = {**notes, "build_seconds": round(time.perf_counter() - started, 1)}
        file_bytes, stored_bytes = _check_size(implementation, temporary, weight_bytes, format)
        say("measure the error against eager")
        error, outputs = _prove(implementation, temporary, device, facts, inputs, references)
        beyond = exceeded(error, budget)
        if beyond:
            raise EngineError(
                f"the {format} engine is not exact enough for precision {facts.precision}: {'; '.join(beyond)}. "
                f"Nothing was written to {path}; choose another precision or format"
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
            profile=str(facts.profile),
            inputs=inputs,
            outputs=outputs,
            file_sha256=files.sha256_of(temporary),
            file_bytes=file_bytes,
            weight_bytes=weight_bytes,
            stored_weight_bytes=stored_bytes,
            error=error,
            requires=requires,
            versions=machine.versions(),
            notes=_plain(notes),
        )
        text = manifest.to_json()
        Manifest.from_json(text)  # what cannot be read back must not be written
        files.commit(temporary, path, text)
    return manifest


def distinct_weight_bytes(program: ExportedProgram) -> int:
    """Bytes of the program's parameters, buffers and constants; what shares memory counts once."""
    tensors = [*program.state_dict.values(), *program.constants.values()]
    storages = {
        t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if isinstance(t, torch.Tensor)
    }
    return sum(storages.values())


def size_limit(weight_bytes: int) -> int:
    """The most bytes an engine file may take for so many bytes of distinct weights."""
    return int(SIZE_FACTOR * weight_bytes) + SIZE_ALLOWANCE_BYTES


def held_once(stored_bytes: int, weight_bytes: int) -> bool:
    """Whether the constants in a file are the distinct weights, each once."""
    return stored_bytes <= STORED_FACTOR * weight_bytes + STORED_ALLOWANCE_BYTES


def _check_arguments(path: Path, suffix: str, references: Sequence[Reference]) -> None:
    problems = []
    if path.suffix != suffix:
        problems.append(f"the engine file is called {path.name!r}, expected a name that ends in {suffix}")
    if path.is_dir():
        problems.append(f"{path} is a folder, expected the name of a file")
    if not path.parent.is_dir():
        problems.append(f"the folder {path.parent} does not exist; create it first")
    if not references:
        problems.append("references is empty, expected at least one batch with its float32 answers to measure against")
    if problems:
        raise ValueError("; ".join(problems))


def _input_specs(program: ExportedProgram, profile: ShapeProfile) -> tuple[TensorSpec, ...]:
    """Names, dtypes and dimensions of the program's inputs; the profile must lie inside the captured ranges."""
    names = program.graph_signature.user_inputs
    placeholders = {node.name: node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"}
    specs = []
    for name in names:
        value = placeholders[str(name)]
        dimension_names = {2: ("batch", "length"), 3: ("batch", "choices", "length")}[value.dim()]
        ranges = [_range(program, size) for size in value.shape]
        dimensions = tuple(Dimension(n, low, high) for n, (low, high) in zip(dimension_names, ranges, strict=True))
        specs.append(TensorSpec(str(name), _dtype_name(value.dtype), dimensions))
    asked = {"batch": (profile.min_batch, profile.max_batch), "length": (profile.min_length, profile.max_length)}
    problems = [
        f"{d.name} {asked[d.name][0]}..{asked[d.name][1]} of the profile is not within {d.minimum}..{d.maximum}"
        for d in specs[0].dimensions
        if d.name in asked and not (d.minimum <= asked[d.name][0] and asked[d.name][1] <= d.maximum)
    ]
    if problems:
        raise ValueError(
            f"the program was captured for other shapes: {'; '.join(problems)}; capture it with the profile"
        )
    return tuple(specs)


def _range(program: ExportedProgram, size: Any) -> tuple[int, int]:
    if isinstance(size, int):
        return size, size
    bounds = program.range_constraints[size.node.expr]
    return int(bounds.lower), int(bounds.upper)


def _calls_our_ops(program: ExportedProgram) -> bool:
    return any(
        getattr(node.target, "namespace", None) == OP_NAMESPACE
        for module in program.graph_module.modules()
        if isinstance(module, torch.fx.GraphModule)
        for node in module.graph.nodes
    )


def _check_size(implementation: FileFormat, path: Path, weight_bytes: int, format: str) -> tuple[int, int]:
    file_bytes, stored_bytes = path.stat().st_size, implementation.stored_weight_bytes(path)
    if file_bytes > size_limit(weight_bytes) or not held_once(stored_bytes, weight_bytes):
        raise EngineError(
            f"the {format} engine takes {file_bytes} bytes, {stored_bytes} of them constants, for {weight_bytes} bytes "
            f"of weights; at most {size_limit(weight_bytes)} are allowed, each weight stored once. Nothing was written"
        )
    return file_bytes, stored_bytes


def _prove(
    implementation: FileFormat,
    path: Path,
    device: str,
    facts: Facts,
    inputs: tuple[TensorSpec, ...],
    references: Sequence[Reference],
) -> tuple[MeasuredError, tuple[TensorSpec, ...]]:
    """Run the file as it is on disk; returns its error and what it puts out."""
    names = tuple(references[0][1])
    engine = make_engine(
        implementation.read(path, device=device), facts_config=facts.config, head=facts.head, format="", device=device,
        profile=facts.profile, output_names=names, inputs=inputs,
    )  # fmt: skip
    answers = [engine(batch) for batch, _ in references]
    error = measure(answers, [reference for _, reference in references])
    return error, tuple(TensorSpec(name, _dtype_name(answers[0][name].dtype)) for name in names)


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """The same as JSON holds it: string keys, lists."""
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return plain
