"""What this machine is, and that every difference from what an engine needs is told at once."""

from __future__ import annotations

import dataclasses
import platform

import pytest
import torch

from albert_fast.engine import machine
from albert_fast.engine.manifest import Package, Requirements

HERE = Requirements(torch=torch.__version__.split("+")[0], torch_rule="same minor")


def needing(**changes: object) -> Requirements:
    return dataclasses.replace(HERE, **changes)  # type: ignore[arg-type]


def test_this_machine_fits_what_is_compiled_on_it() -> None:
    requires = machine.compiled_requirements("cpu")
    assert machine.differences(requires) == []
    assert (requires.system, requires.architecture) == (platform.system(), platform.machine())
    assert requires.compute_capabilities == ()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="names of x86-64's instruction sets")
def test_the_instruction_sets_of_this_cpu_are_known() -> None:
    assert "avx2" in machine.cpu_flags() or torch.backends.cpu.get_cpu_capability() == "DEFAULT"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(cpu_flags=("avx2", "avx512_made_up")), "this CPU lacks the instruction sets"),
        (dict(system="Windows"), f"built for system Windows, this is system {platform.system()}"),
        (dict(architecture="riscv64"), "built for architecture riscv64"),
        (dict(cpu_vendor="GenuineMadeUp"), "built for CPU vendor GenuineMadeUp"),
        (dict(torch="2.3.1"), "a torch of the same minor release as 2.3.1, this is torch"),
        (dict(torch="99.0.0", torch_rule="at least"), "torch 99.0.0 or later"),
        (dict(torch="no version"), "no version"),
        (dict(torch_rule="whatever"), "torch_rule is 'whatever'"),
        (dict(cuda="3"), "built for CUDA 3"),
        (dict(compute_capabilities=("1.0", "1.1")), "compute capability 1.0 or 1.1, "),
        (
            dict(compute_capabilities=("99.0",), compute_capability_rule="at least"),
            "compute capability 99.0 or higher, ",
        ),
        (dict(compute_capabilities=("1.0",), compute_capability_rule="near"), "'near', expected one of any of, at lea"),
        (dict(packages=(Package("torch", "99.0"),)), "needs torch 99.0 or later, this is torch"),
        (dict(packages=(Package("torch", "2.0", "same"),)), "needs torch 2.0, this is torch"),
        (dict(packages=(Package("torch", "2.0", "about"),)), "its rule for torch is 'about', expected 'same' or"),
        (dict(packages=(Package("no-such-thing or torch", "99.0"),)), "torch 99.0 or later, this is torch 2"),
        (dict(packages=(Package("no-such-thing", "1.0"),)), "no-such-thing 1.0, which is not installed: pip install"),
    ],
)
def test_a_difference_is_told(changes: dict[str, object], message: str) -> None:
    assert [message in found for found in machine.differences(needing(**changes))] == [True]


def test_all_differences_are_told_at_once() -> None:
    found = machine.differences(needing(system="Windows", architecture="riscv64", torch="2.3.1", cpu_flags=("none",)))
    assert len(found) == 4


@pytest.mark.parametrize(("built_with", "fits"), [("1.9.0", True), ("2.0.1", True), ("98.1.0", False)])
def test_a_later_torch_reads_what_an_earlier_one_wrote(built_with: str, fits: bool) -> None:
    assert (machine.differences(needing(torch=built_with, torch_rule="at least")) == []) is fits


def test_a_missing_op_library_is_told_with_the_command_that_builds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from albert_fast import ops

    monkeypatch.setattr(ops, "_PROBLEM", "the op library is not built")
    [found] = machine.differences(needing(op_library=True))
    assert "needs the op library" in found and "ALBERT_FAST_BUILD_OPS=1" in found


@pytest.mark.parametrize("device", ["tpu", "xpu", "", "cpu cpu", "cuda:x", "cpu:"])
def test_a_device_that_is_none_is_refused(device: str) -> None:
    with pytest.raises(ValueError, match="expected 'cpu', 'cuda'"):
        machine.require_device(device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about a machine without a CUDA device")
def test_cuda_without_cuda_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"device is 'cuda', but .*use device='cpu', or install a CUDA torch"):
        machine.require_device("cuda")
