"""Putting the weights into an engine file that was exported with ``strip_weights``; needs the GPU that runs it.

TensorRT fuses and reorders weights while it builds, so only the very weights that it was built with may go in again.
Their digest is in the manifest.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.export import ExportedProgram

from albert_fast.engine import files, machine
from albert_fast.engine.manifest import Manifest, read_manifest
from albert_fast.engine.onnx_graph import to_onnx
from albert_fast.engine.tensorrt_build import graph_file
from albert_fast.engine.tensorrt_cuda import Gpu
from albert_fast.engine.tensorrt_log import listeners, logger
from albert_fast.engine.tensorrt_modules import TENSORRT, TENSORRT_RTX, load
from albert_fast.engine.tensorrt_run import load_engine
from albert_fast.errors import EngineError


def refit(path: str | Path, program: ExportedProgram, *, output: str | Path, device: str = "cuda") -> Manifest:
    """Write an engine file with weights from one without.

    Args:
        path: of the engine file without weights; its manifest lies beside it.
        program: the one that the file was built from, or another of the same weights and dtypes.
        output: the engine file to write; may be ``path``.
        device: a CUDA device.
    Returns:
        The manifest of the new file.
    Raises:
        ValueError: there is no such device, the file has its weights, or the program's are others.
        MissingDependencyError: the module or onnx is not installed.
        EngineError: no engine file of TensorRT, or TensorRT does not take the weights. Nothing is written.
    """
    path, output = Path(path), Path(output)
    machine.require_device(device)
    manifest = read_manifest(path)
    flavours = {one.format: one for one in (TENSORRT, TENSORRT_RTX)}
    if manifest.format not in flavours:
        raise EngineError(f"{path} has the format {manifest.format}, expected one of {', '.join(flavours)}")
    flavour, notes = flavours[manifest.format], manifest.notes
    if notes["weights"] != "stripped":
        raise ValueError(f"{path} has its weights; only files exported with strip_weights are refitted")
    module = load(flavour, f"refit a {flavour.title} engine")
    model = to_onnx(program, ids=notes["ids"])
    if weights_digest(model) != notes["weights_sha256"]:
        raise ValueError(f"the program's weights are not those that {path} was built with; export anew")
    gpu = Gpu(device)
    with files.pending(output) as temporary:
        engine = load_engine(flavour, module, path, gpu)
        with gpu.selected(), listeners(module).this_thread() as record:
            refitter = module.Refitter(engine, logger(module))
            parser = module.OnnxParserRefitter(refitter, logger(module))
            with graph_file(model, temporary.parent) as file:
                taken = parser.refit_from_file(str(file)) and refitter.refit_cuda_engine()
            if not taken:
                told = "; ".join(record.errors()) or "it does not say why"
                raise EngineError(f"{flavour.title} {module.__version__} does not take the weights: {told}")
            config = engine.create_serialization_config()
            config.clear_flag(module.SerializationFlag.EXCLUDE_WEIGHTS)
            temporary.write_bytes(memoryview(engine.serialize_with_config(config)))
        whole = replace(
            manifest,
            file_sha256=files.sha256_of(temporary),
            file_bytes=temporary.stat().st_size,
            stored_weight_bytes=int(notes["weights_bytes"]),
            notes={**notes, "weights": "included"},
        )
        files.commit(temporary, output, whole.to_json())
    return whole


def weights_digest(model: Any) -> str:
    """The hex sha256 of an ONNX graph's weights, with their names and dtypes."""
    digest = hashlib.sha256()
    for tensor in sorted(model.graph.initializer, key=lambda one: str(one.name)):
        digest.update(tensor.SerializeToString(deterministic=True))
    return digest.hexdigest()
