"""The format ``onnx``: the graph as an ONNX file, run by ONNX Runtime on the CPU or a CUDA device.

Other runtimes read the file as well, unless it is in the fused form.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from albert_fast.batch import ShapeProfile
from albert_fast.engine import onnx_file, signature
from albert_fast.engine.formats import Run, Written
from albert_fast.engine.manifest import Manifest, Package, Requirements
from albert_fast.engine.onnx_file import embed
from albert_fast.engine.onnx_fused import fuse
from albert_fast.engine.onnx_graph import ID_DTYPES, OPSET, require_onnx, to_onnx
from albert_fast.engine.onnx_quantized import ACTIVATIONS
from albert_fast.engine.onnx_runtime import open_session, require_onnx_runtime, run_of
from albert_fast.errors import EngineError

FUSED_CHOICES = ("auto", "no", "yes")
FUSED_DEFAULT = {"cpu": "no", "cuda": "auto"}
"""On CPU the fused operators gain nothing: ONNX Runtime fuses what pays when it loads a file."""
FUSED_PAYS_FROM = 1.05
"""``"auto"`` takes the fused form, which is ONNX Runtime's alone, from this speed-up on."""
ACTIVATIONS_DEFAULT = "uint8"
"""x86 multiplies uint8 by int8 in one instruction, and ONNX Runtime has no other fast kernel there."""
OLDEST_TORCH = "2.11"
"""The file needs no torch. This one is what the package asks for."""
OLDEST_RUNTIME = {False: "1.18.0", True: "1.21.0"}
"""By whether the graph is fused. 1.17 does not know IR version 10; 1.20 adds one row's attention bias to all rows."""

__all__ = ["describe", "embed", "read", "requirements", "runs_on", "stored_weight_bytes", "write"]


def write(
    program: ExportedProgram,
    path: Path,
    *,
    device: str,
    profiles: tuple[ShapeProfile, ...],
    options: Mapping[str, Any],
    tell: Callable[[str], None],
) -> Written:
    """Write the program as an ONNX file.

    Args:
        options: ``{"ids": "int64" | "int32"}``, the dtype of the inputs; ``{"fused": "auto" | "no" | "yes"}``,
            whether attention and residual LayerNorms are ONNX Runtime's own operators: "auto" measures both here and
            keeps what was measured in the notes; ``{"activations": "uint8" | "int8"}``, of a quantized program: two
            spellings of the same numbers, uint8 for ONNX Runtime on x86, int8 for other runtimes that want it.
    Raises:
        ValueError: wrong values of options.
        MissingDependencyError: onnx, onnxscript or onnxruntime is not installed.
        EngineError: this onnxruntime cannot run on ``device``, or "yes" was asked for and there is nothing to fuse.
    """
    ids, fused = _checked(options, device)
    activations = _activations(program, options)
    require_onnx()
    require_onnx_runtime(device)
    tell("translate into an ONNX graph")
    model = to_onnx(program, ids=ids, activations=activations or ACTIVATIONS_DEFAULT)
    choice = {"chosen": "no", "ratio": None, "asked": fused}
    if fused != "no":
        model, choice = _choose_form(model, fused, path, device=device, profile=profiles[0], tell=tell)
    onnx_file.save(model, path)
    notes = {"opset": OPSET, "ids": ids, "fused": choice}
    return Written(notes if activations is None else {**notes, "activations": activations})


def read(path: Path, *, device: str, profiles: tuple[ShapeProfile, ...], notes: Mapping[str, Any]) -> Run:
    """Load the file into ONNX Runtime, on exactly ``device``; it takes as many threads as torch has now."""
    return run_of(open_session(path, device=device), device=device)


def stored_weight_bytes(path: Path, notes: Mapping[str, Any]) -> int:
    """Bytes of all constants in the graph, those in its data file included."""
    return onnx_file.stored_bytes(path)


def requirements(device: str, options: Mapping[str, Any]) -> Requirements:
    """Any machine, with an ONNX Runtime that knows the operators."""
    may_be_fused = _checked(options, device)[1] != "no"
    return Requirements(
        torch=OLDEST_TORCH,
        torch_rule="at least",
        packages=(Package("onnxruntime or onnxruntime-gpu", OLDEST_RUNTIME[may_be_fused], "at least"),),
    )


def runs_on(built_for: str, device: str) -> bool:
    """Everywhere: the file does not depend on the device, only the choice of its form does."""
    return True


def describe(path: Path) -> dict[str, Any]:
    """Operator sets, stored bytes, and the manifest in the file's metadata; every ONNX file is of this format.

    Raises:
        MissingDependencyError: onnx is not installed.
        EngineError: the file is no ONNX graph, or the manifest in it is damaged or of another schema version.
    """
    found = onnx_file.contents(path)
    text = found["manifest"]
    manifest = None if text is None else Manifest.from_json(text, name=f"the manifest inside {path}")
    return {**found, "manifest": None if manifest is None else json.loads(json.dumps(asdict(manifest)))}


def _checked(options: Mapping[str, Any], device: str) -> tuple[str, str]:
    """The values of the options ``ids`` and ``fused``."""
    ids, fused = options.get("ids", "int64"), options.get("fused", FUSED_DEFAULT[torch.device(device).type])
    for name, value, choices in (("ids", ids, ID_DTYPES), ("fused", fused, FUSED_CHOICES)):
        if value not in choices:
            raise ValueError(f"the option {name} is {value!r}, expected one of {', '.join(choices)}")
    return ids, fused


def _activations(program: ExportedProgram, options: Mapping[str, Any]) -> str | None:
    """The value of the option ``activations``; None for a program without int8."""
    chosen, dtype = options.get("activations", ACTIVATIONS_DEFAULT), signature.weight_dtype(program)
    if dtype == "int8":
        if signature.float_dtype(program) == "bfloat16":
            raise ValueError("ONNX Runtime has no bfloat16 kernels for the CPU; quantize with rest fp32")
        if chosen not in ACTIVATIONS:
            raise ValueError(f"the option activations is {chosen!r}, expected one of {', '.join(ACTIVATIONS)}")
        return str(chosen)
    if "activations" in options:
        raise ValueError(f"the option activations is for precision int8, and this graph is {dtype}; leave it out")
    return None


def _choose_form(
    model: Any, asked: str, path: Path, *, device: str, profile: ShapeProfile, tell: Callable[[str], None]
) -> tuple[Any, dict[str, Any]]:
    """The graph as it is or fused, and the speed ratio that this rests on (None where nothing was measured)."""
    tell("fuse the graph for ONNX Runtime")
    fused, count = fuse(model)
    if count == 0 and asked == "yes":
        raise EngineError("fused='yes' was asked for, but nothing in this graph can be fused; use fused='no'")
    if count == 0 or asked == "yes":
        return fused, {"chosen": "yes" if count else "no", "ratio": None, "asked": asked}
    tell("measure the plain and the fused graph")
    ratio = measure_speedup(model, fused, path.parent, device=device, profile=profile)
    chosen = "yes" if ratio >= FUSED_PAYS_FROM else "no"
    return fused if chosen == "yes" else model, {"chosen": chosen, "ratio": round(ratio, 3), "asked": asked}


def measure_speedup(plain: Any, fused: Any, folder: Path, *, device: str, profile: ShapeProfile) -> float:
    """How many times faster the fused graph answers one row of the profile's best length, here and now."""
    with tempfile.TemporaryDirectory(prefix="fused-", dir=folder) as temporary:
        runs = []
        for name, model in (("plain", plain), ("fused", fused)):
            path = Path(temporary) / f"{name}.onnx"
            onnx_file.save(model, path)
            runs.append(run_of(open_session(path, device=device), device=device))
        batch = max(1, profile.min_batch)
        shape = {2: [batch, profile.opt_length], 3: [batch, 2, profile.opt_length]}[_ids_rank(plain)]
        ids = torch.ones(shape, dtype=torch.int64, device=device)
        inputs = [ids, ids, torch.zeros_like(ids)]
        if len(plain.graph.input) > len(inputs):  # as many positions are asked as there are masks in pretraining
            inputs.append(torch.arange(0, ids.numel(), 7, device=device))
        times: list[list[float]] = [[], []]
        for _ in range(6):
            for index, run in enumerate(runs):
                started = time.perf_counter()
                run(*inputs)
                times[index].append(time.perf_counter() - started)
    return min(times[0][1:]) / min(times[1][1:])  # the first call of each is warm-up


def _ids_rank(model: Any) -> int:
    return len(model.graph.input[0].type.tensor_type.shape.dim)
