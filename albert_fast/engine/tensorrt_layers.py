"""What an engine is made of, as TensorRT lists it: counts of layers by kind and by data type, and of fused attentions.

Without a GPU an engine cannot be asked, so the list comes from the builder's log; where there is a GPU, the engine
inspector gives the same list as JSON.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LIST_HEADING, WEIGHTS_HEADING, ACTIVATIONS_HEADING = "Layers:", "Total Weights Memory:", "Total Activation Memory:"
_FUSED_ATTENTION = re.compile(r"mha|fmha|attention_v\d", re.IGNORECASE)
_LOGGED = re.compile(r"^(?:Name: )(?P<name>.*?), LayerType: (?P<type>\w+), Inputs: \[(?P<rest>.*)$")
_LATER_PROFILE = re.compile(r"\[profile [1-9]\d*\]")
_PARTITION = re.compile(r"_myl(\d+)_\d+$")
_PRODUCT = re.compile(r"gemm|matmul|matrix", re.IGNORECASE)
_DESCRIBED = {
    "FP8": "FP8", "FP32": "Float", "FP16": "Half", "BF16": "BFloat16", "INT8": "Int8", "INT32": "Int32",
    "INT64": "Int64",
}  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """One layer of an engine: its name, its kind in TensorRT's words, and the data type that it reads."""

    name: str
    kind: str
    dtype: str


def logged_layers(texts: Iterable[str]) -> list[Layer]:
    """Layers from the builder's messages that start with ``LIST_HEADING``; empty where there are none."""
    matches = (_LOGGED.match(line) for text in texts for line in text.splitlines())
    return [Layer(m["name"], m["type"], _first_dtype(m["rest"])) for m in matches if m is not None]


def inspected_layers(text: str) -> list[Layer]:
    """Layers from the JSON of ``EngineInspector.get_engine_information``; without details there are names only."""
    listed: Sequence[Any] = json.loads(text).get("Layers", [])
    return [_inspected(item) if isinstance(item, Mapping) else Layer(str(item), "", "") for item in listed]


def summary(layers: Sequence[Layer]) -> dict[str, Any]:
    """Counts for the manifest's notes.

    Returns:
        ``layers`` of the first profile (the others repeat them), ``layers_by_kind``, ``layers_by_dtype`` (what each
        layer reads: ``{"Half": 100, "Float": 26}``), ``products_by_dtype``, the same of matrix products alone, and
        ``fused_attention``: passes whose scores, softmax and weighted sum are one kernel.
    """
    first = _first_profile(layers)
    return {
        "layers": len(first),
        "layers_by_kind": dict(Counter(layer.kind for layer in first if layer.kind).most_common()),
        "layers_by_dtype": dict(Counter(layer.dtype for layer in first if layer.dtype).most_common()),
        "products_by_dtype": dict(
            Counter(layer.dtype for layer in first if layer.dtype and _PRODUCT.search(layer.kind)).most_common()
        ),
        "fused_attention": sum(bool(_FUSED_ATTENTION.search(layer.name.split("+")[0])) for layer in first),
    }


def byte_counts(texts: Iterable[str]) -> list[int]:
    """The numbers in messages such as ``"Total Weights Memory: 46713344 bytes"``."""
    return [int(found[1]) for text in texts if (found := re.search(r": (\d+) bytes", text))]


def _first_profile(layers: Sequence[Layer]) -> list[Layer]:
    """TensorRT-RTX numbers the profiles' layers ``_myl0_``, ``_myl1_``; TensorRT adds ``[profile 1]`` to later ones."""
    kept = [layer for layer in layers if not _LATER_PROFILE.search(layer.name)]
    partitions = [_PARTITION.search(layer.name) for layer in kept]
    lowest = min((int(found[1]) for found in partitions if found), default=0)
    return [layer for layer, found in zip(kept, partitions, strict=True) if found is None or int(found[1]) == lowest]


def _inspected(item: Mapping[str, Any]) -> Layer:
    tensors = [*(item.get("Inputs") or []), *(item.get("Outputs") or [])]
    dtype = next((found for tensor in tensors if (found := _described_dtype(tensor))), "")
    return Layer(str(item.get("Name", "")), str(item.get("LayerType", "")), dtype)


def _described_dtype(tensor: Any) -> str:
    """``Datatype`` since TensorRT 11; before it ``Format/Datatype``, words such as "Row major linear FP16 format"."""
    if not isinstance(tensor, Mapping):
        return ""
    words = str(tensor.get("Datatype") or tensor.get("Format/Datatype") or "")
    return next((name for short, name in _DESCRIBED.items() if short in words), words)


def _first_dtype(rest: str) -> str:
    found = re.search(r"Datatype: (\w+)", rest)
    return found[1] if found else ""
