"""TF models over the weights of PyTorch ones, and how far apart their outputs are. Importing this needs TensorFlow."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import albert_fast
from albert_fast import AlbertConfig

if TYPE_CHECKING:
    from albert_fast.tensorflow.pretrained import TFAlbertPreTrainedModel

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow", reason="needs TensorFlow: pip install 'albert-fast[tensorflow]'")
pytest.importorskip("h5py", reason="needs h5py: pip install 'albert-fast[tensorflow]'")

CLASSES = ("AlbertModel", "AlbertForMaskedLM", "AlbertForSequenceClassification")
SMALL: dict[str, Any] = dict(
    vocab_size=97, embedding_size=16, hidden_size=48, num_hidden_layers=6, num_attention_heads=4, intermediate_size=72,
    max_position_embeddings=80, initializer_range=0.2,
)  # fmt: skip


def torch_model(name: str, values: dict[str, Any]) -> torch.nn.Module:
    """A model of random weights; biases and LayerNorms too, since 0 and 1 would hide a swap."""
    torch.manual_seed(1)
    model = getattr(albert_fast, name)(AlbertConfig(**values)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def same_in_tensorflow(model: torch.nn.Module, dtype: str | None = None) -> TFAlbertPreTrainedModel:
    """The TF class over the same numbers."""
    name = type(model).__name__
    made = getattr(albert_fast, "TF" + name)(model.config, dtype=dtype)
    prefix = "albert." if name == "AlbertModel" else ""
    numbers = {prefix + key: tensor.detach().numpy() for key, tensor in model.state_dict().items()}
    for key, (variable, transposed) in made.named_weights().items():
        variable.assign(numbers[key].T if transposed else numbers[key])
    return made


def pair(name: str, values: dict[str, Any]) -> tuple[TFAlbertPreTrainedModel, torch.nn.Module]:
    model = torch_model(name, values)
    return same_in_tensorflow(model), model


def in_numpy(inputs: dict[str, Any]) -> dict[str, Any]:
    return {name: value.numpy() if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}


def largest_difference(ours: Any, theirs: Any) -> float:
    """Max abs difference over all fields; both must have the same fields and shapes, and finite numbers."""
    assert list(ours.keys()) == list(theirs.keys())
    flat = [
        [np.asarray(t.detach() if isinstance(t, torch.Tensor) else t, dtype=np.float64)
         for value in output.values() for t in (value if isinstance(value, tuple) else [value])]
        for output in (ours, theirs)
    ]  # fmt: skip
    assert [array.shape for array in flat[0]] == [array.shape for array in flat[1]]
    assert all(np.isfinite(array).all() for array in flat[0])
    return max(float(abs(a - b).max()) for a, b in zip(*flat, strict=True))
