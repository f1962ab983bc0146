"""``tf_model.h5``, as the TensorFlow classes of ``transformers`` 2 to 4 wrote it. h5py reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from albert_fast._optional import require
from albert_fast.checkpoint import names, safety
from albert_fast.checkpoint.content import same
from albert_fast.config import AlbertConfig
from albert_fast.errors import CheckpointError

H5 = "tf_model.h5"


def recognise(folder: Path) -> bool:
    """Whether the folder holds tf_model.h5."""
    return (folder / H5).is_file()


def read_tensors(folder: Path, config: AlbertConfig) -> dict[str, Tensor]:
    """All weights under their present names.

    Raises:
        CheckpointError: a damaged file, weights stored outside of it or inflated, or weights that no ALBERT has.
        MissingDependencyError: h5py is not installed.
    """
    h5py = require("h5py", extra="tensorflow", purpose=f"read {H5}")
    path = folder / H5
    try:
        with h5py.File(path, "r") as file:
            datasets: dict[str, Any] = {}

            def visit(name: str, item: Any) -> None:
                if isinstance(item, h5py.Dataset):
                    datasets[name] = item

            file.visititems(visit)  # follows no soft or external links
            _check(datasets, path)
            rows = [_row(name, dataset) for name, dataset in sorted(datasets.items())]
    except CheckpointError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path} is cut off or no HDF5 file: {error}. Fetch it again") from error
    unknown = [old for new, old, _ in rows if not new]
    if unknown:
        raise CheckpointError(f"{path} holds weights that no ALBERT has: {', '.join(unknown)}. Check that it is one")
    return names.collect(_once(rows))


def _once(rows: list[tuple[str, str, Tensor]]) -> list[tuple[str, str, Tensor]]:
    """Without repetitions: Keras stores the embeddings again in the group of the masked-LM head that uses them."""
    first: dict[str, Tensor] = {}
    return [row for row in rows if first.setdefault(row[0], row[2]) is row[2] or not same(first[row[0]], row[2])]


def _check(datasets: dict[str, Any], path: Path) -> None:
    """Refuse whatever claims more than the file holds, before it is read."""
    odd = [
        name
        for name, dataset in datasets.items()
        if dataset.dtype.kind != "f" or dataset.is_virtual or dataset.external or dataset.chunks is not None
    ]
    if odd:
        raise CheckpointError(
            f"{path} stores weights in a way that Keras does not: {', '.join(sorted(odd))}. Expected plain "
            "floating-point datasets inside the file; do not trust it"
        )
    claims = ((name, tuple(dataset.shape), dataset.dtype.itemsize) for name, dataset in datasets.items())
    safety.check_held(claims, path, held_bytes=path.stat().st_size)


def _row(path: str, dataset: Any) -> tuple[str, str, Tensor]:
    """(new name, old name, tensor); the new name is empty for an unknown weight, which is not read."""
    weight = path.partition("/")[2]  # the first part is the layer's group, the rest is Keras's own name
    known = names.from_keras(weight)
    if known is None:
        return "", path, torch.empty(0)
    name, transposed = known
    values = dataset[()]
    tensor = torch.from_numpy(values.astype(values.dtype.newbyteorder("="), copy=False))
    return name, path, tensor.T.contiguous() if transposed else tensor
