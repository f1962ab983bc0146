"""A SavedModel as servers use one: found by tag and signature, run in a process that knows nothing of this library."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_samples import batch_of, eager_answers, engine_file, small_model
from tensorflow_engine_samples import saved
from tensorflow_samples import tf  # noqa: F401  skips in words where TensorFlow is missing

from albert_fast.batch import INPUT_NAMES, Batch

SERVER = shutil.which("tensorflow_model_server")
NAME = "prediction_logits"
START_SECONDS = 120
"""Longest that a server may take until it answers, on a busy machine."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a server looks: a folder for each version of a model."""
    version = tmp_path / "albert" / "1"
    version.mkdir(parents=True)
    shutil.copy(engine_file("saved_model"), version / "saved_model.pb")
    return tmp_path / "albert"


@pytest.fixture
def batch() -> Batch:
    torch.manual_seed(0)
    return batch_of(2, 9)


def expected(batch: Batch) -> np.ndarray:
    return eager_answers(small_model(), batch)[NAME].numpy()


@pytest.mark.parametrize("signature", ["serving_default", "int32"])
def test_tensorflows_own_command_finds_the_signature_and_runs_it(
    signature: str, folder: Path, batch: Batch, tmp_path: Path
) -> None:
    """``saved_model_cli`` loads a SavedModel into a session, by tag and signature, as TF Serving does."""
    file = saved(batch, tmp_path)
    if signature == "int32":
        np.savez(file, **{name: array.astype(np.int32) for name, array in np.load(file).items()})
    inputs = ";".join(f"{name}={file}[{name}]" for name in INPUT_NAMES)
    command = "from tensorflow.python.tools import saved_model_cli; saved_model_cli.main()"
    done = subprocess.run(
        [
            sys.executable, "-c", command, "run", "--dir", folder / "1", "--tag_set", "serve",
            "--signature_def", signature, "--inputs", inputs, "--outdir", tmp_path / "out",
        ],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    np.testing.assert_allclose(np.load(tmp_path / "out" / f"{NAME}.npy"), expected(batch), atol=2e-4, rtol=0)


@pytest.fixture
def address(folder: Path) -> Iterator[str]:
    """A server of the folder."""
    assert SERVER is not None
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        rest, grpc = one.getsockname()[1], other.getsockname()[1]
    server = subprocess.Popen(
        [SERVER, f"--rest_api_port={rest}", f"--port={grpc}", "--model_name=albert", f"--model_base_path={folder}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{rest}/v1/models/albert"
    finally:
        server.terminate()
        server.wait()


def ask(address: str, question: dict[str, Any] | None = None) -> Any:
    """The server's answer, as soon as it answers."""
    data = None if question is None else json.dumps(question).encode()
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(address, data) as answer:
                return json.load(answer)
        except (urllib.error.HTTPError, urllib.error.URLError) as error:
            refused = isinstance(error, urllib.error.HTTPError) and error.code != 404
            if refused or time.monotonic() > deadline:
                raise
            time.sleep(0.5)


@pytest.mark.skipif(SERVER is None, reason="needs tensorflow_model_server, TensorFlow Serving's program, on the PATH")
def test_tensorflow_serving_answers_over_rest(address: str, batch: Batch) -> None:
    columns = {name: tensor.tolist() for name, tensor in zip(INPUT_NAMES, batch.tensors(), strict=True)}
    found = ask(f"{address}:predict", {"signature_name": "serving_default", "inputs": columns})
    np.testing.assert_allclose(found["outputs"][NAME], expected(batch), atol=2e-4, rtol=0)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    by_row = ask(f"{address}:predict", {"instances": rows})
    np.testing.assert_allclose([row[NAME] for row in by_row["predictions"]], expected(batch), atol=2e-4, rtol=0)


@pytest.mark.skipif(SERVER is None, reason="needs tensorflow_model_server, TensorFlow Serving's program, on the PATH")
def test_tensorflow_serving_lists_the_signatures(address: str) -> None:
    signatures = ask(f"{address}/metadata")["metadata"]["signature_def"]["signature_def"]
    assert {"serving_default", "int32", "int64"} <= signatures.keys()
    assert sorted(signatures["serving_default"]["inputs"]) == sorted(INPUT_NAMES)
