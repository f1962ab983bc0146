"""What can be said of an engine file without running it: whose it is, and whether it would load here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from albert_fast.engine.tensorrt_log import listeners, logger
from albert_fast.engine.tensorrt_modules import TENSORRT, TENSORRT_RTX, Flavour, load
from albert_fast.errors import MissingDependencyError

HEADER_BYTES = 64
_DIAGNOSTICS = {
    "VERSION_MISMATCH": "it was built with another release",
    "UNSUPPORTED_CC": "it was not built for this kind of GPU",
    "OLD_CUDA_DRIVER": "the CUDA driver is too old for it",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old for it",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory for it",
    "MALFORMED_ENGINE": "it is no engine file, or a damaged one",
    "CUDA_ERROR": "CUDA reports an error",
}


def probe(flavour: Flavour, module: Any, path: Path) -> dict[str, Any]:
    """What an engine file's first bytes say. The rest is not read: the manifest's hash is what finds damage.

    Returns:
        ``bytes``: the file's size. ``written_by``: the module whose file it is, by its first bytes, or None.
        ``loads_here``: True, False, or None where the module cannot tell. ``reasons``: why not, in words.
    """
    header = _header(path)
    written_by = next((one.title for one in (TENSORRT, TENSORRT_RTX) if header.startswith(one.magic)), None)
    with listeners(module).this_thread() as record:
        try:
            runtime = module.Runtime(logger(module))
        except TypeError:  # pybind's words for a null pointer
            told, reasons = True, record.errors() or ["TensorRT does not start here, for want of a GPU or its driver"]
        else:
            told, reasons = hasattr(runtime, "get_engine_validity"), why_invalid(module, runtime, header)
    return {
        "bytes": path.stat().st_size,
        "written_by": written_by,
        "loads_here": not reasons if told else None,
        "reasons": reasons,
    }


def describe(flavour: Flavour, path: Path) -> dict[str, Any] | None:
    """What ``probe`` finds, where the first bytes are the flavour's; None where they are not.

    Where the module is not installed, that is why the file does not load here. An engine carries no manifest.
    """
    if not _header(path).startswith(flavour.magic):
        return None
    try:
        found = probe(flavour, load(flavour, f"load a {flavour.title} engine"), path)
    except MissingDependencyError as error:
        found = {"written_by": flavour.title, "loads_here": False, "reasons": [str(error)]}
    return {**found, "manifest": None}


def _header(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(HEADER_BYTES)


def why_invalid(module: Any, runtime: Any, data: bytes) -> list[str]:
    """Why the module would not load an engine that starts with ``data``; empty where it would, or cannot tell."""
    if not hasattr(runtime, "get_engine_validity"):
        return []
    validity, bits = runtime.get_engine_validity(data)
    if validity != module.EngineValidity.INVALID:
        return []
    members = module.EngineInvalidityDiagnostics.__members__
    reasons = [words for name, words in _DIAGNOSTICS.items() if name in members and int(bits) & int(members[name])]
    return reasons or ["there is no GPU here that could run it"]
