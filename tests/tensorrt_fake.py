"""A stand-in for TensorRT's runtime, on CPU: it computes from addresses, as TensorRT does, and minds misuse.

With it an engine's logic is tested up to the launch; what a GPU does is tested on a GPU.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from albert_fast.batch import INPUT_NAMES
from albert_fast.engine.tensorrt_cuda import Gpu

DTYPES = {0: torch.float32, 3: torch.int32, 8: torch.int64}


class DataType(IntEnum):
    FLOAT, HALF, INT32, BF16, INT64 = 0, 1, 3, 7, 8


class TensorIOMode(IntEnum):
    NONE, INPUT, OUTPUT = 0, 1, 2


class AllocationStrategy(IntEnum):
    STATIC, ON_PROFILE_CHANGE, USER_MANAGED = 0, 1, 2


class CudaGraphStrategy(IntEnum):
    DISABLED, WHOLE_GRAPH_CAPTURE = 0, 1


class EngineValidity(IntEnum):
    VALID, SUBOPTIMAL, INVALID = 0, 1, 2


class Diagnostics(IntEnum):
    VERSION_MISMATCH, UNSUPPORTED_CC, MALFORMED_ENGINE = 1, 2, 32


def read_memory(address: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The numbers at an address; writing to them writes there."""
    size = torch.Size(shape).numel() * dtype.itemsize
    return torch.frombuffer((ctypes.c_char * size).from_address(address), dtype=dtype).view(shape)


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.shapes, self.addresses = engine, {}, {}
        self.profile: int | None = None
        self.scratch: int | None = None
        self.recorded = False

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        self.profile = index
        return 0 <= index < self.engine.num_optimization_profiles

    def set_device_memory(self, memory: int, size: int) -> None:
        assert size >= self.engine.get_device_memory_size_for_profile_v2(self.profile or 0)
        self.scratch = memory

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert not self.recorded, "a context must not be changed after a graph was recorded from it"
        low, high = self.engine.ranges[self.profile]
        self.shapes[name] = shape
        return all(a <= s <= b for a, s, b in zip(low, shape, high, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.shapes["input_ids"][0], 2)

    def set_tensor_address(self, name: str, address: int) -> bool:
        assert not self.recorded, "a context must not be changed after a graph was recorded from it"
        assert address % 256 == 0, "TensorRT wants 256-byte alignment"
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == FakeGpu.STREAM and self.scratch is not None
        if self.engine.breaks:
            self.engine.module.ILogger.last.log(1, "IExecutionContext::enqueueV3: Error Code 1: Cuda Runtime (boom)")
            return False
        shape, addresses = self.shapes["input_ids"], dict(self.addresses)
        if self.engine.recording is None:
            self.engine.compute(shape, addresses)
        else:
            self.recorded = True
            self.engine.recording.append(lambda: self.engine.compute(shape, addresses))
        return True


class FakeEngine:
    """Answers ``logits``: for each row the sum of its unmasked ids, and the sum of its types."""

    def __init__(self, module: Any, ranges: list[tuple[tuple[int, ...], tuple[int, ...]]], ids: DataType) -> None:
        self.module, self.ranges, self.ids = module, ranges, ids
        self.num_io_tensors, self.num_optimization_profiles = 4, len(ranges)
        self.names = ["logits", *INPUT_NAMES]
        self.contexts: list[FakeContext] = []
        self.recording: list[Callable[[], None]] | None = None
        self.breaks = False
        self.computed = 0
        self._busy = threading.Lock()

    def get_tensor_name(self, index: int) -> str:
        return self.names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.OUTPUT if name == "logits" else TensorIOMode.INPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType.FLOAT if name == "logits" else self.ids

    def get_device_memory_size_for_profile_v2(self, index: int) -> int:
        return 1024 * (index + 1)

    def create_runtime_config(self) -> Any:
        config = SimpleNamespace(cuda_graph_strategy=CudaGraphStrategy.DISABLED, create_runtime_cache=lambda: "cache")
        config.set_runtime_cache = lambda cache: setattr(config, "cache", cache)
        config.set_execution_context_allocation_strategy = lambda strategy: setattr(config, "strategy", strategy)
        return config

    def create_execution_context(self, how: Any) -> FakeContext:
        assert getattr(how, "strategy", how) == AllocationStrategy.USER_MANAGED
        self.contexts.append(FakeContext(self))
        return self.contexts[-1]

    def compute(self, shape: tuple[int, ...], addresses: dict[str, int]) -> None:
        assert self._busy.acquire(blocking=False), "two launches share the scratch memory at the same time"
        try:
            ids, mask, types = (read_memory(addresses[name], shape, DTYPES[self.ids]) for name in INPUT_NAMES)
            answer = torch.stack([(ids * mask).flatten(1).sum(1), types.flatten(1).sum(1)], 1).float()
            read_memory(addresses["logits"], (shape[0], 2), torch.float32).copy_(answer)
            self.computed += 1
        finally:
            self._busy.release()


class FakeGpu(Gpu):
    """A CPU in the place of a GPU: what is queued runs at once, and a graph is the list of what was queued."""

    STREAM = 77

    def __init__(self, engine: FakeEngine) -> None:
        self.device, self.engine = torch.device("cpu"), engine

    def selected(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Filled with rubbish, at an address that TensorRT would take."""
        count = torch.Size(shape).numel()
        raw = torch.full((count * dtype.itemsize + 256,), 0x55, dtype=torch.uint8)
        start = -raw.data_ptr() % 256
        return raw[start : start + count * dtype.itemsize].view(dtype).view(shape)

    @contextmanager
    def after_caller(self) -> Iterator[int]:
        yield self.STREAM

    def record(self, launch: Callable[[], None]) -> Callable[[], None]:
        self.engine.recording = recorded = []
        launch()
        self.engine.recording = None
        return lambda: [job() for job in recorded] and None

    def synchronize(self) -> None:
        pass


def fake_module(name: str = "tensorrt", version: str = "10.13.3.9") -> Any:
    """A module of TensorRT's names that are needed to run an engine."""

    class ILogger:
        last: Any = None

        def __init__(self) -> None:
            ILogger.last = self

    return SimpleNamespaceModule(
        __name__=name, __version__=version, ILogger=ILogger, DataType=DataType, TensorIOMode=TensorIOMode,
        ExecutionContextAllocationStrategy=AllocationStrategy, CudaGraphStrategy=CudaGraphStrategy,
        EngineValidity=EngineValidity, EngineInvalidityDiagnostics=Diagnostics,
    )  # fmt: skip


class SimpleNamespaceModule(SimpleNamespace):
    """Hashable by identity, as a module is."""

    __hash__ = object.__hash__  # type: ignore[assignment]
