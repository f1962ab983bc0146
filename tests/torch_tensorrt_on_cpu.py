"""A test fixture, never product code: experiments with Torch-TensorRT on a machine without a GPU.

    python tests/torch_tensorrt_on_cpu.py FOLDER EXPERIMENT...      # prints JSON: experiment -> what it found

Torch-TensorRT asks CUDA for its device while it is imported and while it compiles, and cannot load an engine without a
driver. Here both get made-up answers: everything up to the engine's bytes is real, running them is not. It takes the
distribution torch-tensorrt-rtx without its native libraries, which want a CUDA build of torch; see
``test_engine_torch_tensorrt.py``.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from engine_samples import PROFILE, batch_of, differ, eager_answers, small_config
from torch import Tensor

from albert_fast.batch import INPUT_NAMES, ShapeProfile
from albert_fast.capture import capture
from albert_fast.config import AlbertConfig
from albert_fast.engine import machine, tensorrt_build, tensorrt_rtx, torch_tensorrt_file, torch_tensorrt_jit
from albert_fast.engine.signature import distinct_weight_bytes
from albert_fast.engine.torch_tensorrt_partition import input_shapes, partition, tuned_for
from albert_fast.engine.torch_tensorrt_quantized import pairs_converted
from albert_fast.errors import EngineError
from albert_fast.heads import HEADS
from albert_fast.precision import Quantization, prepare
from albert_fast.precision.calibration import collect

ARGUMENTS: dict[str, Any] = {"min_block_size": 1, "attn_bias_is_causal": False}
SETTINGS: dict[str, Any] = {"device": "cuda", "profiles": (PROFILE,), "options": {}, "tell": lambda text: None}


def torch_tensorrt_without_a_gpu() -> Any:
    """``torch_tensorrt``, imported after CUDA's answers are made up."""
    cuda: Any = torch.cuda
    cuda.current_device = lambda: 0
    cuda.default_stream = lambda *_: None
    cuda.get_device_capability = lambda *_: (9, 0)
    cuda.get_device_properties = lambda *_: SimpleNamespace(major=9, minor=0, name="no GPU")
    cuda.mem_get_info = lambda *_: (2, 2)
    torch._C._CudaDeviceProperties = object
    torch.Tensor.cuda = lambda self, *_: self
    import torch_tensorrt
    import tensorrt  # isort: skip  # TensorRT-RTX, which torch_tensorrt has put in its place
    from torch_tensorrt.dynamo import _compiler
    from torch_tensorrt.dynamo.runtime._TRTEngine import TRTEngine

    tensorrt.Runtime = lambda _: SimpleNamespace(deserialize_cuda_engine=Kept)
    TRTEngine._setup_engine = lambda self: None
    TRTEngine.reset_captured_graph = lambda self: None
    _compiler.to_torch_device = lambda _: torch.device("cpu")
    torch_tensorrt_file.moved = lambda program, _: program
    return torch_tensorrt


class Kept:
    """An engine that is kept as bytes; who asks it to run is answered by ``answering``."""

    def __init__(self, data: Any) -> None:
        self.data = bytes(data)

    def serialize(self) -> bytes:
        return self.data

    def get_engine_stat(self, _: Any) -> int:
        return len(self.data)


@contextmanager
def answering(answer: Callable[..., list[Tensor]]) -> Iterator[None]:
    """Let every engine answer with ``answer(**inputs by name)``."""
    from torch_tensorrt.dynamo.runtime._TRTEngine import TRTEngine

    def execute(self: Any, inputs: list[Tensor]) -> list[Tensor]:
        return answer(**dict(zip(self.in_binding_names, inputs, strict=True)))

    before, TRTEngine.execute = TRTEngine.execute, execute
    try:
        yield
    finally:
        TRTEngine.execute = before


@cache
def model(head: str = "pretraining", **options: Any) -> Any:
    """Two passes of one layer; always the same weights."""
    torch.manual_seed(7)
    return HEADS[head].model_class(small_config(num_hidden_layers=2), **options).eval()


@cache
def program(head: str = "pretraining") -> Any:
    return capture(model(head), PROFILE)


def divided(package: Any, program: Any, profile: ShapeProfile = PROFILE) -> dict[str, Any]:
    with tuned_for(program, profile):
        return vars(partition(package, program, profile, ARGUMENTS))


def heads(package: Any, _: Path) -> Any:
    return {head: divided(package, program(head)) for head in HEADS}


def precisions(package: Any, _: Path) -> Any:
    return {name: divided(package, prepare(program(), name)) for name in ("fp16", "bf16")}


def eager_attention(package: Any, _: Path) -> Any:
    return divided(package, capture(model("masked-lm", attn_implementation="eager"), PROFILE))


def shapes(package: Any, _: Path) -> Any:
    """``partition`` raises where an engine's shapes would not be the profile's; without ``tuned_for`` it does."""
    divided(package, program(), ShapeProfile(1, 1, 4, 1, 48, 48))
    divided(package, program("multiple-choice"))
    try:
        partition(package, program(), PROFILE, ARGUMENTS)
    except EngineError as error:
        return str(error)


class EfficientAttention(torch.nn.Module):
    """What a graph of PyTorch's attention on CUDA may hold."""

    def forward(self, query: Tensor, bias: Tensor) -> Tensor:
        return torch.ops.aten._scaled_dot_product_efficient_attention(query, query, query, bias, False)[0]


def masks(package: Any, _: Path) -> Any:
    """Per graph and value of ``attn_bias_is_causal``: the attention ops, those with a mask, the causal ones."""
    example = torch.zeros(2, 4, 8, 16, device="meta"), torch.zeros(2, 4, 8, 8, device="meta")
    cases = {"ours": (program(), input_shapes(package, program(), PROFILE))}
    cases["efficient"] = (
        torch.export.export(EfficientAttention(), example),
        [*map(package.Input, ((2, 4, 8, 16), (2, 4, 8, 8)))],
    )
    found = {}
    for name, (graph, inputs) in cases.items():
        for causal in (False, True):
            changed = {**ARGUMENTS, "attn_bias_is_causal": causal, "dryrun": True}
            lowered = package.dynamo.compile(graph, inputs=inputs, **changed)._run_on_acc_0.graph
            ops = [node for node in lowered.nodes if "scaled_dot_product" in str(node.target)]
            with_mask = [node for node in ops if len(node.args) > 3 and node.args[3] is not None]
            found[f"{name}, {causal}"] = [len(ops), len(with_mask), sum(True in node.args[4:] for node in ops)]
    return found


def write(package: Any, folder: Path) -> Any:
    path, told = folder / "engine.pt2", []
    written = torch_tensorrt_file.write(program(), path, **{**SETTINGS, "tell": told.append})
    (folder / "notes.json").write_text(json.dumps(written.notes))
    files = sorted(file.name for file in folder.iterdir())
    return {"notes": written.notes, "told": told, "bytes": path.stat().st_size, "files": files}


def read(package: Any, folder: Path) -> Any:
    """What ``write`` wrote, with eager's answers in the engine's place: whether inputs and outputs keep their names."""
    notes = json.loads((folder / "notes.json").read_text())
    run = torch_tensorrt_file.read(folder / "engine.pt2", device="cuda", profiles=(PROFILE,), notes=notes)

    def answer(**inputs: Tensor) -> list[Tensor]:
        output = model()(**inputs)
        return [output[name] for name in HEADS["pretraining"].outputs]

    differences = {}
    with answering(answer), torch.inference_mode():
        for shape in ((2, 9), (1, 1), (4, 48)):
            batch = batch_of(*shape)
            differences[str(shape)] = differ(run(*batch.tensors()), eager_answers(model(), batch))
    return differences


def int8(package: Any, folder: Path) -> Any:
    """An int8 engine: what TensorRT runs of the graph, its bytes, and how often they hold the largest weight."""
    exact = program("sequence-classification")
    scales = collect(exact, [batch_of(2, 9)]).scales("max")
    graph = prepare(exact, "int8", quantization=Quantization(scales, rest="fp16"))
    with tuned_for(graph, PROFILE), pairs_converted(package, graph):
        ops = vars(partition(package, graph, PROFILE, ARGUMENTS))
    engine = torch_tensorrt_file.serialize(graph, **SETTINGS)
    name = next(name for name in graph.state_dict if name.endswith(".ffn.weight"))
    weight = graph.state_dict[name]
    rows = [bytes(matrix.contiguous().view(torch.uint8)[1].tolist()) for matrix in (weight, weight.T)]
    return {"ops": ops, "bytes": len(engine), "held": [engine.count(row) for row in rows]}


def serialize(package: Any, _: Path) -> Any:
    engine = torch_tensorrt_file.serialize(prepare(program(), "fp16"), **SETTINGS)
    return [type(engine).__name__, len(engine)]


class Asked(Kept):
    """What the notes want to know of an engine."""

    def create_engine_inspector(self) -> Any:
        return SimpleNamespace(get_engine_information=lambda _: '{"Layers": []}')

    def get_tensor_profile_shape(self, *_: Any) -> list[list[int]]:
        return [[1, 1], [2, 8], [4, 48]]

    def get_device_memory_size_for_profile_v2(self, _: int) -> int:
        return 0


def road(package: Any, folder: Path) -> Any:
    """An engine file by the option ``road`` of the row ``tensorrt-rtx``: its notes, and TensorRT-RTX's word on it."""
    import tensorrt_rtx as module

    path, told = folder / "road.engine", []
    with (
        patch.object(machine, "has_device", lambda _: True),
        patch.object(tensorrt_build, "on", lambda _: nullcontext()),
        patch.object(module, "Runtime", lambda _: SimpleNamespace(deserialize_cuda_engine=Asked)),
    ):
        options = {"road": "torch-tensorrt", "workspace_mb": 1024}
        settings = {**SETTINGS, "options": options, "tell": told.append}
        notes = tensorrt_rtx.write(program(), path, **settings).notes
    held = [name for name in (*INPUT_NAMES, *notes["outputs"], "output2") if name.encode() in path.read_bytes()]
    return {"notes": notes, "told": told, "names": held, "described": tensorrt_rtx.describe(path)}


class WithBessel(torch.nn.Module):
    """A model that ends with an op that TensorRT has no layer for."""

    def __init__(self) -> None:
        super().__init__()
        self.model = model("masked-lm")

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> dict[str, Tensor]:
        logits = self.model(input_ids, attention_mask, token_type_ids)["logits"]
        return {"logits": torch.special.bessel_j0(logits)}


def left_in_torch(package: Any, folder: Path) -> Any:
    ids, profile, found = torch.ones(2, 8, dtype=torch.int64), ShapeProfile(2, 2, 2, 8, 8, 8), {}
    graph = torch.export.export(WithBessel().eval(), (ids, ids.clone(), torch.zeros_like(ids)))
    for required in (True, False):
        settings = {**SETTINGS, "profiles": (profile,), "options": {"require_full_compilation": required}}
        try:
            found[str(required)] = torch_tensorrt_file.write(graph, folder / "bessel.pt2", **settings).notes[
                "torch_ops"
            ]
        except EngineError as error:
            found[str(required)] = str(error)
    return found


def in_process(package: Any, _: Path) -> Any:
    """The shapes of the inputs of each engine, and how many there are after calls of several shapes."""
    from torch_tensorrt.dynamo.conversion import _conversion

    engines: list[list[str]] = []
    interpret = _conversion.interpret_module_to_result

    def noting(module: Any, inputs: Any, *more: Any, **named: Any) -> Any:
        engines.append(sorted({str(given.shape) for given in inputs}))
        return interpret(module, inputs, *more, **named)

    def answer(**inputs: Tensor) -> list[Tensor]:
        return [torch.zeros(*next(tensor.shape for tensor in inputs.values() if tensor.dim() == 2), 97)]

    _conversion.interpret_module_to_result = noting
    found = []
    with answering(answer), torch.inference_mode():
        live = model("masked-lm", attn_implementation="eager")  # PyTorch's own attention is another op on a CPU
        run = torch_tensorrt_jit.compiled(live, outputs=("logits",), profile=PROFILE)
        for shape in ((2, 8), (4, 17), (3, 48), (1, 8)):
            logits = run(*batch_of(*shape).tensors())["logits"]
            found.append([list(logits.shape), len(engines)])
    return {"engines": engines, "calls": found}


def albert_base(package: Any, folder: Path) -> Any:
    """The figures of docs/torch-tensorrt.md: ops per head, and what a masked-LM file takes in each precision."""
    profile, config = ShapeProfile(), AlbertConfig.published("albert-base-v2")
    ops, sizes = {}, {}
    for head, row in HEADS.items():
        whole = capture(row.model_class(config).eval(), profile)
        ops[head] = divided(package, whole, profile)
        for name in ("fp32", "fp16", "bf16") if head == "masked-lm" else ():
            graph, path = prepare(whole, name), folder / f"{name}.pt2"
            notes = torch_tensorrt_file.write(graph, path, **{**SETTINGS, "profiles": (profile,)}).notes
            sizes[name] = {
                "ops": notes["converted_ops"],
                "weights": distinct_weight_bytes(graph),
                "engine": notes["engine_bytes"],
                "file": path.stat().st_size,
            }
    return {"heads": ops, "masked-lm": sizes}


def main(folder: Path, names: list[str]) -> None:
    package, found = torch_tensorrt_without_a_gpu(), {}
    for name in names:
        try:
            found[name] = globals()[name](package, folder)
        except Exception:  # the test of this experiment shows it, the others have theirs
            found[name] = traceback.format_exc()
    sys.stdout.write(f"\n{json.dumps(found)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
