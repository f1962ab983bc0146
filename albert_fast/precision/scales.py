"""Scales: what calibration found, in a JSON file that can be read, compared, edited by hand and used again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from albert_fast import files
from albert_fast.precision.sites import canonical

SCHEMA = "albert-fast scales 1"
_SMALLEST, _LARGEST = 1e-35, 1e38
"""A range between them, and a 127th of it, are float32 numbers."""


@dataclass(frozen=True)
class CalibrationText:
    """What the scales were found on.

    Attributes:
        sha256: of the token ids and types of every text, in the order in which they ran.
        texts, tokens: how many; padding does not count.
        source: where they came from.
        truncated: how many of the texts were cut.
    """

    sha256: str
    texts: int
    tokens: int
    source: str = ""
    truncated: int = 0


@dataclass(frozen=True)
class Scales:
    """The largest magnitude that each quantized tensor may have, pass by pass.

    Attributes:
        model: digest of the encoder's weights, see ``encoder_digest``: scales fit one encoder, under any head.
        method: how the ranges were chosen, ``"max"`` or ``"percentile 99.99"``.
        text: what they were found on.
        amax: ``{tensor: [one number a pass]}``; what is larger is clipped. int8's scale is ``amax / 127``.
        smoothing: ``{tensor: [one number a channel]}``: the tensor is divided by it before it is rounded, and its
            weights multiplied by it (SmoothQuant, Xiao et al. 2022, arXiv:2211.10438); one for all passes.
    Raises:
        ValueError: a number is not above 0 or not in float32's range; the message names every such tensor.
    """

    model: str
    method: str
    text: CalibrationText
    amax: Mapping[str, tuple[float, ...]]
    smoothing: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        wrong = [
            f"{kind} of {tensor}: {value!r} at {index}"
            for kind, numbers in (("amax", self.amax), ("smoothing", self.smoothing))
            for tensor, values in numbers.items()
            for index, value in enumerate(values)
            if isinstance(value, bool) or not isinstance(value, int | float) or not _SMALLEST <= value <= _LARGEST
        ]
        if wrong:
            raise ValueError(f"scales must be numbers from {_SMALLEST:g} to {_LARGEST:g}, found {'; '.join(wrong)}")

    def merged(self) -> Scales:
        """The same with one range a tensor: the largest of all passes, as tools have it that observe modules."""
        amax = {tensor: (max(values),) * len(values) for tensor, values in self.amax.items()}
        return dataclasses.replace(self, method=f"{self.method}, passes merged", amax=amax)

    @property
    def digest(self) -> str:
        """sha256 of the content, whatever the file's layout."""
        return hashlib.sha256(json.dumps(self._content(), sort_keys=True).encode()).hexdigest()

    def to_json(self) -> str:
        """The file's text: one line a tensor, so that two files compare line by line."""
        lines = []
        for key, value in self._content().items():
            if isinstance(value, dict):
                rows = [f"    {json.dumps(name)}: {json.dumps(one)}" for name, one in value.items()]
                text = "{\n" + ",\n".join(rows) + "\n  }" if rows else "{}"
            else:
                text = json.dumps(value)
            lines.append(f"  {json.dumps(key)}: {text}")
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, whole or not at all."""
        with files.replacing(path) as temporary:
            temporary.write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Scales:
        """Read a file of ``save``.

        Raises:
            ValueError: no such file, not JSON, of another kind or version, or a number that cannot be a range.
        """
        name = os.fspath(path)
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(f"the scales file {name} cannot be read: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise ValueError(f"the scales file {name} is not JSON: {error}") from None
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            found = content.get("schema") if isinstance(content, dict) else type(content).__name__
            raise ValueError(f"{name} is no scales file of this version: schema is {found!r}, expected {SCHEMA!r}")
        try:
            return cls(
                model=str(content["model"]),
                method=str(content["method"]),
                text=CalibrationText(**content["text"]),
                amax={str(tensor): tuple(values) for tensor, values in content["amax"].items()},
                smoothing={str(tensor): tuple(values) for tensor, values in content.get("smoothing", {}).items()},
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"the scales file {name} is not whole: {error}; calibrate again") from None
        except ValueError as error:
            raise ValueError(f"the scales file {name}: {error}") from None

    def _content(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "model": self.model,
            "method": self.method,
            "text": dataclasses.asdict(self.text),
            "amax": {tensor: [float(v) for v in values] for tensor, values in self.amax.items()},
            "smoothing": {tensor: [float(v) for v in values] for tensor, values in self.smoothing.items()},
        }


def encoder_digest(program: ExportedProgram) -> str:
    """sha256 of the float32 weights of embeddings and encoder, by name; the same under every head and file format."""
    digest = hashlib.sha256()
    tensors = {canonical(name): tensor for name, tensor in program.state_dict.items()}
    for name in sorted(tensors):
        if name.startswith(("embeddings.", "encoder.")):
            digest.update(name.encode())
            numbers = tensors[name].detach().to("cpu", torch.float32).contiguous()
            digest.update(numbers.numpy().tobytes())
    return digest.hexdigest()
