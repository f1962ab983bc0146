"""What ``format="auto"`` means: the fastest engine file that can be built and run here."""

from __future__ import annotations

from albert_fast import ops
from albert_fast.config import AlbertConfig
from albert_fast.engine import FORMATS, machine
from albert_fast.precision import PRECISIONS
from albert_fast.recipe import quantizing
from albert_fast.recipe.quantizing import AUTO
from albert_fast.recipe.support import refusal
from albert_fast.recipe.words import Recipe

NATIVE_ACTIVATIONS = ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu", "swish", "linear")
"""Values of ``config.hidden_act`` that the op ``encoder`` computes."""


def format_of(recipe: Recipe, config: AlbertConfig) -> str:
    """``native`` where its op is built for this CPU's AVX-512 and takes the model; else ``aotinductor``; and
    ``exported_program`` where there is no C++ compiler.

    On CPUs with less ``native`` is right, but it was not measured to be the faster one.
    """
    if machine.compiler() is None:
        return "exported_program"
    suits = (
        recipe.device_name == "cpu"
        and ops.is_available()
        and ops.cpu_kernel().startswith("avx512")
        and refusal(FORMATS["native"], PRECISIONS[recipe.precision], "cpu") is None
        and recipe.attention in (AUTO, "sdpa")
        and config.hidden_act in NATIVE_ACTIVATIONS
        and _takes(recipe.quantize)
    )
    return "native" if suits else "aotinductor"


def _takes(words: quantizing.Quantize | None) -> bool:
    """Whether all tensors of all passes are rounded."""
    if words is None:
        return True
    return "encoder" in words.parts and "attention" not in words.parts and not words.keep and words.max_drop is None
