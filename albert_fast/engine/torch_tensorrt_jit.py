"""The format ``torch-tensorrt-jit``: ``torch.compile(backend="torch_tensorrt")`` in this process.

``torch.compile`` hands every parameter to its backend as an input, and Torch-TensorRT would build engines that take all
weights anew in each call. Here they are put back into the graph first, so that TensorRT sees constants.

Sizes that vary in the profile are dynamic. Batch 1 and length 1 get engines of their own when they first occur, and
PyTorch's own attention on CUDA tells lengths that are multiples of 8 from others.
"""

from __future__ import annotations

import copy
import dataclasses
import threading
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn

from albert_fast.batch import ShapeProfile
from albert_fast.engine.eager import make as make_eager
from albert_fast.engine.formats import Run
from albert_fast.engine.torch_tensorrt_partition import Partition
from albert_fast.engine.torch_tensorrt_settings import Settings, compiler_arguments, load_package
from albert_fast.errors import EngineError

_BACKEND = "torch_tensorrt"
_CHOICES = (2, 64)
"""Smallest and largest number of choices of an engine; one choice gets an engine of its own."""


def make(model: nn.Module, *, outputs: tuple[str, ...], profile: ShapeProfile) -> Run:
    """Compile ``model`` for the profile's sizes. It is not changed; later changes of its weights are not seen.

    Raises:
        ValueError: the model is not on a CUDA device.
        MissingDependencyError: Torch-TensorRT is not installed.
        EngineError: TensorRT cannot run every op.
    """
    device = next(model.parameters()).device
    if device.type != "cuda":
        raise ValueError(f"the model is on {device}, but TensorRT runs on CUDA devices only; pass device='cuda'")
    return compiled(model, outputs=outputs, profile=profile)


def compiled(model: nn.Module, *, outputs: tuple[str, ...], profile: ShapeProfile) -> Run:
    """``make`` for a model on whatever device it is; the engine for the profile's optimum is built at once."""
    package, device = load_package(), next(model.parameters()).device
    call = _compile(make_eager(model, outputs=outputs, profile=profile), package, device)
    rank, one_at_a_time = _ids_rank(model), threading.Lock()
    ranges = _ranges(profile, rank)

    def run(*inputs: Tensor) -> Mapping[str, Tensor]:
        with one_at_a_time:
            try:
                return call(*(_dynamic(tensor, ranges) for tensor in inputs))
            except torch._dynamo.exc.BackendCompilerFailed as failure:
                if isinstance(failure.inner_exception, EngineError):
                    raise failure.inner_exception from failure
                raise

    shape = [profile.opt_batch, *([_CHOICES[0]] if rank == 3 else []), profile.opt_length]
    with torch.inference_mode():
        example = torch.ones(shape, dtype=torch.int64, device=device)
        run(example, example.clone(), torch.zeros_like(example))
    return cast(Run, run)


def _compile(run: Run, package: ModuleType, device: torch.device) -> Callable[..., Mapping[str, Tensor]]:
    """Compile a fresh function: variants are limited per function, and engines must not count for each other."""
    scratch = TemporaryDirectory(prefix="albert-fast-")  # lives as long as the backend does
    build = cast(Any, torch._dynamo.lookup_backend(_BACKEND))

    def call(input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Mapping[str, Tensor]:
        return run(input_ids, attention_mask, token_type_ids)

    def backend(graph: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        whole, kept = with_weights_inside(graph)
        built = build(whole, [inputs[i] for i in kept], options=_options(package, scratch.name, device))
        Partition.of(built).check(remedy="make the engine of a model with attn_implementation='sdpa' or 'eager'")
        return lambda *given: built(*(given[i] for i in kept))

    own = types.FunctionType(call.__code__.replace(), call.__globals__, call.__name__, closure=call.__closure__)
    return cast(Callable[..., Mapping[str, Tensor]], torch.compile(own, backend=backend, fullgraph=True))


def _options(package: ModuleType, scratch: str, device: torch.device) -> dict[str, Any]:
    """What the backend is told: among it, not to hand back the uncompiled graph where a build fails."""
    known = {field.name for field in dataclasses.fields(package.dynamo.CompilationSettings)}
    cache = Path(scratch) / "timing_cache.bin"
    return compiler_arguments(
        Settings(), known, timing_cache=cache, device=str(device), pass_through_build_failures=True
    )


def with_weights_inside(graph: torch.fx.GraphModule) -> tuple[torch.fx.GraphModule, list[int]]:
    """A copy of what ``torch.compile`` traced in which parameters are attributes instead of inputs.

    Returns:
        The copy, and which of the graph's inputs are left, in order.
    Raises:
        EngineError: no input is known as a parameter.
    """
    whole = copy.deepcopy(graph)
    kept = []
    placeholders = [node for node in whole.graph.nodes if node.op == "placeholder"]
    for index, node in enumerate(placeholders):
        argument = node.meta.get("grapharg")
        weight = None if argument is None else argument.example
        if not isinstance(weight, nn.Parameter):
            kept.append(index)
            continue
        name = f"weight_{index}"
        whole.register_parameter(name, weight)
        with whole.graph.inserting_before(node):
            constant = whole.graph.get_attr(name)
        constant.meta = {key: value for key, value in node.meta.items() if key != "grapharg"}
        node.replace_all_uses_with(constant)
        whole.graph.erase_node(node)
    if len(kept) == len(placeholders):
        raise EngineError(
            f"torch {torch.__version__} does not say which inputs of a traced graph are parameters, so TensorRT would "
            "take every weight as an input; use the format torch-tensorrt"
        )
    whole.recompile()
    return whole, kept


def _ranges(profile: ShapeProfile, rank: int) -> dict[int, tuple[int, int]]:
    """Dimension -> its smallest and largest size beside 1, for those that vary."""
    sizes = {0: (profile.min_batch, profile.max_batch), rank - 1: (profile.min_length, profile.max_length)}
    if rank == 3:
        sizes[1] = _CHOICES
    return {dimension: (max(low, 2), high) for dimension, (low, high) in sizes.items() if max(low, 2) < high}


def _dynamic(tensor: Tensor, ranges: Mapping[int, tuple[int, int]]) -> Tensor:
    """A copy of the tensor that tells the compiler which of its sizes vary, and between which bounds.

    A copy, so that it is an inference tensor whoever made the original: the compiler tells the two kinds apart.
    """
    copied = tensor.clone()
    for dimension, (low, high) in ranges.items():
        if copied.shape[dimension] > 1:  # the compiler makes code of its own for size 1
            torch._dynamo.mark_dynamic(copied, dimension, min=low, max=high)
    return copied


def _ids_rank(model: nn.Module) -> int:
    from albert_fast.heads import HEADS, head_of

    return HEADS[head_of(model)].ids_rank
