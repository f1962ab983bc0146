"""``albert-fast inspect``: what an engine file is, whether it is whole and runs here; or what this machine is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

import albert_fast
from albert_fast import ops
from albert_fast.cli import FAILED, print_json
from albert_fast.cli.export import summary
from albert_fast.cli.table import facts, table
from albert_fast.engine import FORMATS, describe, inspect, linear_choice, machine, manifest_path
from albert_fast.engine.loader import describable
from albert_fast.engine.manifest import Manifest, TensorSpec, read_manifest
from albert_fast.engine.typed_json import to_dataclass
from albert_fast.pipelines.sources import tokenizer_folder

_SHOWN_ELSEWHERE = ("path", "manifest_path", "manifest", "format")
_UNKNOWN = "not measured yet; loading an exported_program in fp32 or bf16 measures them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The engine file, which may be left out."""
    parser.add_argument("engine", metavar="ENGINE", nargs="?", help="an engine file; left out: this machine")


def run(arguments: argparse.Namespace) -> int:
    """Print the facts. Exit code 1 where the engine is damaged or does not run here."""
    if arguments.engine is None:
        here = this_machine()
        if arguments.json:
            print_json(here)
        else:
            print(facts([(name, str(value)) for name, value in here.items()]))
            rows = [[name, row.kind, ", ".join(row.devices), row.summary] for name, row in FORMATS.items()]
            print("\n" + table(["format", "kind", "devices", "what it is"], rows, align="llll"))
        return 0
    engine = Path(arguments.engine)
    if not engine.is_file():
        raise ValueError(f"no engine file at {engine}; make one with albert-fast export")
    if describable(engine) and not manifest_path(engine).exists():
        return _without_manifest(engine, as_json=arguments.json)
    found = inspect(engine)
    problems = [found["damage"]] if found["damage"] else found["differences"]
    if arguments.json:
        print_json(found)
    else:
        manifest = read_manifest(engine)
        verdict = "no: " + "; ".join(problems) if problems else "yes"
        once = "each stored once" if found["weights_held_once"] else "NOT each stored once"
        weights = f"{once}: {found['stored_weight_bytes']} bytes of constants for {found['weight_bytes']} of weights"
        shown = [*summary(manifest), ("weights", weights), *_origin(engine, manifest), *_notes(manifest)]
        print(facts([("engine", str(engine)), *shown, ("runs here", verdict)]))
    return FAILED if problems else 0


def _without_manifest(engine: Path, *, as_json: bool) -> int:
    """Print what the file itself tells. It cannot be loaded, so the exit code is 1."""
    found = describe(engine)
    problem = f"the manifest {found['manifest_path']} is missing; an engine file is loaded only with it"
    if found["format"] is None:
        problem += ", and this one begins like no engine file"
    problem += ": copy both files, or export anew"
    if as_json:
        print_json({**found, "problem": problem})
        return FAILED
    shown = [("engine", str(engine))]
    if found["manifest"] is None:
        shown.append(("format", found["format"] or "unknown"))
    else:
        fields = {**found["manifest"], "file_bytes": found["bytes"]}
        manifest = to_dataclass(Manifest, fields, "manifest", [])
        assert manifest is not None, "describe has checked it"
        shown += [*summary(manifest), *_origin(engine, manifest), *_notes(manifest)]
    told = {name: value for name, value in found.items() if name not in _SHOWN_ELSEWHERE}
    shown += [(name.replace("_", " "), _words(value)) for name, value in told.items()]
    print(facts([*shown, ("runs here", f"no: {problem}")]))
    return FAILED


def this_machine() -> dict[str, object]:
    """Versions, processor, threads, GPU and the op library, by name."""
    built = ops.is_available()
    library = (
        f"{ops.cpu_kernel()} kernels" if built else f"not built, sdpa does without; to build it: {ops.BUILD_COMMAND}"
    )
    packed = ", ".join(f"{dtype} {ratio:.2f} times as fast" for dtype, ratio in linear_choice.here().items())
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "albert-fast": albert_fast.__version__,
        **{name: value for name, value in machine.versions().items() if value is not None},
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "op library": library,
        "packed weights": packed or _UNKNOWN,
    }


def _origin(engine: Path, manifest: Manifest) -> list[tuple[str, str]]:
    """Where the engine comes from and what it needs."""
    requires, folder = manifest.requires, tokenizer_folder(engine)
    torch_release = f"torch {requires.torch} ({requires.torch_rule})"
    packages = [f"{one.name} {one.version} ({one.rule})" for one in requires.packages]
    needs = [torch_release, requires.system, requires.architecture, requires.gpu_name, *packages]
    if requires.compute_capabilities:
        rule = requires.compute_capability_rule
        needs.append(f"compute capability {', '.join(requires.compute_capabilities)} ({rule})")
    labels = f"{len(manifest.labels)}: {', '.join(manifest.labels[:6])}" + (", ..." if len(manifest.labels) > 6 else "")
    shown = [
        ("checkpoint", f"{manifest.checkpoint_source} (sha256 {(manifest.checkpoint_sha256 or 'unknown')[:12]})"),
        ("tokenizer", str(folder) if folder.is_dir() else "none beside the file; pass --tokenizer to run"),
        ("inputs", ", ".join(f"{one.name} {_shape(one)} {one.dtype}" for one in manifest.inputs)),
        ("outputs", ", ".join(f"{one.name} {one.dtype}" for one in manifest.outputs)),
        ("needs", ", ".join(need for need in needs if need)),
        ("made by", ", ".join(f"{name} {value}" for name, value in manifest.versions.items() if value)),
    ]
    return shown + ([("labels", labels)] if manifest.labels else [])


def _notes(manifest: Manifest) -> list[tuple[str, str]]:
    """What the format chose and measured while building: dtypes of its layers, fused kernels, the linear maps."""
    return [(name.replace("_", " "), _words(value)) for name, value in manifest.notes.items() if name != "tokenizer"]


def _words(value: Any, depth: int = 0) -> str:
    """A note on one line; lists inside lists are shapes, ``1x16``."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(one)}" for name, one in value.items())
    if not isinstance(value, list):
        return str(value)
    inner = [_words(one, depth + 1) for one in value]
    return "x".join(inner) if depth and all(isinstance(one, int) for one in value) else ", ".join(inner)


def _shape(spec: TensorSpec) -> str:
    return "[" + ", ".join(f"{one.name} {one.minimum}..{one.maximum}" for one in spec.dimensions) + "]"
