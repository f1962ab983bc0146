"""Running a TensorRT engine on CUDA: torch's tensors are its buffers, and shapes that come often are replayed.

An engine has one stream, one block of scratch memory and one execution context for each profile, and a lock around
them: any thread may call it, and calls are queued one after the other. Outputs are new tensors each time.

A shape that comes for the third time gets buffers of its own, so that its launches can be replayed as a CUDA graph.
TensorRT-RTX records and replays by itself: it compiles faster kernels for a shape while the engine is already running,
and a graph of ours would keep the slow ones. With TensorRT we record. A graph holds the addresses and the state of its
context, which must not be changed afterwards, so each graph has a context of its own.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from albert_fast.batch import INPUT_NAMES, ShapeProfile, smallest_fitting
from albert_fast.engine.formats import Run
from albert_fast.engine.tensorrt_cuda import Gpu
from albert_fast.engine.tensorrt_log import Record, listeners, logger
from albert_fast.engine.tensorrt_modules import Flavour, load
from albert_fast.engine.tensorrt_probe import why_invalid
from albert_fast.errors import EngineError

ALIGNMENT = 256
"""TensorRT wants the addresses of its buffers to be multiples of so many bytes."""
OFTEN, SHAPES_KEPT, SHAPES_COUNTED = 3, 16, 256
REPLAYED_OUTPUT_BYTES = 2**24
"""Larger outputs are not replayed: copying them out costs more than the launches."""

_DTYPES = {
    "FLOAT": torch.float32,
    "HALF": torch.float16,
    "BF16": torch.bfloat16,
    "INT32": torch.int32,
    "INT64": torch.int64,
}


def read(
    flavour: Flavour, path: Path, *, device: str, profiles: tuple[ShapeProfile, ...], notes: Mapping[str, Any]
) -> Run:
    """Load an engine file onto a CUDA device.

    Raises:
        MissingDependencyError: the module is not installed.
        EngineError: the file belongs to another release or GPU, is damaged, has no weights, or does not fit into the
            GPU's memory.
    """
    module = load(flavour, f"run a {flavour.title} engine")
    if notes.get("weights") == "stripped":
        raise EngineError(f"{path} was exported with strip_weights, so it has no weights; put them in with refit")
    built_with = notes.get("module_version")
    if built_with != module.__version__ and not notes.get("version_compatible"):
        raise EngineError(
            f"{path} was built with {flavour.title} {built_with}, this is {module.__version__}: install that release, "
            "or export anew here"
        )
    gpu = Gpu(device)
    engine = load_engine(flavour, module, path, gpu, trusted=bool(notes.get("version_compatible")))
    graphs, names = bool(notes.get("cuda_graphs", True)), notes.get("outputs", {})
    return TensorRTRun(flavour, module, engine, profiles, gpu, cuda_graphs=graphs, output_names=names)


def load_engine(flavour: Flavour, module: Any, path: Path, gpu: Gpu, *, trusted: bool = False) -> Any:
    """Deserialize an engine file.

    Args:
        trusted: whether the file may bring a runtime of its own, which is machine code; version-compatible ones do.
    Raises:
        EngineError: TensorRT does not take the file; the message holds its reasons.
    """
    data = path.read_bytes()
    with gpu.selected(), listeners(module).this_thread() as record:
        runtime = module.Runtime(logger(module))
        if trusted:
            runtime.engine_host_code_allowed = True
        reasons = why_invalid(module, runtime, data)
        if reasons:
            raise EngineError(f"{flavour.title} {module.__version__} refuses {path}: {'; '.join(reasons)}")
        engine = runtime.deserialize_cuda_engine(data)
        if engine is None:
            told = "; ".join(record.errors()) or "it does not say why"
            raise EngineError(f"{flavour.title} {module.__version__} cannot load {path}: {told}")
    return engine


@dataclass
class _Often:
    """A shape that comes often: its buffers, its context, and what replays its launches (None: TensorRT-RTX does)."""

    context: Any
    inputs: list[Tensor]
    outputs: dict[str, Tensor]
    replay: Callable[[], None] | None = None


class TensorRTRun:
    """The callable that ``read`` returns: ``(input_ids, attention_mask, token_type_ids)`` -> outputs by name.

    Args:
        engine: a deserialized ``ICudaEngine``.
        profiles: those that the engine was built for, in that order.
        gpu: where it runs; the tests put a CPU in its place.
        cuda_graphs: whether shapes that come often are replayed.
        output_names: what the caller calls the engine's outputs; empty where the engine calls them the same.
    """

    def __init__(
        self,
        flavour: Flavour,
        module: Any,
        engine: Any,
        profiles: tuple[ShapeProfile, ...],
        gpu: Gpu,
        *,
        cuda_graphs: bool,
        output_names: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._flavour, self._module, self._engine, self._profiles, self._gpu = flavour, module, engine, profiles, gpu
        self._cuda_graphs, self._output_names = cuda_graphs, dict(output_names)
        self._lock = threading.Lock()
        self._counts: OrderedDict[tuple[int, ...], int] = OrderedDict()
        self._often: OrderedDict[tuple[int, ...], _Often] = OrderedDict()
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == module.TensorIOMode.INPUT]
        if sorted(inputs) != sorted(INPUT_NAMES) or engine.num_optimization_profiles != len(profiles):
            raise EngineError(
                f"the engine has the inputs {', '.join(inputs)} and {engine.num_optimization_profiles} profiles, "
                f"expected {', '.join(INPUT_NAMES)} and {len(profiles)}: file and manifest do not belong together; "
                "export anew"
            )
        self._id_dtype = self._dtype_of(INPUT_NAMES[0])
        self._outputs = {name: self._dtype_of(name) for name in names if name not in INPUT_NAMES}
        if output_names and output_names.keys() != self._outputs.keys():
            raise EngineError(
                f"the engine has the outputs {', '.join(self._outputs)}, expected {', '.join(output_names)}: file and "
                "manifest do not belong together; export anew"
            )
        with gpu.selected(), listeners(module).this_thread() as record:
            self._runtime_config = self._make_runtime_config()
            with gpu.after_caller() as stream:
                self._scratch = self._make_scratch()
                self._contexts = [self._new_context(index, stream, record) for index in range(len(profiles))]

    @torch.inference_mode()
    def __call__(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Mapping[str, Tensor]:
        """Queue one batch on the current stream of the caller.

        Args: int64 on the engine's device, ``[batch, length]`` or ``[batch, choices, length]``, within a profile.
        Returns: outputs by name, new tensors, ready on the caller's current stream.
        Raises:
            ValueError: no profile takes the shape.
            EngineError: TensorRT reports a failure.
        """
        shape = tuple(input_ids.shape)
        index = smallest_fitting(self._profiles, shape[0], shape[-1])
        if index is None:
            told = ", ".join(str(profile) for profile in self._profiles)
            raise ValueError(f"no profile of the engine takes the shape {list(shape)}; it has {told}")
        with self._lock, self._gpu.selected(), listeners(self._module).this_thread() as record:
            inputs = [self._ready(tensor) for tensor in (input_ids, attention_mask, token_type_ids)]
            often = self._kept(shape)
            if often is not None:
                return self._named(self._again(often, shape, inputs, record))
            context = self._contexts[index]
            outputs = self._bind(context, shape, inputs, None, record)
            with self._gpu.after_caller() as stream:
                self._launch(context, stream, record)
                if self._is_often(shape, outputs):
                    self._keep(index, shape, stream, record)
            return self._named(outputs)

    def _named(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {self._output_names.get(name, name): tensor for name, tensor in outputs.items()}

    def _ready(self, tensor: Tensor) -> Tensor:
        ready = tensor.to(self._id_dtype).contiguous()
        return ready if ready.data_ptr() % ALIGNMENT == 0 else self._gpu.empty(ready.shape, ready.dtype).copy_(ready)

    def _bind(
        self,
        context: Any,
        shape: tuple[int, ...],
        inputs: Sequence[Tensor],
        outputs: dict[str, Tensor] | None,
        record: Record,
    ) -> dict[str, Tensor]:
        """Tell the context shapes and addresses; outputs are allocated where none are given."""
        for name, tensor in zip(INPUT_NAMES, inputs, strict=True):
            self._check(context.set_input_shape(name, shape), f"refuses the shape {list(shape)} of {name}", record)
            self._check(context.set_tensor_address(name, tensor.data_ptr()), f"refuses the buffer of {name}", record)
        if outputs is None:
            sizes = {name: tuple(context.get_tensor_shape(name)) for name in self._outputs}
            outputs = {name: self._gpu.empty(sizes[name], dtype) for name, dtype in self._outputs.items()}
        for name, tensor in outputs.items():
            self._check(context.set_tensor_address(name, tensor.data_ptr()), f"refuses the buffer of {name}", record)
        return outputs

    def _launch(self, context: Any, stream: int, record: Record) -> None:
        self._check(context.execute_async_v3(stream), "cannot run the engine", record)

    def _kept(self, shape: tuple[int, ...]) -> _Often | None:
        if shape in self._often:
            self._often.move_to_end(shape)
        return self._often.get(shape)

    def _is_often(self, shape: tuple[int, ...], outputs: Mapping[str, Tensor]) -> bool:
        if not self._cuda_graphs or sum(tensor.nbytes for tensor in outputs.values()) > REPLAYED_OUTPUT_BYTES:
            return False
        self._counts[shape] = self._counts.pop(shape, 0) + 1
        if len(self._counts) > SHAPES_COUNTED:
            self._counts.popitem(last=False)
        return self._counts[shape] >= OFTEN

    def _keep(self, index: int, shape: tuple[int, ...], stream: int, record: Record) -> None:
        """Give a shape its own buffers; with TensorRT also a context, launched once as it asks for, and recorded."""
        if len(self._often) == SHAPES_KEPT:
            self._gpu.synchronize()  # a replay may be under way
            self._often.popitem(last=False)
        inputs = [self._gpu.empty(shape, self._id_dtype).zero_() for _ in INPUT_NAMES]
        portable = self._flavour.portable
        context = self._contexts[index] if portable else self._new_context(index, stream, record)
        often = _Often(context, inputs, self._bind(context, shape, inputs, None, record))
        if not portable:
            self._launch(context, stream, record)
            try:
                often.replay = self._gpu.record(lambda: self._launch(context, stream, record))
            except RuntimeError as error:  # torch's for CUDA's
                raise EngineError(
                    f"no CUDA graph can be recorded of the shape {list(shape)} ({' '.join(str(error).split())}); "
                    "export the engine with the option cuda_graphs=false"
                ) from error
        self._often[shape] = often

    def _again(
        self, often: _Often, shape: tuple[int, ...], inputs: Sequence[Tensor], record: Record
    ) -> dict[str, Tensor]:
        outputs = {name: self._gpu.empty(tuple(kept.shape), kept.dtype) for name, kept in often.outputs.items()}
        with self._gpu.after_caller() as stream:
            for kept, tensor in zip(often.inputs, inputs, strict=True):
                kept.copy_(tensor)
            if often.replay is not None:
                often.replay()
            else:
                self._bind(often.context, shape, often.inputs, often.outputs, record)
                self._launch(often.context, stream, record)
            for name, kept in often.outputs.items():
                outputs[name].copy_(kept)
        return outputs

    def _make_scratch(self) -> Tensor:
        sizes = [int(self._engine.get_device_memory_size_for_profile_v2(i)) for i in range(len(self._profiles))]
        largest = max(sizes)
        try:
            return self._gpu.empty((max(largest, ALIGNMENT),), torch.uint8)
        except torch.OutOfMemoryError as error:
            raise EngineError(
                f"the engine needs {largest / 1e6:.0f} MB of scratch memory for the largest shape of its profile "
                f"{self._profiles[sizes.index(largest)]}, more than the GPU has left: export it with a smaller one"
            ) from error

    def _make_runtime_config(self) -> Any:
        """How TensorRT-RTX makes contexts; they share the kernels that it compiles. None for TensorRT."""
        if not self._flavour.portable:
            return None
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(self._module.ExecutionContextAllocationStrategy.USER_MANAGED)
        strategies = self._module.CudaGraphStrategy
        config.cuda_graph_strategy = strategies.WHOLE_GRAPH_CAPTURE if self._cuda_graphs else strategies.DISABLED
        config.set_runtime_cache(config.create_runtime_cache())
        return config

    def _new_context(self, index: int, stream: int, record: Record) -> Any:
        how = self._runtime_config or self._module.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(how)
        self._check(context is not None, "makes no execution context", record)
        self._check(context.set_optimization_profile_async(index, stream), f"refuses profile {index}", record)
        context.set_device_memory(self._scratch.data_ptr(), self._scratch.nbytes)
        return context

    def _dtype_of(self, name: str) -> torch.dtype:
        dtypes = {getattr(self._module.DataType, dtype): torch_dtype for dtype, torch_dtype in _DTYPES.items()}
        return dtypes[self._engine.get_tensor_dtype(name)]

    def _check(self, worked: Any, what: str, record: Record) -> None:
        if not worked:
            told = "; ".join(record.errors()) or "it does not say why"
            raise EngineError(f"{self._flavour.title} {self._module.__version__} {what}: {told}")
