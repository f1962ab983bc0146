"""An ONNX graph on disk: one file, or a file and its weights beside it, with the engine's manifest in its metadata."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from albert_fast._optional import require
from albert_fast.errors import EngineError

MANIFEST_KEY = "albert_fast_manifest"
"""The key of the metadata that holds the manifest, without the file's own hash and size."""
EXTERNAL_FROM_BYTES = 1_900_000_000
"""From here on the weights go to a file of their own: protobuf ends at 2**31. No published ALBERT is that large."""


def save(model: Any, path: Path) -> None:
    """Write an ``onnx.ModelProto`` to ``path``; weights near 2 GB go to ``<file name>.data`` beside it."""
    onnx = _onnx()
    if sum(tensor_bytes(tensor) for tensor in tensors(model.graph)) < EXTERNAL_FROM_BYTES:
        onnx.save_model(model, path)
        return
    separate = onnx.ModelProto()
    separate.CopyFrom(model)  # writing moves the weights out of the graph that is given
    onnx.save_model(separate, path, save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)


def stored_bytes(path: Path) -> int:
    """Bytes of all constants of the graph in ``path``, those beside it included, each as often as it is stored.

    Raises:
        EngineError: the file is no ONNX graph.
    """
    return sum(tensor_bytes(tensor) for tensor in tensors(_load(path).graph))


def embed(path: Path, text: str) -> None:
    """Put a manifest into the metadata of the ONNX file at ``path``.

    What is appended to a serialized message is merged with it, so the graph before it is not read.
    """
    message = _onnx().ModelProto()
    message.metadata_props.add(key=MANIFEST_KEY, value=text)
    with path.open("ab") as stream:
        stream.write(message.SerializeToString())


def read_embedded(path: str | Path) -> str | None:
    """The manifest in an ONNX file, as the text of its JSON; None where it holds none.

    It has no hash and size of the file it lies in. Nothing of the file is executed.

    Raises:
        MissingDependencyError: onnx is not installed.
        EngineError: there is no such file, or it is no ONNX graph.
    """
    return _embedded(_load(Path(path)))


def contents(path: Path) -> dict[str, Any]:
    """What an ONNX file says of itself.

    Returns:
        ``opsets``: version of each operator set by its domain; ``stored_weight_bytes``: as ``stored_bytes``;
        ``manifest``: as ``read_embedded``.
    Raises:
        As ``read_embedded``.
    """
    model = _load(path)
    return {
        "opsets": {opset.domain or "ai.onnx": int(opset.version) for opset in model.opset_import},
        "stored_weight_bytes": sum(tensor_bytes(tensor) for tensor in tensors(model.graph)),
        "manifest": _embedded(model),
    }


def tensor_bytes(tensor: Any) -> int:
    """Bytes that an ``onnx.TensorProto`` takes, wherever it is stored."""
    if tensor.raw_data:
        return len(tensor.raw_data)
    dtype = _onnx().helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return int(math.prod(tensor.dims) * dtype.itemsize)


def tensors(graph: Any) -> Iterator[Any]:
    """Every constant of a graph: its initializers, and those in its nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            if attribute.HasField("g"):
                yield from tensors(attribute.g)


def _embedded(model: Any) -> str | None:
    found = [str(entry.value) for entry in model.metadata_props if entry.key == MANIFEST_KEY]
    return found[-1] if found else None


def _load(path: Path) -> Any:
    onnx = _onnx()
    decode_error = require("google.protobuf.message", extra="onnx", purpose="read an ONNX file").DecodeError
    try:
        return onnx.load(path, load_external_data=False)
    except OSError as error:
        raise EngineError(f"the ONNX file {path} cannot be read: {error.strerror}; check its path") from None
    except decode_error as error:
        raise EngineError(f"{path} is no ONNX file, or it is damaged ({error}); copy it again or export anew") from None


def _onnx() -> Any:
    return require("onnx", extra="onnx", purpose="read or write an ONNX file")
