"""``import albert_fast`` on a bare machine: fast, without any optional package, without waking a GPU."""

from __future__ import annotations

import subprocess
import sys

import pytest

import albert_fast

OPTIONAL = (
    "h5py",
    "huggingface_hub",
    "keras",
    "onnx",
    "onnxruntime",
    "openvino",
    "pyarrow",
    "requests",
    "tensorflow",
    "tensorrt",
    "tensorrt_rtx",
    "tokenizers",
    "torch_tensorrt",
    "tqdm",
    "transformers",
)
TOUCH_EVERY_PUBLIC_NAME = "import albert_fast\nfor name in albert_fast.__all__: getattr(albert_fast, name)\n"


def run(program: str) -> None:
    """Run a program in a fresh process; its assertions are this test's."""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr


def test_every_public_name_is_there_with_all_optional_packages_blocked() -> None:
    run(f"import sys\nfor name in {OPTIONAL}: sys.modules[name] = None\n" + TOUCH_EVERY_PUBLIC_NAME)


def test_public_names_wake_no_installed_optional_package_and_no_gpu() -> None:
    run(
        "import sys, torch\nbefore = set(sys.modules)\n"
        + TOUCH_EVERY_PUBLIC_NAME
        + f"woken = set({OPTIONAL}) & (set(sys.modules) - before)\nassert not woken, woken\n"
        "assert not torch.cuda.is_initialized()"
    )


def test_the_package_alone_does_not_import_torch() -> None:
    run("import sys, albert_fast\nassert 'torch' not in sys.modules")


def test_a_name_that_is_not_there_is_told_with_those_that_are() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'AlbertForEverything'.*AlbertForMaskedLM"):
        _ = albert_fast.AlbertForEverything
