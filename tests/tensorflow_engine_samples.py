"""A batch in a file, and a process that runs without torch what TensorFlow's formats wrote."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from albert_fast.batch import INPUT_NAMES, Batch


def in_a_process_without_torch(program: str) -> str:
    blocked = "import sys\nsys.modules['torch'] = None\nimport numpy as np\n"
    done = subprocess.run([sys.executable, "-c", blocked + program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def saved(batch: Batch, folder: Path) -> Path:
    np.savez(folder / "batch.npz", **{n: t.numpy() for n, t in zip(INPUT_NAMES, batch.tensors(), strict=True)})
    return folder / "batch.npz"
