"""The format ``exported_program``: the captured graph saved by ``torch.export``, run by PyTorch's own kernels.

The file is the same for every machine. What suits the one that loads it is decided there: whether its linear maps read
weights packed for oneDNN, where PyTorch's own choice, MKL, is slower.
"""

from __future__ import annotations

import io
import operator
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from albert_fast.batch import ShapeProfile
from albert_fast.engine import cpu_prepack, linear_choice, signature
from albert_fast.engine.formats import Run, Written
from albert_fast.engine.manifest import Requirements


def write(
    program: ExportedProgram,
    path: Path,
    *,
    device: str,
    profiles: tuple[ShapeProfile, ...],
    options: Mapping[str, Any],
    tell: Callable[[str], None],
) -> Written:
    """Save the program as it is; the file does not depend on the device or the machine."""
    torch.export.save(moved(program, "cpu"), path)
    return Written()


def read(path: Path, *, device: str, profiles: tuple[ShapeProfile, ...], notes: Mapping[str, Any]) -> Run:
    """Load the program onto ``device``. Its file may hold pickled parts: the caller has compared its hash.

    On a CPU floating-point weights are packed if that pays, see ``linear_choice``; the plain ones go. ``forward`` is
    called past the module's own input checks: the engine has made them, and theirs take over a millisecond a call.
    """
    with zipfile.ZipFile(path) as archive:
        graphs = [archive.read(name) for name in archive.namelist() if name.endswith("/models/model.json")]
    if any(b"quantized_decomposed" in graph for graph in graphs):
        from torch.ao.quantization.fx import _decomposed  # noqa: F401  registers the ops; half a second
    program = moved(torch.export.load(path), device)
    if torch.device(device).type == "cpu" and _packing_pays(program, profiles[0]):
        return cast(Run, _folded(cpu_prepack.pack_weights(program).module(check_guards=False)).forward)
    return cast(Run, program.module(check_guards=False).forward)


def _packing_pays(program: ExportedProgram, profile: ShapeProfile) -> bool:
    """Whether packed weights are faster here; those of a quantized graph stay what it says."""
    if signature.weight_dtype(program) not in ("float32", "bfloat16"):
        return False
    weights = cpu_prepack.packable_weights(program)
    dtype = getattr(torch, signature.float_dtype(program))
    return linear_choice.pays(weights, profile.opt_batch * profile.opt_length, dtype)


def _folded(module: GraphModule) -> GraphModule:
    """The module with all that depends on weights alone computed now, and without weights that nothing reads then."""
    values: dict[Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            values[node] = operator.attrgetter(str(node.target))(module)
        elif node.op == "call_function" and node.all_input_nodes and values.keys() >= set(node.all_input_nodes):
            arguments = torch.fx.map_arg((node.args, node.kwargs), values.__getitem__)
            with torch.no_grad():
                values[node] = node.target(*arguments[0], **arguments[1])
    for index, (node, value) in enumerate(values.items()):
        if node.op == "call_function" and any(user not in values for user in node.users):
            setattr(module, f"folded_{index}", value)
            with module.graph.inserting_before(node):
                node.replace_all_uses_with(module.graph.create_node("get_attr", f"folded_{index}"))
    module.graph.eliminate_dead_code()
    read_still = {str(node.target) for node in module.graph.nodes if node.op == "get_attr"}
    for name, _ in [*module.named_parameters(), *module.named_buffers()]:
        if name not in read_still:
            owner, _, attribute = name.rpartition(".")
            delattr(module.get_submodule(owner), attribute)
    module.recompile()
    return module


def moved(program: ExportedProgram, device: str) -> ExportedProgram:
    """The program on a device: itself where it is there already, else a copy."""
    kind = torch.device(device).type
    if all(tensor.device.type == kind for tensor in program.state_dict.values()):
        return program
    from torch.export.passes import move_to_device_pass

    copied = io.BytesIO()
    torch.export.save(program, copied)
    copied.seek(0)
    return move_to_device_pass(torch.export.load(copied), device)


def stored_weight_bytes(path: Path, notes: Mapping[str, Any]) -> int:
    """Bytes of the archive's members under ``data/weights`` and ``data/constants``."""
    with zipfile.ZipFile(path) as archive:
        return sum(
            member.file_size
            for member in archive.infolist()
            if ("/data/weights/" in member.filename or "/data/constants/" in member.filename)
            and not member.filename.endswith(".json")
        )


def requirements(device: str, options: Mapping[str, Any]) -> Requirements:
    """Any machine, with the torch that wrote it or a later one."""
    return Requirements(torch=torch.__version__.split("+")[0], torch_rule="at least")


def runs_on(built_for: str, device: str) -> bool:
    """Everywhere."""
    return True
