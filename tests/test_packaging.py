"""What `pip install` gets: the package and nothing beside it, the op library where it is asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).parents[1]
pytest.importorskip("scikit_build_core", reason="needs scikit-build-core: pip install 'albert-fast[dev]'")


def wheel_names(folder: Path, **environment: str) -> tuple[Path, set[str]]:
    """Build a wheel from a copy of the sources; returns it and the names of the files in it."""
    sources = folder / "sources"
    built = shutil.ignore_patterns(".git", ".venv", "build", "*.so", "__pycache__", ".*_cache", "tests", "benchmarks")
    shutil.copytree(REPOSITORY, sources, ignore=built)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    # pip wheel runs CMake, which must find the ninja of this environment.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    finished = subprocess.run(
        [*command, "--wheel-dir", str(folder), str(sources)],
        env={**os.environ, "PATH": path, **environment},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    (wheel,) = folder.glob("*.whl")
    return wheel, set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_is_pure_python_and_holds_albert_fast_only(tmp_path: Path) -> None:
    wheel, names = wheel_names(tmp_path)
    assert wheel.name == "albert_fast-0.1.0-py3-none-any.whl"
    assert {name.split("/")[0] for name in names} == {"albert_fast", "albert_fast-0.1.0.dist-info"}
    assert not any(name.endswith((".so", ".cpp", ".h", ".pyc")) for name in names)


def test_the_wheel_holds_every_module_and_all_package_data(tmp_path: Path) -> None:
    _, names = wheel_names(tmp_path)
    package = REPOSITORY / "albert_fast"
    wanted = {package / "py.typed", *package.rglob("*.py"), *(package / "embedded").rglob("*.*")}
    assert {str(file.relative_to(REPOSITORY)) for file in wanted if "__pycache__" not in file.parts} <= names


@pytest.mark.slow
def test_the_wheel_holds_the_op_library_when_asked_for(tmp_path: Path) -> None:
    if not any(shutil.which(compiler) for compiler in (os.environ.get("CXX", "c++"), "g++", "clang++")):
        pytest.skip("needs a C++ compiler")
    wheel, names = wheel_names(tmp_path, ALBERT_FAST_BUILD_OPS="1")
    assert "albert_fast/libalbert_fast_ops.so" in names
    assert "any" not in wheel.name, "a wheel with compiled code belongs to one platform"
    library = zipfile.ZipFile(wheel).extract("albert_fast/libalbert_fast_ops.so", tmp_path)
    program = f"import torch; torch.ops.load_library({library!r}); print(torch.ops.albert_fast.built_with_torch())"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert torch.__version__.startswith(finished.stdout.strip())
