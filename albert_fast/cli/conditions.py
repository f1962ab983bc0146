"""What figures of time depend on: the machine, its load, and the versions of what computes."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

import torch

from albert_fast.engine import machine

RUNTIMES = ("onnxruntime", "tensorflow", "ai_edge_litert", "tensorrt", "tensorrt_rtx", "torch_tensorrt")
"""Packages by their names in Python; ``tensorflow`` may come from several distributions."""


def conditions(device: str, packages: tuple[str, ...] = RUNTIMES) -> dict[str, Any]:
    """By name, JSON's types only.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        packages: whose versions are told where they are installed.
    """
    found = importlib.metadata.packages_distributions()
    on_gpu = torch.device(device).type == "cuda"
    return {
        "processor": machine.versions()["cpu"],
        "capability": machine.versions()["cpu_capability"],
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": round(os.getloadavg()[0], 2),
        "system": platform.system(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            **{name: importlib.metadata.version(found[name][0]) for name in packages if name in found},
        },
    }
