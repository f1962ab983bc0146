"""What every test may lean on: one seed, a cache folder of the tests' own, GPU tests skipped in words, the true ALBERT
vocabulary where there is one.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).parents[1]
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="albert-fast-cache-")  # not the user's; subprocesses inherit it
atexit.register(shutil.rmtree, os.environ["XDG_CACHE_HOME"], ignore_errors=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and torch.cuda.is_available() is False here"))


@pytest.fixture(autouse=True)
def seed() -> None:
    """Random weights and inputs are the same in every run and in any order of tests."""
    torch.manual_seed(2020)


@pytest.fixture(scope="session")
def vocab_dir() -> Path:
    """The folder of the published ALBERT vocabulary (30k-clean.model and its kin), which is not part of the project."""
    named = os.environ.get("ALBERT_FAST_VOCAB_DIR")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "data" / "albert-vocab"
    if not folder.is_dir():
        if named:
            pytest.fail(f"ALBERT_FAST_VOCAB_DIR names {folder}, which is not a folder")
        pytest.skip(f"needs the published ALBERT vocabulary: set ALBERT_FAST_VOCAB_DIR to its folder, not at {folder}")
    return folder
