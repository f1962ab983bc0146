"""The format ``torch-tensorrt``: the program compiled by Torch-TensorRT into a ``.pt2`` that holds TensorRT engines.

The file is an archive of ``torch.export``. Torch-TensorRT writes its engines there as base64 text, a third larger than
they are; deflating that member wins it back, and ``torch.export.load`` reads it as before.
"""

from __future__ import annotations

import inspect
import os
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.utils._pytree import tree_leaves

from albert_fast._optional import require
from albert_fast.batch import ShapeProfile
from albert_fast.engine import signature
from albert_fast.engine.exported_program import moved
from albert_fast.engine.formats import Run, Written
from albert_fast.engine.manifest import Requirements
from albert_fast.engine.torch_tensorrt_partition import (
    ENGINE_PREFIX,
    Partition,
    input_shapes,
    partition,
    tuned_for,
)
from albert_fast.engine.torch_tensorrt_quantized import pairs_converted
from albert_fast.engine.torch_tensorrt_settings import (
    EXTRA,
    Settings,
    compiler_arguments,
    load_package,
    packages,
)
from albert_fast.engine.torch_tensorrt_settings import requirements as needs
from albert_fast.errors import EngineError

_DEFLATE_LEVEL = 6
_REMEDY = "choose another precision or attention, or let PyTorch run it with require_full_compilation=false"


def write(
    program: ExportedProgram,
    path: Path,
    *,
    device: str,
    profiles: tuple[ShapeProfile, ...],
    options: Mapping[str, Any],
    tell: Callable[[str], None],
) -> Written:
    """Compile the program for the CUDA device, with the one profile as TensorRT's.

    Args:
        options: see ``torch_tensorrt_settings.Settings``.
    Raises:
        ValueError: an option's value is none, or there are several profiles.
        MissingDependencyError: Torch-TensorRT is not installed.
        EngineError: TensorRT cannot run every op, and that was not allowed.
    """
    settings, profile, package = Settings.of(options), _only(profiles), load_package()
    program = moved(program, device)
    with (
        TemporaryDirectory(prefix="albert-fast-") as scratch,
        tuned_for(program, profile),
        pairs_converted(package, program),
    ):
        arguments = _arguments(package.dynamo.compile, settings, scratch, device)
        divided = _divide(package, program, profile, arguments, settings, tell, remedy=_REMEDY)
        tell(f"build {divided}")
        inputs, whole = input_shapes(package, program, profile), settings.require_full_compilation
        with _failing_in_words():
            compiled = package.dynamo.compile(program, inputs=inputs, **arguments, require_full_compilation=whole)
        package.save(compiled, str(path), retrace=False)
    _deflate_engines(path)
    engines = [child.serialized_engine for name, child in compiled.named_children() if name.startswith(ENGINE_PREFIX)]
    if len(engines) != divided.engines:
        raise EngineError(f"Torch-TensorRT announced {divided.engines} engines and built {len(engines)}; report this")
    return Written(
        {
            "engines": divided.engines,
            "converted_ops": divided.converted,
            "torch_ops": dict(divided.left_in_torch),
            "engine_bytes": sum(len(engine) for engine in engines),
            "engine_weight_bytes": sum(_weight_bytes(engine) for engine in engines),
            "outputs": list(signature.output_names(program)),
            "device_index": _index(device),
            "packages": [f"{needed.name} {needed.version}" for needed in packages()],
        }
    )


def serialize(
    program: ExportedProgram,
    *,
    device: str,
    profiles: tuple[ShapeProfile, ...],
    options: Mapping[str, Any],
    tell: Callable[[str], None],
) -> bytes:
    """The TensorRT engine alone, for the TensorRT runtime: another road to it than ONNX.

    Its inputs are called like the program's, its outputs ``output0``, ``output1``, ... in the program's order.

    Args:
        options: see ``torch_tensorrt_settings.Settings``; ``require_full_compilation`` must not be false.
    Raises:
        As ``write``.
    """
    settings, profile = Settings.of(options), _only(profiles)
    if not settings.require_full_compilation:
        raise ValueError("the option require_full_compilation is False, but an engine alone has no PyTorch beside it")
    package = load_package()
    program = moved(program, device)
    with (
        TemporaryDirectory(prefix="albert-fast-") as scratch,
        tuned_for(program, profile),
        pairs_converted(package, program),
    ):
        arguments = _arguments(package.dynamo.compile, settings, scratch, device)
        remedy = "choose another precision or attention, or build the engine from the ONNX graph"
        tell(f"build {_divide(package, program, profile, arguments, settings, tell, remedy=remedy)}")
        convert = package.dynamo.convert_exported_program_to_serialized_trt_engine
        arguments = _arguments(convert, settings, scratch, device)
        with _failing_in_words():
            engine: bytes = convert(program, inputs=input_shapes(package, program, profile), **arguments)
    return engine


def read(path: Path, *, device: str, profiles: tuple[ShapeProfile, ...], notes: Mapping[str, Any]) -> Run:
    """Load the file; it unpickles Torch-TensorRT's own objects. The caller has compared its hash.

    Calls run one after the other: an engine has one execution context.

    Raises:
        MissingDependencyError: Torch-TensorRT is not installed.
        EngineError: another CUDA device than the one with the number that the engine was built on.
    """
    load_package()
    if _index(device) != notes["device_index"]:
        raise EngineError(
            f"{path} runs on cuda:{notes['device_index']}, device={device!r} was asked for; "
            f"start the process with CUDA_VISIBLE_DEVICES={_index(device)} and ask for 'cuda'"
        )
    # past the module's own input checks, whose ranges Torch-TensorRT lets begin at 2
    forward = torch.export.load(str(path)).module(check_guards=False).forward
    names, one_at_a_time = tuple(notes["outputs"]), threading.Lock()

    def run(input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Mapping[str, Tensor]:
        with one_at_a_time:
            outputs = tree_leaves(forward(input_ids, attention_mask, token_type_ids))
        return dict(zip(names, outputs, strict=True))

    return run


def stored_weight_bytes(path: Path, notes: Mapping[str, Any]) -> int:
    """What TensorRT says that the engines' weights take, and the weights of what PyTorch runs."""
    with zipfile.ZipFile(path) as archive:
        beside = [m.file_size for m in archive.infolist() if "/data/weights/" in m.filename and not _is_json(m)]
    return int(notes["engine_weight_bytes"]) + sum(beside)


def requirements(device: str, options: Mapping[str, Any]) -> Requirements:
    """The same kind of GPU and the very releases of Torch-TensorRT and TensorRT.

    Raises:
        MissingDependencyError: Torch-TensorRT is not installed.
    """
    return needs(device)


def runs_on(built_for: str, device: str) -> bool:
    """Only on CUDA devices."""
    return torch.device(device).type == built_for


def _only(profiles: tuple[ShapeProfile, ...]) -> ShapeProfile:
    if len(profiles) != 1:
        raise ValueError(
            f"{len(profiles)} profiles were given, but Torch-TensorRT builds for one; give one that holds all shapes, "
            "or use the format tensorrt"
        )
    return profiles[0]


def _arguments(function: Callable[..., Any], settings: Settings, scratch: str, device: str) -> dict[str, Any]:
    known = inspect.signature(function).parameters
    return compiler_arguments(settings, known, timing_cache=Path(scratch) / "timing_cache.bin", device=device)


def _divide(
    package: ModuleType,
    program: ExportedProgram,
    profile: ShapeProfile,
    arguments: Mapping[str, Any],
    settings: Settings,
    tell: Callable[[str], None],
    *,
    remedy: str,
) -> Partition:
    tell("divide the graph between TensorRT and PyTorch")
    divided = partition(package, program, profile, arguments)
    divided.check(in_torch_allowed=not settings.require_full_compilation, remedy=remedy)
    return divided


@contextmanager
def _failing_in_words() -> Iterator[None]:
    """Turn what Torch-TensorRT raises where TensorRT gives it no engine into an error with a next step."""
    try:
        yield
    except (AssertionError, RuntimeError) as error:
        raise EngineError(
            f"TensorRT built no engine ({str(error) or type(error).__name__}); its own messages in this process's log "
            "say why. Where it ran out of memory, give a smaller profile or the option workspace_bytes "
            "(workspace_mb of the TensorRT formats)"
        ) from error


def _weight_bytes(engine: bytes) -> int:
    """Bytes of an engine's weights, as the runtime that has just built it counts them."""
    trt = require("tensorrt", extra=EXTRA, purpose="read an engine")  # torch_tensorrt puts TensorRT-RTX in its place
    loaded = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(engine)
    return int(loaded.get_engine_stat(trt.EngineStat.TOTAL_WEIGHTS_SIZE))


def _index(device: str) -> int:
    index = torch.device(device).index
    return torch.cuda.current_device() if index is None else index


def _deflate_engines(path: Path) -> None:
    """Rewrite the archive with its engines deflated and everything else as it was."""
    smaller = path.with_name(f"{path.name}.deflated")
    try:
        with zipfile.ZipFile(path) as archive, zipfile.ZipFile(smaller, "w") as rewritten:
            for member in archive.infolist():
                engine = "/data/constants/" in member.filename and not _is_json(member)
                method = zipfile.ZIP_DEFLATED if engine else zipfile.ZIP_STORED
                rewritten.writestr(member, archive.read(member), method, _DEFLATE_LEVEL)
        os.replace(smaller, path)
    finally:
        with suppress(FileNotFoundError):
            smaller.unlink()


def _is_json(member: zipfile.ZipInfo) -> bool:
    return member.filename.endswith(".json")
