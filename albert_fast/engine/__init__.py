"""Engines: build an engine file from a captured program, load it, or make an engine of a live model.

    manifest = build(program, "model.pt2", format="aotinductor", facts=..., references=..., budget=...)
    engine = load("model.pt2")
    outputs = engine(Batch(input_ids))

Formats are rows of ``FORMATS``; each row's module is imported when it is used. An engine file comes with a manifest,
see ``albert_fast.engine.manifest``. Engine files hold code: load only those from a source you trust.
"""

from __future__ import annotations

from albert_fast.engine.builder import build
from albert_fast.engine.engine import Engine
from albert_fast.engine.formats import Format
from albert_fast.engine.live import in_process
from albert_fast.engine.loader import describe, inspect, load
from albert_fast.engine.manifest import Facts, Manifest, manifest_path, read_manifest
from albert_fast.engine.measure import MeasuredError, measure
from albert_fast.engine.table import FORMATS

__all__ = [
    "FORMATS",
    "Engine",
    "Facts",
    "Format",
    "Manifest",
    "MeasuredError",
    "build",
    "describe",
    "in_process",
    "inspect",
    "load",
    "manifest_path",
    "measure",
    "read_manifest",
]
