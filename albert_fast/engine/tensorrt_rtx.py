"""The format ``tensorrt-rtx``: an engine for RTX GPUs of several generations, built on any machine by TensorRT-RTX."""

from __future__ import annotations

from functools import partial

from albert_fast.engine import tensorrt_format, tensorrt_probe, tensorrt_run
from albert_fast.engine.tensorrt_modules import TENSORRT_RTX

write = partial(tensorrt_format.write, TENSORRT_RTX)
read = partial(tensorrt_run.read, TENSORRT_RTX)
describe = partial(tensorrt_probe.describe, TENSORRT_RTX)
requirements = partial(tensorrt_format.requirements, TENSORRT_RTX)
stored_weight_bytes = tensorrt_format.stored_weight_bytes
runs_on = tensorrt_format.runs_on
