"""The format ``tensorrt``: an engine tuned by NVIDIA TensorRT 10 or 11 on the GPU that will run it."""

from __future__ import annotations

from functools import partial

from albert_fast.engine import tensorrt_format, tensorrt_probe, tensorrt_run
from albert_fast.engine.tensorrt_modules import TENSORRT

write = partial(tensorrt_format.write, TENSORRT)
read = partial(tensorrt_run.read, TENSORRT)
describe = partial(tensorrt_probe.describe, TENSORRT)
requirements = partial(tensorrt_format.requirements, TENSORRT)
stored_weight_bytes = tensorrt_format.stored_weight_bytes
runs_on = tensorrt_format.runs_on
