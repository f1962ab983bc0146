"""``tf_model.h5`` as Keras 2 wrote it for the TensorFlow classes of ``transformers`` 4, which load it back."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from albert_fast._optional import require
from albert_fast.files import replacing

H5 = "tf_model.h5"
KERAS_2 = "2.15.0"  # the last Keras whose layout this is; readers look at it to know the layout


def write(path: Path, weights: Iterable[Any]) -> None:
    """Write the weights, whole or not at all, in float32 or float16.

    A weight ``model/layer/.../kernel`` becomes the dataset ``layer/model/layer/.../kernel:0``. With a masked-LM head
    two things stand twice, as they did: its bias, also as ``decoder/bias``, which is the one that ``transformers`` 4
    adds to the logits; and the embeddings, also in the group of the head, whose decoder they are.
    """
    h5py = require("h5py", extra="tensorflow", purpose=f"write {H5}")
    groups: dict[str, dict[str, Any]] = {}
    for variable in weights:
        value = variable.value.numpy()
        value = value if value.dtype == np.float16 else value.astype(np.float32)
        layer = variable.path.split("/")[1]
        groups.setdefault(layer, {})[f"{variable.path}:0"] = value
        if variable.path.endswith("/predictions/bias"):
            groups[layer][f"{variable.path.removesuffix('bias')}decoder/bias:0"] = value
    if "predictions" in groups:
        groups["predictions"] |= {name: value for name, value in groups["albert"].items() if "/embeddings/" in name}
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.attrs["backend"] = "tensorflow"
        file.attrs["keras_version"] = KERAS_2
        file.attrs["layer_names"] = [layer.encode() for layer in groups]
        for layer, values in groups.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in values]
            for name, value in values.items():
                group.create_dataset(name, data=value)
