"""What a recipe says of quantization, and how it becomes the ``Quantization`` that ``precision.prepare`` follows."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from albert_fast.engine import machine
from albert_fast.engine.formats import Format
from albert_fast.precision import METHODS, PARTS, RESTS, Precision, Quantization, Scales

AUTO = "auto"


@dataclass(frozen=True)
class Quantize:
    """The table ``[quantize]`` of a recipe, for a precision that quantizes.

    Attributes:
        scales: a scales file of ``albert-fast calibrate``, or ``Scales``; or else
        calibration: a file of text to calibrate on, as ``albert_fast.calibrate`` reads it.
        column: of ``calibration``, where it is a table: the one that holds the text.
        label_column: the one that holds each text's label, for ``max_drop`` of a classifier.
        method: row of ``precision.METHODS``, by which ranges are chosen in calibration.
        parts: rows of ``precision.PARTS``.
        rest: precision of everything else; ``"auto"`` is what suits the format on the device, and this machine.
        keep: tensors, or ``tensor@pass``, that stay in ``rest``.
        max_drop: how much accuracy may drop, in points, with ``label_column``; without, how many of the answers may
            change, in per cent. The most sensitive tensors and passes are kept in ``rest`` until it holds. It is
            measured on ``calibration``, on other texts than the ranges are found on. None keeps nothing but ``keep``.
        report: whether a page of charts is written beside the engine file; it needs ``calibration``.
    """

    scales: Path | Scales | None = None
    calibration: Path | None = None
    column: str | None = None
    label_column: str | None = None
    method: str = "percentile"
    parts: tuple[str, ...] = ("encoder",)
    rest: str = AUTO
    keep: tuple[str, ...] = ()
    max_drop: float | None = None
    report: bool = True


def converted(values: Any) -> Any:
    """TOML's table as ``Quantize`` where it can be one; what cannot stays for ``problems`` to name."""
    if not isinstance(values, Mapping) or problems(values):
        return values
    made = dict(values)
    for name in ("scales", "calibration"):
        if isinstance(made.get(name), str):
            made[name] = Path(made[name])
    for name in ("parts", "keep"):
        if name in made:
            made[name] = (made[name],) if isinstance(made[name], str) else tuple(made[name])
    return Quantize(**made)


def problems(values: Any) -> list[str]:
    """Everything wrong with a ``[quantize]`` table, one sentence each."""
    if isinstance(values, Quantize):
        values = {field.name: getattr(values, field.name) for field in dataclasses.fields(Quantize)}
    if values is None:
        return []
    if not isinstance(values, Mapping):
        return [f"quantize is {values!r}, expected a table such as {{scales = 'model.scales.json'}}"]
    names = [field.name for field in dataclasses.fields(Quantize)]
    found = [f"quantize has the unknown key {key!r}, expected {', '.join(names)}" for key in values if key not in names]
    for name in ("scales", "calibration", "column", "label_column"):
        allowed = str | Path | Scales if name == "scales" else str | Path
        if values.get(name) is not None and not isinstance(values[name], allowed):
            found.append(f"quantize.{name} is {values[name]!r}, expected a name")
    choices = {"method": tuple(METHODS), "rest": (AUTO, *RESTS)}
    for name, allowed in choices.items():
        if name in values and values[name] not in allowed:
            found.append(f"quantize.{name} is {values[name]!r}, expected one of {', '.join(allowed)}")
    found += _lists(values)
    if values.get("scales") is not None and values.get("calibration") is not None and values.get("max_drop") is None:
        found.append("quantize names both scales and calibration; name the scales file, or the text to make one from")
    drop = values.get("max_drop")
    if drop is not None and (isinstance(drop, bool) or not isinstance(drop, int | float) or not 0 <= drop <= 100):
        found.append(f"quantize.max_drop is {drop!r}, expected points between 0 and 100, such as 0.5")
    elif drop is not None and values.get("calibration") is None:
        found.append("quantize.max_drop measures on text: name it as quantize.calibration")
    if not isinstance(values.get("report", True), bool):
        found.append(f"quantize.report is {values['report']!r}, expected true or false")
    if values.get("label_column") is not None and drop is None:
        found.append("quantize.label_column is for quantize.max_drop, which is not given")
    return found


def fitting(precision: Precision | None, values: Any, attention: str) -> list[str]:
    """Whether a recipe's precision and attention, and its ``[quantize]`` table, belong together."""
    if precision is None or (values is not None and problems(values)):
        return []
    if precision.quantizes:
        if values is not None and "attention" in (_value(values, "parts") or ()) and attention == "sdpa":
            return [
                "quantize.parts names attention, whose products sdpa does not show: use attention 'eager' or 'auto'"
            ]
        has = values is not None and (_value(values, "scales") or _value(values, "calibration"))
        if values is not None and _value(values, "max_drop") is not None and precision.name != "int8":
            return [f"quantize.max_drop searches in int8, precision is {precision.name}; name what to keep yourself"]
        wanted = "name a scales file (quantize.scales, made by albert-fast calibrate) or text (quantize.calibration)"
        return [] if has else [f"precision {precision.name} needs ranges found on text of yours: {wanted}"]
    return [f"precision {precision.name} does not quantize, so it takes no table quantize"] if values else []


def rest_of(row: Format, asked: str, device: str) -> str:
    """The precision of what is not quantized, with ``"auto"`` resolved."""
    if asked != AUTO:
        return asked
    chosen = row.rest[device.partition(":")[0]]
    return "fp32" if chosen == "bf16" and device == "cpu" and not machine.has_fast_bfloat16() else chosen


def attention_of(words: Quantize | None, asked: str) -> str:
    """The attention implementation in the graph, with ``"auto"`` resolved."""
    if asked != AUTO:
        return asked
    return "eager" if words is not None and "attention" in words.parts else "sdpa"


def read_scales(words: Quantize | None) -> Scales | None:
    """The scales file, where one is named; read before any work begins.

    Raises:
        ValueError: it cannot be read, or the calibration text is not there.
    """
    if words is not None and words.calibration is not None and not words.calibration.is_file():
        raise ValueError(f"the calibration text {words.calibration} is not there")
    if words is None or words.scales is None:
        return None
    return words.scales if isinstance(words.scales, Scales) else Scales.read(words.scales)


def identity(words: Quantize | None) -> Any:
    """All that decides what is quantized and how, as JSON takes it: files by what is in them."""
    if words is None:
        return None
    scales, text = read_scales(words), words.calibration
    values = {field.name: getattr(words, field.name) for field in dataclasses.fields(words)}
    del values["report"]
    values["scales"] = scales and scales.digest
    values["calibration"] = text and hashlib.sha256(text.read_bytes()).hexdigest()
    return values


def notes(chosen: Quantization) -> dict[str, Any]:
    """What the manifest says of it."""
    scales = chosen.scales
    return {
        "parts": list(chosen.parts),
        "rest": chosen.rest,
        "kept": list(chosen.keep),
        "method": scales.method,
        "smoothed": sorted(scales.smoothing),
        "calibration": dataclasses.asdict(scales.text),
    }


def _value(values: Any, name: str) -> Any:
    return values.get(name) if isinstance(values, Mapping) else getattr(values, name)


def _lists(values: Mapping[str, Any]) -> list[str]:
    found = []
    for name in ("parts", "keep"):
        listed = values.get(name, ())
        listed = (listed,) if isinstance(listed, str) else listed
        if not isinstance(listed, list | tuple) or not all(isinstance(one, str) for one in listed):
            found.append(f"quantize.{name} is {values[name]!r}, expected names")
        elif name == "parts" and "parts" in values and (not listed or not set(listed) <= set(PARTS)):
            found.append(f"quantize.parts is {', '.join(listed) or 'empty'}, expected some of {', '.join(PARTS)}")
    return found
