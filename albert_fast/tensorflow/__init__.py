"""ALBERT in TensorFlow, for code that was written for the classes that ``transformers`` 5 dropped.

TensorFlow is imported when a class is asked for, not before.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "TFAlbertModel": "albert_fast.tensorflow.models",
    "TFAlbertForMaskedLM": "albert_fast.tensorflow.models",
    "TFAlbertForSequenceClassification": "albert_fast.tensorflow.models",
    "TFAlbertMainLayer": "albert_fast.tensorflow.main_layer",
}
__all__ = [*_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(_PUBLIC)}")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
