"""JSON to frozen dataclasses, strictly: every value is checked against the field's type, nothing is converted."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")


def parse(text: str) -> Any:
    """``json.loads`` for a file from anywhere.

    Raises:
        ValueError: not JSON, not finite numbers, a key given twice, or nested too deeply.
    """

    def refuse_constant(name: str) -> Any:
        raise ValueError(f"{name} is not a JSON number")

    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} is given twice")
        return found

    try:
        return json.loads(text, parse_constant=refuse_constant, object_pairs_hook=refuse_duplicates)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def to_dataclass(cls: type[T], value: Any, where: str, problems: list[str]) -> T | None:
    """Make a ``cls`` of a JSON object; what does not fit is added to ``problems``, by its path, and gives None."""
    if not isinstance(value, dict):
        problems.append(f"{where} is {_shown(value)}, expected an object")
        return None
    before = len(problems)
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    problems += [f"{where}.{name} is missing" for name in names if name not in value]
    problems += [f"{where}.{name[:60]} is unknown" for name in value if name not in names]
    made = {name: _convert(hints[name], value[name], f"{where}.{name}", problems) for name in names if name in value}
    return cls(**made) if len(problems) == before else None


def _convert(hint: Any, value: Any, where: str, problems: list[str]) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):  # only X | None
        if value is None:
            return None
        hint = next(a for a in arguments if a is not types.NoneType)
        origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return to_dataclass(typing.cast(type[Any], hint), value, where, problems)
    if origin is tuple and isinstance(value, list):
        return tuple(_convert(arguments[0], item, f"{where}[{i}]", problems) for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: _convert(arguments[1], item, f"{where}.{key[:60]}", problems) for key, item in value.items()}
    if hint is Any:
        return value
    if hint is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    problems.append(f"{where} is {_shown(value)}, expected {_EXPECTED.get(origin or hint, str(hint))}")
    return None


_EXPECTED = {
    tuple: "a list",
    dict: "an object",
    int: "a whole number",
    float: "a number",
    str: "a string",
    bool: "true or false",
}


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str) if not isinstance(value, dict | list) else type(value).__name__
    return text if len(text) <= 40 else text[:37] + "..."
