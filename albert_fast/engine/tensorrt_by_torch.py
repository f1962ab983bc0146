"""The other road to a TensorRT engine: Torch-TensorRT lowers the captured program, and there is no ONNX graph between.

It needs the CUDA device while it builds, takes one profile, and calls the outputs ``output0``, ``output1``, ...: the
notes hold what the program calls them. No engine of this road has run yet; the test that runs one needs a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch.export import ExportedProgram

from albert_fast.batch import INPUT_NAMES, ShapeProfile
from albert_fast.engine import machine, signature, tensorrt_build, tensorrt_layers, torch_tensorrt_file
from albert_fast.engine.tensorrt_log import listeners, logger
from albert_fast.engine.tensorrt_modules import Flavour
from albert_fast.engine.tensorrt_options import Options
from albert_fast.engine.torch_tensorrt_settings import packages
from albert_fast.errors import EngineError, MissingDependencyError


def check(flavour: Flavour, *, device: str, profiles: Sequence[ShapeProfile]) -> None:
    """Refuse, before any work, what this machine or Torch-TensorRT cannot do. Imports nothing.

    Raises:
        ValueError: there is no such CUDA device, or there are several profiles; both in one message.
        MissingDependencyError: Torch-TensorRT is not installed, or it drives the other module.
    """
    problems = []
    if not machine.has_device(device):
        problems.append(
            f"the option road=torch-tensorrt needs the device {device!r} while it builds, and torch finds none here; "
            "build where the GPU is, or leave road out"
        )
    if len(profiles) != 1:
        problems.append(
            f"{len(profiles)} profiles were given, the option road=torch-tensorrt takes one; give one that holds all "
            "shapes, or leave road out"
        )
    if problems:
        raise ValueError("; ".join(problems))
    installed = packages()[0]
    if installed.name != flavour.torch_tensorrt:
        raise MissingDependencyError(
            f"the option road=torch-tensorrt needs {flavour.torch_tensorrt}, which drives {flavour.title}; found "
            f"{installed.name} {installed.version}, which drives another module: pip uninstall {installed.name}, then "
            f"pip install {flavour.torch_tensorrt}; or use the format that fits it"
        )


def build(
    flavour: Flavour,
    module: Any,
    program: ExportedProgram,
    path: Path,
    *,
    device: str,
    profiles: tuple[ShapeProfile, ...],
    options: Options,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Build an engine and write it to ``path``; ``check`` has been called.

    Returns:
        The notes for the manifest: those of the ONNX road; ``outputs``, the program's name for each of the engine's;
        and ``torch_tensorrt``, the distribution that lowered the graph.
    Raises:
        EngineError: TensorRT lacks a layer for an op, cannot build, or does not say how large the weights are.
    """
    engine = torch_tensorrt_file.serialize(
        program,
        device=device,
        profiles=profiles,
        options=_named_by_torch_tensorrt(options),
        tell=lambda text: tell(f"Torch-TensorRT: {text}"),
    )
    path.write_bytes(engine)
    shapes, facts = _ask(flavour, module, engine, device)
    installed = packages()[0]
    return {
        **tensorrt_build.notes_of(flavour, module, options, shapes, facts),
        "outputs": {f"output{number}": name for number, name in enumerate(signature.output_names(program))},
        "torch_tensorrt": f"{installed.name} {installed.version}",
    }


def _named_by_torch_tensorrt(options: Options) -> dict[str, Any]:
    """Our options under the names of ``torch_tensorrt_settings.Settings``; those that ask for nothing are left out."""
    given = {
        "workspace_bytes": None if options.workspace_mb is None else options.workspace_mb << 20,
        "timing_cache": options.timing_cache,
        "optimization_level": options.optimization_level,
    }
    return {name: value for name, value in given.items() if value is not None}


def _ask(
    flavour: Flavour, module: Any, engine: bytes, device: str
) -> tuple[list[tensorrt_build.Shapes], dict[str, Any]]:
    """The shapes that an engine was built for, and the same facts that ``tensorrt_build.build`` finds."""
    with tensorrt_build.on(device), listeners(module).this_thread() as record:
        loaded = module.Runtime(logger(module)).deserialize_cuda_engine(engine)
        if loaded is None:
            told = "; ".join(record.errors()) or "it does not say why"
            raise EngineError(f"{flavour.title} {module.__version__} cannot load what Torch-TensorRT built: {told}")
        weights, layers = tensorrt_build.inspected(module, loaded)
        if not weights:
            raise EngineError(
                f"{flavour.title} {module.__version__} does not say how many bytes of weights an engine holds; install "
                "a later release, or leave the option road out"
            )
        low, best, high = (tuple(shape) for shape in loaded.get_tensor_profile_shape(INPUT_NAMES[0], 0))
        scratch = int(loaded.get_device_memory_size_for_profile_v2(0))
    summary = tensorrt_layers.summary(layers)
    return [(low, best, high)], {"weights_bytes": weights[-1], "activation_bytes": [scratch], **summary}
