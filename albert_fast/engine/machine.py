"""What this machine and installation are, and how they differ from what an engine needs."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

import albert_fast
from albert_fast.engine.manifest import Package, Requirements

# What a compiler told to use this very CPU may emit for a tensor program, as /proc/cpuinfo spells it.
_INSTRUCTION_SETS = (
    "sse4_1", "sse4_2", "popcnt", "abm", "movbe", "bmi1", "bmi2", "f16c", "fma", "avx", "avx2", "avx_vnni",
    "avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl", "avx512ifma", "avx512vbmi", "avx512_vbmi2",
    "avx512_vnni", "avx512_bitalg", "avx512_vpopcntdq", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8",
    "amx_bf16", "asimd", "asimdhp", "asimddp", "sve", "sve2", "bf16", "i8mm",
)  # fmt: skip


@cache
def _cpuinfo() -> dict[str, str]:
    """Facts of the first processor; empty where there is no /proc/cpuinfo."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    first = text.split("\n\n", 1)[0]
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in first.splitlines())}


def cpu_flags() -> tuple[str, ...]:
    """The instruction sets of this CPU that matter to compiled code, in a fixed order."""
    found = set((_cpuinfo().get("flags") or _cpuinfo().get("Features") or "").split())
    return tuple(flag for flag in _INSTRUCTION_SETS if flag in found)


def has_fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 itself; elsewhere it is emulated, several times slower than float32."""
    return not {"avx512_bf16", "amx_bf16", "bf16"}.isdisjoint(cpu_flags())


def cpu_name() -> str | None:
    """``"AMD EPYC 9B45"``, or None where the system does not tell."""
    return _cpuinfo().get("model name")


def cpu_vendor() -> str | None:
    """``"AuthenticAMD"``, ``"GenuineIntel"``, or None where the system does not tell."""
    return _cpuinfo().get("vendor_id")


def compute_capability() -> str | None:
    """``"9.0"`` of the current CUDA device, or None without one."""
    return ".".join(str(part) for part in torch.cuda.get_device_capability()) if torch.cuda.is_available() else None


def check_device_name(device: str) -> None:
    """Refuse what is not the name of a device that engines run on, with ``ValueError``."""
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (":" in device and not index.isdecimal()):
        raise ValueError(f"device is {device!r}, expected 'cpu', 'cuda' or 'cuda:0'")


def has_device(device: str) -> bool:
    """Whether this machine has the device and torch can use it."""
    kind, _, index = device.partition(":")
    return kind == "cpu" or (torch.cuda.is_available() and int(index or 0) < torch.cuda.device_count())


def require_device(device: str) -> None:
    """Make sure that there is such a device.

    Raises:
        ValueError: a device type that no engine runs on, or a CUDA device that is not there.
    """
    check_device_name(device)
    if has_device(device):
        return
    if torch.cuda.is_available():
        raise ValueError(f"device is {device!r}, but this machine has {torch.cuda.device_count()} CUDA devices")
    why = "this torch has no CUDA" if torch.version.cuda is None else "torch finds no CUDA device"
    raise ValueError(
        f"device is {device!r}, but {why} (torch {torch.__version__}); "
        "use device='cpu', or install a CUDA torch on a machine with a GPU"
    )


def compiled_requirements(device: str) -> Requirements:
    """What code compiled here for ``device`` needs: this system, this CPU's instructions or this GPU's capability."""
    cuda = torch.device(device).type == "cuda"
    return Requirements(
        torch=torch.__version__.split("+")[0],
        torch_rule="same minor",
        system=platform.system(),
        architecture=platform.machine(),
        cpu_flags=cpu_flags(),
        cuda=_major(torch.version.cuda) if cuda else None,
        gpu_name=torch.cuda.get_device_name() if cuda else None,
        compute_capabilities=(compute_capability() or "",) if cuda else (),
    )


def versions() -> dict[str, str | None]:
    """What built the engine, for whoever reads the manifest."""
    return {
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "compiler": compiler(),
        "python": platform.python_version(),
        "cpu": cpu_name(),
        "cpu_vendor": cpu_vendor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }


def compiler() -> str | None:
    """First line of what the C++ compiler says of itself; None without one."""
    command = os.environ.get("CXX") or "g++"
    if shutil.which(command) is None:
        return None
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.splitlines()[0] if done.returncode == 0 and done.stdout else None


def project_commit() -> str | None:
    """The git commit of the checkout this package is imported from; None where it is installed or git is missing."""
    root = Path(albert_fast.__file__).parent.parent
    if not (root / ".git").exists() or shutil.which("git") is None:
        return None
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def differences(requires: Requirements) -> list[str]:
    """Everything about this machine that an engine with these needs cannot live with; empty when it fits."""
    found = [
        f"it was built for {name} {wanted}, this is {name} {here}"
        for name, wanted, here in (
            ("system", requires.system, platform.system()),
            ("architecture", requires.architecture, platform.machine()),
            ("CPU vendor", requires.cpu_vendor, cpu_vendor()),
            ("CUDA", requires.cuda, _major(torch.version.cuda)),
        )
        if wanted is not None and wanted != here
    ]
    missing = [flag for flag in requires.cpu_flags if flag not in cpu_flags()]
    if missing:
        found.append(f"this CPU lacks the instruction sets {', '.join(missing)}")
    found += _capability_difference(requires)
    found += _torch_difference(requires)
    found += [words for package in requires.packages for words in _package_difference(package)]
    if requires.op_library:
        found += _op_library_difference()
    return found


def _capability_difference(requires: Requirements) -> list[str]:
    wanted, here = requires.compute_capabilities, compute_capability()
    if not wanted:
        return []
    if requires.compute_capability_rule not in _CAPABILITY_RULES:
        known = ", ".join(_CAPABILITY_RULES)
        return [f"its compute_capability_rule is {requires.compute_capability_rule!r}, expected one of {known}"]
    fits, words = _CAPABILITY_RULES[requires.compute_capability_rule]
    named = words.format(" or ".join(wanted))
    if here is None:
        return [f"it needs a CUDA device of {named}, and torch {torch.__version__} finds none here"]
    if fits(_numbers(here), [_numbers(one) for one in wanted]):
        return []
    return [f"it was built for {named}, this is compute capability {here}"]


_CAPABILITY_RULES: dict[str, tuple[Callable[[tuple[int, ...], list[tuple[int, ...]]], bool], str]] = {
    "any of": (lambda here, wanted: here in wanted, "compute capability {}"),
    "at least": (lambda here, wanted: here >= min(wanted), "compute capability {} or higher"),
}


def _package_difference(package: Package) -> list[str]:
    if package.rule not in ("same", "at least"):
        return [f"its rule for {package.name} is {package.rule!r}, expected 'same' or 'at least'"]
    installed = {name: _installed(name) for name in package.name.split(" or ")}
    name, here = next(((name, found) for name, found in installed.items() if found), (package.name, None))
    if here is None:
        first = next(iter(installed))
        return [f"it needs {package.name} {package.version}, which is not installed: pip install {first}"]
    fits = here == package.version if package.rule == "same" else _numbers(here) >= _numbers(package.version)
    wanted = package.version if package.rule == "same" else f"{package.version} or later"
    return [] if fits else [f"it needs {package.name} {wanted}, this is {name} {here}"]


def _installed(distribution: str) -> str | None:
    """The release of a distribution that is installed, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> tuple[int, ...]:
    """The leading whole numbers of a release: ``"1.32.0rc1"`` -> ``(1, 32, 0)``."""
    return tuple(int(n) for n in re.findall(r"(?:^|\.)(\d+)", version.split("+")[0]))


def _torch_difference(requires: Requirements) -> list[str]:
    here, wanted = _release(torch.__version__), _release(requires.torch)
    if requires.torch_rule not in _TORCH_RULES:
        return [f"its torch_rule is {requires.torch_rule!r}, expected one of {', '.join(_TORCH_RULES)}"]
    fits, words = _TORCH_RULES[requires.torch_rule]
    if wanted is not None and here is not None and fits(here, wanted):
        return []
    return [f"it needs {words.format(requires.torch)}, this is torch {torch.__version__}"]


_TORCH_RULES = {
    "same minor": (lambda here, wanted: here[:2] == wanted[:2], "a torch of the same minor release as {}"),
    "at least": (lambda here, wanted: here[:2] >= wanted[:2], "torch {} or later"),
}


def _op_library_difference() -> list[str]:
    from albert_fast import ops

    try:
        ops.require_ops()
    except ImportError as error:
        return [f"it needs the op library: {error}"]
    return []


def _release(version: str) -> tuple[int, ...] | None:
    numbers = version.split("+")[0].split(".")[:2]
    return tuple(int(n) for n in numbers) if len(numbers) == 2 and all(n.isdecimal() for n in numbers) else None


def _major(version: str | None) -> str | None:
    return None if version is None else version.split(".")[0]
