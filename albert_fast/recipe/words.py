"""Recipe: which engine to build, in the words of a TOML file, checked whole before any work begins."""

from __future__ import annotations

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from albert_fast.attention import ATTENTION
from albert_fast.batch import ShapeProfile, parse_profiles
from albert_fast.engine import FORMATS, Format
from albert_fast.engine.table import positions_refusal
from albert_fast.heads import HEADS, asked_refusal
from albert_fast.precision import PRECISIONS, Precision
from albert_fast.recipe import quantizing
from albert_fast.recipe.quantizing import Quantize
from albert_fast.recipe.support import attention_refusal, refusal

CHOICES: Mapping[str, list[str]] = {  # of fields that name one of several things
    "head": list(HEADS),
    "format": [name for name, row in FORMATS.items() if row.kind == "file"],
    "precision": list(PRECISIONS),
    "attention": ["auto", *ATTENTION],
    "positions": ["all", "asked"],
}
_REFUSED = "this recipe cannot be followed: "


@dataclass(frozen=True)
class Recipe:
    """Which engine to build. Field by field what a recipe's TOML holds.

    Attributes:
        model: a checkpoint folder, a hub name, or the embedded ``"albert-fast/wordnet"``.
        head: row of ``HEADS``; None takes what the checkpoint was saved as.
        format: row of ``FORMATS`` that is written to a file.
        precision: row of ``PRECISIONS``.
        profile: the shapes, in TOML ``"1x1:8x128:32x512"``; several, with commas between them, for formats whose files
            hold several. None means up to 32 texts of any length the model takes.
        attention: row of ``ATTENTION``, or ``"auto"``.
        positions: ``"asked"``: scores over the vocabulary at asked positions alone, see ``Batch.asked``; ``"all"``: at
            every token.
        device: that the engine runs on: ``"cpu"`` or ``"cuda"``; ``"auto"`` is the first that the format runs on.
        output: the engine file, relative to the working directory; None names it after the model.
        revision: of a hub model: branch, tag or commit.
        options: of the format, as its row in ``FORMATS`` names them.
        keep_float32: names or patterns of tensors that a 16-bit precision must not round, see ``precision.prepare``.
        overflow_text: a file of text on which tensors are looked for that float16 cannot hold, beside the fixed batches
            that every engine is measured on; they stay in float32, and the manifest names them.
        quantize: for a precision that quantizes: scales or calibration text, and what of the model.
    Raises:
        ValueError: every wrong field, in one message.
    """

    model: str
    head: str | None = None
    format: str = "aotinductor"
    precision: str = "fp32"
    profile: ShapeProfile | tuple[ShapeProfile, ...] | None = None
    attention: str = "auto"
    positions: str = "all"
    device: str = "auto"
    output: Path | None = None
    revision: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    keep_float32: tuple[str, ...] = ()
    overflow_text: Path | None = None
    quantize: Quantize | None = None

    def __post_init__(self) -> None:
        for name, value in _converted(vars(self)).items():
            object.__setattr__(self, name, value)
        problems = _problems(vars(self))
        if problems:
            raise ValueError(_REFUSED + "; ".join(problems))

    @classmethod
    def read(cls, path: str | os.PathLike[str], **changes: Any) -> Recipe:
        """Read a TOML file.

        Args:
            changes: fields that take the place of the file's; of ``quantize``, a table, only the keys that it has.
        Raises:
            ValueError: no such file, not TOML, or not a recipe; all problems in one message that names the file.
        """
        try:
            with open(path, "rb") as stream:
                values = tomllib.load(stream)
        except OSError as error:
            raise ValueError(f"the recipe {os.fspath(path)} cannot be read: {error.strerror}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"the recipe {os.fspath(path)} is not TOML: {error}") from None
        if isinstance(values.get("quantize"), dict) and "quantize" in changes:
            changes["quantize"] = {**values["quantize"], **changes["quantize"]}
        try:
            return cls.from_dict({**values, **changes})
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Build from the content of a TOML file.

        Raises:
            ValueError: unknown or missing keys and wrong values, all in one message.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        problems = []
        for key in values:
            if key not in names:
                near = difflib.get_close_matches(key, names, n=1)
                meant = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(names)}"
                problems.append(f"unknown key {key!r}, {meant}")
        if "model" not in values:
            problems.append("the key 'model' is missing; name a folder, a hub name or 'albert-fast/wordnet'")
        known = {name: values[name] for name in names if name in values}
        defaults = {f.name: f.default for f in dataclasses.fields(cls) if f.default is not dataclasses.MISSING}
        problems += _problems(_converted({"model": "-", "options": {}, **defaults, **known}))
        if problems:
            raise ValueError(_REFUSED + "; ".join(problems))
        return cls(**known)

    def replace(self, **changes: Any) -> Recipe:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    @property
    def profiles(self) -> tuple[ShapeProfile, ...] | None:
        """The profiles, where any are named."""
        return (self.profile,) if isinstance(self.profile, ShapeProfile) else self.profile

    @property
    def device_name(self) -> str:
        """The device, with ``"auto"`` resolved."""
        return FORMATS[self.format].devices[0] if self.device == "auto" else self.device

    def output_for(self, head: str) -> Path:
        """The engine file to write: ``output``, or a name in the working directory that says what the engine is."""
        if self.output is not None:
            return self.output
        model = Path(self.model).resolve().name
        return Path(f"{model}-{head}-{self.format}-{self.precision}{FORMATS[self.format].suffix}")


def _converted(values: Mapping[str, Any]) -> dict[str, Any]:
    """TOML's strings as the types of the fields, where they can be; what cannot stays for ``_problems`` to name."""
    made = dict(values)
    if isinstance(made["output"], str) and made["output"]:
        made["output"] = Path(made["output"])
    if isinstance(made["profile"], str):
        try:
            made["profile"] = parse_profiles(made["profile"])
        except ValueError:
            pass  # _problems parses it again, for the message
    if isinstance(made["profile"], tuple) and len(made["profile"]) == 1:
        made["profile"] = made["profile"][0]
    if isinstance(made["overflow_text"], str):
        made["overflow_text"] = Path(made["overflow_text"])
    if isinstance(made["keep_float32"], str):
        made["keep_float32"] = (made["keep_float32"],)
    elif isinstance(made["keep_float32"], list):
        made["keep_float32"] = tuple(made["keep_float32"])
    made["quantize"] = quantizing.converted(made["quantize"])
    return made


def _problems(values: Mapping[str, Any]) -> list[str]:
    """Everything wrong with a recipe's fields, one sentence each."""
    found = []
    for name in ("model", "device"):
        if not isinstance(values[name], str) or not values[name].strip():
            found.append(f"{name} is {values[name]!r}, expected a name")
    for name in ("head", "revision"):
        if values[name] is not None and not isinstance(values[name], str):
            found.append(f"{name} is {values[name]!r}, expected a name")
    for name, choices in CHOICES.items():
        if values[name] not in choices and not (name == "head" and values[name] is None):
            near = difflib.get_close_matches(str(values[name]), choices, n=1)
            meant = f" (did you mean {near[0]!r}?)" if near else ""
            found.append(f"{name} is {values[name]!r}, expected one of {', '.join(choices)}{meant}")
    row = FORMATS.get(values["format"]) if isinstance(values["format"], str) else None
    if row is not None and isinstance(values["device"], str):
        found += _device_problems(row, values["device"], values["precision"])
    if row is not None:
        found += _option_problems(row, values["options"])
    found += _profile_problems(row, values["profile"])
    found += _half_problems(values)
    found += quantizing.problems(values["quantize"])
    found += quantizing.fitting(_known(values["precision"]), values["quantize"], values["attention"])
    if row is not None:
        found += _graph_problems(row, values["quantize"], values["attention"])
    if values["positions"] == "asked":
        found += _asked_problems(row, values["head"])
    output = values["output"]
    if not isinstance(output, Path | None):
        found.append(f"output is {output!r}, expected the name of a file")
    elif row is not None and output is not None and output.suffix != row.suffix:
        found.append(f"output is {str(output)!r}, expected a name that ends in {row.suffix} for {row.name}")
    return found


def _device_problems(row: Format, device: str, precision: Any) -> list[str]:
    """Why a format has nothing for a device, or for a precision on it."""
    device = row.devices[0] if device == "auto" else device
    if device.partition(":")[0] not in row.devices:
        return [f"device is {device!r}, {row.name} runs on {', '.join(row.devices)}"]
    known = _known(precision)
    reason = None if known is None else refusal(row, known, device)
    return [] if reason is None else [f"precision is {precision!r}, but {reason}"]


def _graph_problems(row: Format, words: Any, attention: Any) -> list[str]:
    """Why a format does not take the graph that these words make."""
    if not isinstance(attention, str) or not isinstance(words, Quantize | None):
        return []
    reason = attention_refusal(row, quantizing.attention_of(words, attention))
    found = [] if reason is None else [f"attention is {attention!r}, but {reason}"]
    if words is not None and not row.keeps_sites and (words.keep or words.max_drop is not None):
        found.append(
            f"quantize.keep and quantize.max_drop leave parts of the encoder unquantized, and {row.name} takes it in "
            "int8 as a whole; leave them out, or choose the format aotinductor"
        )
    return found


def _asked_problems(row: Format | None, head: Any) -> list[str]:
    """Why there is no engine that answers at asked positions alone, as far as a recipe tells."""
    reasons = [
        asked_refusal(head) if isinstance(head, str) and head in HEADS else None,
        positions_refusal(row) if row is not None else None,
    ]
    return [f"positions is 'asked', but {reason}" for reason in reasons if reason is not None]


def _known(precision: Any) -> Precision | None:
    """The row of a name that has one."""
    return PRECISIONS.get(precision) if isinstance(precision, str) else None


def _half_problems(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with the words on 16 bits."""
    found = []
    names, text = values["keep_float32"], values["overflow_text"]
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        found.append(f"keep_float32 is {names!r}, expected names of tensors")
    if not isinstance(text, Path | None):
        found.append(f"overflow_text is {text!r}, expected the name of a file")
    elif text is not None and not text.is_file():
        found.append(f"overflow_text is {str(text)!r}, and there is no such file")
    if values["precision"] == "fp32" and (names or text):
        found.append("keep_float32 and overflow_text are for precisions in 16 bits; precision is fp32")
    return found


def _option_problems(row: Format, options: Any) -> list[str]:
    if not isinstance(options, Mapping):
        return [f"options is {options!r}, expected a table of names and values"]
    unknown = [str(name) for name in options if name not in row.options]
    offered = f"takes {', '.join(row.options)}" if row.options else "takes none"
    return [f"unknown options {', '.join(unknown)}; {row.name} {offered}"] if unknown else []


def _profile_problems(row: Format | None, profile: Any) -> list[str]:
    if isinstance(profile, str):
        try:
            parse_profiles(profile)
        except ValueError as error:
            return [f"profile: {error}"]
    several = isinstance(profile, tuple) and bool(profile) and all(isinstance(p, ShapeProfile) for p in profile)
    if not several and not isinstance(profile, ShapeProfile | None):
        return [f"profile is {profile!r}, expected text such as '1x1:8x128:32x512'"]
    if several and row is not None and not row.many_profiles:
        holders = ", ".join(name for name, one in FORMATS.items() if one.many_profiles)
        return [
            f"there are {len(profile)} profiles, a file of {row.name} holds one: name one that spans them all"
            + (f", or use a format that holds several: {holders}" if holders else "")
        ]
    return []
