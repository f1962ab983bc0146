"""The model of transformers as other tools take it: three tensors in, logits out; as an ONNX file; without noise."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim

from albert_fast import Batch
from albert_fast.batch import INPUT_NAMES

Call = Callable[[Batch], Tensor]
"""A batch to its logits: ``[rows, classes]``, of a masked LM ``[rows, length, vocab_size]``."""


class LogitsOnly(nn.Module):
    """transformers' model with three tensors in and one out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids)
        logits: Tensor = output.logits
        return logits


def export_onnx(model: LogitsOnly, path: Path) -> Path:
    """Write the ONNX file that ``torch.onnx.export`` makes of the model, for up to 64 rows of up to 512 tokens."""
    ids = torch.arange(5, 45).reshape(2, 20)
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0
    axes = {0: Dim("batch", min=1, max=64), 1: Dim("length", min=1, max=512)}
    with quiet(), torch.no_grad():
        torch.onnx.export(
            model, (ids, mask, torch.zeros_like(ids)), path, dynamo=True, dynamic_shapes=(axes, axes, axes),
            input_names=list(INPUT_NAMES), output_names=["logits"], external_data=False, verbose=False,
        )  # fmt: skip
    return path


def onnx_session(path: Path) -> Call:
    """An ONNX file, run by ONNX Runtime on the CPU with as many threads as PyTorch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda batch: torch.from_numpy(session.run(["logits"], feeds(batch))[0])


def feeds(batch: Batch) -> dict[str, Any]:
    """A batch as the numpy arrays that ONNX Runtime and OpenVINO take."""
    return dict(zip(INPUT_NAMES, (tensor.numpy() for tensor in batch.tensors()), strict=True))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep other tools' progress and advice off the screen; their errors come through."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
