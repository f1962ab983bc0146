"""The kernels of the op library without torch: right under sanitizers, and as other compilers and processors have them.

Each test compiles ``tests/csrc/kernels_check.cpp`` with the flags that CMakeLists.txt has for the instruction set.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

REPOSITORY = Path(__file__).parents[1]
ON_X86 = platform.machine().lower() in ("x86_64", "amd64")
CPU = Path("/proc/cpuinfo")
KERNELS = ("albert_fast/csrc/attention_kernel.cpp", "albert_fast/csrc/encoder_kernel.cpp")
SANITIZERS = {"memory": "address,undefined", "threads": "thread"}


class InstructionSet(NamedTuple):
    name: str
    vector_bytes: str
    flags: tuple[str, ...]

    def runs_here(self) -> bool:
        cpu = set(re.findall(r"\w+", CPU.read_text().replace("_", "")))
        return {flag.removeprefix("-m") for flag in self.flags if "=" not in flag} <= cpu


def instruction_sets() -> dict[str, InstructionSet]:
    """The sets in CMakeLists.txt, from the narrowest to the widest."""
    text = (REPOSITORY / "CMakeLists.txt").read_text()
    for name, value in re.findall(r"set\((AVX\w+) (.+)\)", text):
        text = text.replace(f"${{{name}}}", value)
    found = {}
    for line in re.findall(r"^ *add_kernel\((.+)\)$", text, re.MULTILINE):
        name, vector_bytes, *flags = line.split()
        found[name] = InstructionSet(name, vector_bytes, tuple(flags))
    return found


SETS = instruction_sets()
BASELINE = SETS["baseline"]


def widest_here() -> InstructionSet:
    if not ON_X86 or not CPU.exists():
        return BASELINE
    return next(one for one in reversed(SETS.values()) if one.runs_here())


def needed(program: str, what_for: str) -> str:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"needs {program} {what_for}")
    return path


def compile_check(compiler: str, chosen: InstructionSet, folder: Path, *flags: str, on_x86: bool = ON_X86) -> Path:
    """The program that checks the kernels of one instruction set; every warning is an error."""
    common = [compiler, "-std=c++17", "-g1", "-Wall", "-Wextra", "-Werror", "-ffp-contract=fast", "-fno-math-errno"]
    common += [*flags, f"-I{REPOSITORY / 'albert_fast/csrc'}", f"-DALBERT_FAST_ISA={chosen.name}", *chosen.flags]
    common.append(f"-DALBERT_FAST_VECTOR_BYTES={chosen.vector_bytes}")
    if on_x86:
        common.append("-DALBERT_FAST_X86")
    objects = []
    for source in ("tests/csrc/kernels_check.cpp", *KERNELS):
        objects.append(str(folder / f"{Path(source).stem}.o"))
        run([*common, "-c", str(REPOSITORY / source), "-o", objects[-1]])
    program = folder / "kernels_check"
    run([*common, *objects, "-pthread", "-o", str(program)])
    return program


def run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}{done.stderr[-6000:]}"
    return done.stdout


def assert_good(report: str, chosen: InstructionSet) -> None:
    lines = report.splitlines()
    assert len(lines) == 9 and all(line.startswith("good ") for line in lines), report
    assert [line.split()[1:3] for line in lines] == 3 * [["attention", chosen.name]] + 6 * [["encoder", chosen.name]]


@pytest.fixture
def sanitizer(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The compiler's flag, where it can link the sanitizer's library and this machine lets it run."""
    flag = f"-fsanitize={SANITIZERS[request.param]}"
    source, program = tmp_path / "empty.cpp", tmp_path / "empty"
    source.write_text("int main() {}\n")
    compiler = needed("g++", "to compile the kernels")
    for command in ([compiler, flag, str(source), "-o", str(program)], [str(program)]):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            pytest.skip(f"needs a g++ with {flag} that runs on this machine: {done.stderr.strip()[-200:]}")
    return flag


@pytest.mark.parametrize("sanitizer", ["memory"], indirect=True)
@pytest.mark.parametrize("which", ["baseline", "widest"])
def test_kernels_answer_right_without_touching_memory_that_is_not_theirs(
    which: str, sanitizer: str, tmp_path: Path
) -> None:
    chosen = BASELINE if which == "baseline" else widest_here()
    if which == "widest" and chosen is BASELINE:
        pytest.skip("needs a processor with AVX2 or AVX-512: here the baseline is the widest set")
    flags = ("-O0", sanitizer, "-fno-sanitize-recover=all")  # -O1 would compile for longer than it then saves
    program = compile_check("g++", chosen, tmp_path, *flags)
    assert_good(run([str(program)]), chosen)


@pytest.mark.parametrize("sanitizer", ["threads"], indirect=True)
def test_threads_of_a_team_never_read_what_another_is_writing(sanitizer: str, tmp_path: Path) -> None:
    chosen = widest_here()
    program = compile_check("g++", chosen, tmp_path, "-O1", sanitizer)
    assert_good(run([str(program)]), chosen)


def test_clang_compiles_the_widest_kernels_of_this_machine_and_they_answer_right(tmp_path: Path) -> None:
    compiler, chosen = needed("clang++", "to compile the kernels with"), widest_here()
    program = compile_check(compiler, chosen, tmp_path, "-O1")
    assert_good(run([str(program)]), chosen)


def test_the_portable_kernels_answer_right_on_arm64(tmp_path: Path) -> None:
    compiler = needed("aarch64-linux-gnu-g++", "to compile for ARM64")
    emulator = needed("qemu-aarch64", "to run programs for ARM64")
    program = compile_check(compiler, BASELINE, tmp_path, "-O1", "-static", on_x86=False)
    assert_good(run([emulator, str(program)]), BASELINE)
