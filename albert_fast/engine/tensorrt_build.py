"""A captured program -> its ONNX graph -> a serialized TensorRT engine, with what is known about it without running it.

The network is strongly typed: TensorRT computes in the dtypes of the graph and nowhere in fewer bits. TF32, which
rounds the operands of float32 products to 10 bits, is switched off: a precision is a property of the graph.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from torch.export import ExportedProgram

from albert_fast.batch import ShapeProfile, hull
from albert_fast.engine import machine, onnx_file, signature, tensorrt_layers
from albert_fast.engine.onnx_graph import to_onnx
from albert_fast.engine.tensorrt_log import Record, listeners, logger, one_line, progress_monitor
from albert_fast.engine.tensorrt_modules import Flavour, default_capabilities, known_capabilities
from albert_fast.engine.tensorrt_options import Options
from albert_fast.errors import EngineError
from albert_fast.files import replacing

MOST_ERRORS_TOLD = 3

Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
"""Smallest, best tuned and largest shape of the inputs; all three inputs have the same."""


def graph_of(program: ExportedProgram, options: Options) -> Any:
    """The program's ONNX graph, an ``onnx.ModelProto``, with inputs of the dtype that was asked for."""
    return to_onnx(program, ids=options.ids, tables="dequantized")


@contextmanager
def graph_file(model: Any, folder: Path) -> Iterator[Path]:
    """An ONNX graph as a file, for a while, in a temporary folder of ``folder``: graphs of 2 GB need one."""
    with tempfile.TemporaryDirectory(prefix="onnx-", dir=folder) as temporary:
        file = Path(temporary) / "graph.onnx"
        onnx_file.save(model, file)
        yield file


def profile_shapes(program: ExportedProgram, profiles: Sequence[ShapeProfile]) -> list[Shapes]:
    """For each profile the shapes of the inputs, ``[batch, length]`` or ``[batch, choices, length]``.

    Choices are tuned for two, the smallest number that is a choice, within the range that was captured.
    """
    dimensions = {d.name: d for d in signature.input_specs(program, hull(profiles))[0].dimensions}
    if "choices" not in dimensions:
        return [_shapes(p, [(), (), ()]) for p in profiles]
    low, high = dimensions["choices"].minimum, dimensions["choices"].maximum
    return [_shapes(p, [(low,), (min(max(2, low), high),), (high,)]) for p in profiles]


def build(
    flavour: Flavour,
    module: Any,
    model: Any,
    path: Path,
    *,
    device: str,
    shapes: Sequence[Shapes],
    options: Options,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Build an engine and write it to ``path``.

    Args:
        model: the ONNX graph; not changed.
        shapes: one TensorRT profile each.
        tell: called in this thread. What it raises, and Ctrl-C, stops the build and is raised again.
    Returns:
        What is known about the engine, for the manifest: ``weights_bytes`` (all constants, as often as they are
        stored), ``activation_bytes`` (scratch memory of each profile) and the counts of ``tensorrt_layers.summary``.
    Raises:
        EngineError: TensorRT cannot parse the graph or build it; the message names the node or layer.
    """
    with on(device), listeners(module).build() as record:
        try:
            builder = module.Builder(logger(module))
        except TypeError as error:  # pybind's words for a null pointer
            raise EngineError(_failure(flavour, module, "cannot start", record)) from error
        flag = getattr(module.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # TensorRT 11 knows no other
        network = builder.create_network(0 if flag is None else 1 << int(flag))
        parser = module.OnnxParser(network, logger(module))
        _parse(flavour, module, parser, model, path.parent, record)
        config = builder.create_builder_config()
        _configure(flavour, module, config, options)
        for number, sizes in enumerate(shapes):
            profile = _profile(builder, network, sizes, first=number == 0)
            if config.add_optimization_profile(profile) < 0:
                raise EngineError(_failure(flavour, module, f"refuses the profile {sizes}", record))
        words: SimpleQueue[str | None] = SimpleQueue()
        monitor = progress_monitor(module, words.put)
        config.progress_monitor = monitor

        def serialize() -> Any:
            with on(device):
                return builder.build_serialized_network(network, config)

        engine = _watched(serialize, words, monitor, lambda text: tell(f"{flavour.title}: {text}"))
        if engine is None:
            hint = "; raise the option workspace_mb or leave it out" if options.workspace_mb is not None else ""
            raise EngineError(_failure(flavour, module, "cannot build the engine", record) + hint)
        if options.timing_cache is not None:
            with replacing(options.timing_cache) as temporary:
                temporary.write_bytes(memoryview(config.get_timing_cache().serialize()))
        with path.open("wb") as stream:
            stream.write(memoryview(engine))
        return _facts(flavour, module, engine, record, device)


def _shapes(profile: ShapeProfile, middle: Sequence[tuple[int, ...]]) -> Shapes:
    batches = (profile.min_batch, profile.opt_batch, profile.max_batch)
    lengths = (profile.min_length, profile.opt_length, profile.max_length)
    low, best, high = ((b, *m, s) for b, m, s in zip(batches, middle, lengths, strict=True))
    return low, best, high


@contextmanager
def on(device: str) -> Iterator[None]:
    """TensorRT works on the current CUDA device of its thread; without a GPU there is none."""
    if not machine.has_device(device):
        yield
        return
    with torch.cuda.device(torch.device(device)):
        yield


def _parse(flavour: Flavour, module: Any, parser: Any, model: Any, folder: Path, record: Record) -> None:
    with graph_file(model, folder) as file:
        parsed = parser.parse_from_file(str(file))
    if not parsed:
        errors = [parser.get_error(number) for number in range(parser.num_errors)]
        told = "; ".join(dict.fromkeys(_parser_error(error) for error in errors)) or "; ".join(record.errors())
        raise EngineError(f"{flavour.title} {module.__version__} cannot read the graph: {told}")


def _parser_error(error: Any) -> str:
    """What a parser error says, with the ONNX node that it is about."""
    lines = [one_line(line) for line in str(error.desc()).splitlines()]
    kept = [line for line in lines if line and "catchCudaError" not in line] or lines
    specific = [line for line in kept if not line.startswith("Invalid Node")] or kept
    name, operator = str(error.node_name()), str(error.node_operator())
    return f"the node {name!r} ({operator}): {' '.join(specific)}" if name or operator else " ".join(specific)


def _configure(flavour: Flavour, module: Any, config: Any, options: Options) -> None:
    config.clear_flag(module.BuilderFlag.TF32)
    config.profiling_verbosity = module.ProfilingVerbosity.DETAILED
    if options.workspace_mb is not None:
        config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.version_compatible:
        config.set_flag(module.BuilderFlag.VERSION_COMPATIBLE)
    if options.strip_weights:
        config.set_flag(module.BuilderFlag.STRIP_PLAN)
    if options.hardware_compatible != "none":
        levels = module.HardwareCompatibilityLevel
        config.hardware_compatibility_level = getattr(levels, options.hardware_compatible.upper())
    if options.compute_capabilities:
        known = known_capabilities(module)
        config.num_compute_capabilities = len(options.compute_capabilities)
        for index, name in enumerate(options.compute_capabilities):
            if not config.set_compute_capability(known[name], index):
                raise EngineError(f"{flavour.title} {module.__version__} refuses compute capability {name}")
    if options.timing_cache is not None:
        _use_timing_cache(flavour, module, config, options.timing_cache)


def _use_timing_cache(flavour: Flavour, module: Any, config: Any, path: Path) -> None:
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise EngineError(
            f"the timing cache {path} does not belong to {flavour.title} {module.__version__} and this GPU; "
            "delete it, or name another file"
        )


def _profile(builder: Any, network: Any, shapes: Shapes, *, first: bool) -> Any:
    profile = builder.create_optimization_profile()
    for number in range(network.num_inputs):
        profile.set_shape(network.get_input(number).name, *shapes)
    if not first:
        profile.extra_memory_target = 0.0  # a further profile may not store a weight in a layout of its own
    return profile


def _watched(work: Callable[[], Any], words: SimpleQueue[str | None], monitor: Any, tell: Callable[[str], None]) -> Any:
    """Run ``work`` in another thread and tell here what it puts into ``words``.

    TensorRT calls the monitor and the logger from C++, where a Python exception is lost; here it is not.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="tensorrt-build") as pool:
        working = pool.submit(work)
        working.add_done_callback(lambda _: words.put(None))
        try:
            for text in iter(words.get, None):
                tell(text)
        finally:
            monitor.stop.set()
        return working.result()


def _facts(flavour: Flavour, module: Any, engine: Any, record: Record, device: str) -> dict[str, Any]:
    weights = tensorrt_layers.byte_counts(record.starting(tensorrt_layers.WEIGHTS_HEADING))
    layers = tensorrt_layers.logged_layers(record.starting(tensorrt_layers.LIST_HEADING))
    if not (weights and layers) and machine.has_device(device):
        found, layers = _ask(module, engine)
        weights = weights or found
    if not weights:
        raise EngineError(
            f"{flavour.title} {module.__version__} does not say how many bytes of weights the engine holds. Another "
            "logger was registered in this process first, or the release is too old: export in a process of its own"
        )
    return {
        "weights_bytes": weights[-1],
        "activation_bytes": tensorrt_layers.byte_counts(record.starting(tensorrt_layers.ACTIVATIONS_HEADING)),
        **tensorrt_layers.summary(layers),
    }


def _ask(module: Any, engine: Any) -> tuple[list[int], list[tensorrt_layers.Layer]]:
    """Weight bytes and layers, from the engine itself; needs a GPU."""
    runtime = module.Runtime(logger(module))
    loaded = runtime.deserialize_cuda_engine(memoryview(engine))
    return ([], []) if loaded is None else inspected(module, loaded)


def inspected(module: Any, loaded: Any) -> tuple[list[int], list[tensorrt_layers.Layer]]:
    """Weight bytes (empty where the release does not tell them) and layers of a deserialized engine."""
    stat = getattr(module, "EngineStat", None)
    weights = [] if stat is None else [int(loaded.get_engine_stat(stat.TOTAL_WEIGHTS_SIZE))]
    text = loaded.create_engine_inspector().get_engine_information(module.LayerInformationFormat.JSON)
    return weights, tensorrt_layers.inspected_layers(text)


def _failure(flavour: Flavour, module: Any, what: str, record: Record) -> str:
    told = "; ".join(record.errors()[:MOST_ERRORS_TOLD]) or "it does not say why"
    return f"{flavour.title} {module.__version__} {what}: {told}"


def notes_of(
    flavour: Flavour, module: Any, options: Options, shapes: Sequence[Shapes], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """What the manifest says about an engine that was built, JSON's types only."""
    capabilities = options.compute_capabilities or (default_capabilities(module) if flavour.portable else ())
    return {
        "module": flavour.module,
        "module_version": module.__version__,
        "ids": options.ids,
        "profile_shapes": [[list(shape) for shape in profile] for profile in shapes],
        "compute_capabilities": list(capabilities),
        "hardware_compatible": options.hardware_compatible,
        "version_compatible": options.version_compatible,
        "weights": "stripped" if options.strip_weights else "included",
        "cuda_graphs": options.cuda_graphs,
        "road": options.road,
        **facts,
    }
