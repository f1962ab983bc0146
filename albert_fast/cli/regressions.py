"""Two result files of the same benchmark: which rows have become slower beside what was timed in the same run.

Milliseconds of two runs say as much about the hours they were taken at as about the code. So what is compared is a
ratio inside each run: the speed beside the baseline, or beside the machine's own matrix products where there is none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TOLERANCE = 0.10
"""What a ratio may fall by."""
IDENTITY = {"model": "", "engine": "", "batch": 0, "length": 0, "mixed": False, "callers": 1}
"""What makes two rows one measurement, and what it is where a row does not say."""
CONDITIONS = ("processor", "capability", "threads", "cores")
"""What ratios depend on beside the code."""


@dataclass(frozen=True)
class Comparison:
    """What became of the rows of an older run.

    Attributes:
        compared: rows that both runs have.
        slower: a line for each row whose ratio fell by more than the tolerance.
        missing: rows of the older run that the newer one has not, a line each.
        ratio: what was compared, in words.
        notes: why the ratios may differ though the code does not.
    """

    compared: int
    slower: tuple[str, ...]
    missing: tuple[str, ...]
    ratio: str
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """What to print: the slower rows, those that are missing, notes, and a last line that counts."""
        last = f"{len(self.slower)} of {self.compared} rows slower by more than {TOLERANCE:.0%} ({self.ratio})"
        absent = [f"not in this run: {line}" for line in self.missing]
        return [*(f"slower: {line}" for line in self.slower), *absent, *self.notes, last]


def compare(new: Mapping[str, Any], old: Mapping[str, Any], *, tolerance: float = TOLERANCE) -> Comparison:
    """Compare the documents of two runs.

    Raises:
        ValueError: they have different baselines or no row in common.
    """
    baseline = new.get("baseline")
    if baseline != old.get("baseline"):
        raise ValueError(
            f"the runs have different baselines, {baseline!r} now and {old.get('baseline')!r} before; ratios to "
            "different things cannot be compared: time the same engines in the same order"
        )
    key = "speedup" if baseline else "share_of_ceiling"
    words = f"speed by that of {baseline}" if baseline else "share of the machine's matrix products"
    now, before = ({_identity(row): row.get(key) for row in document["rows"]} for document in (new, old))
    both = [one for one in before if now.get(one) is not None and before[one] is not None]
    if not both:
        raise ValueError(
            f"no row of one run is in the other with its {key}; compare runs of the same engines and shapes"
        )
    slower = [
        f"{_words(one)}: {key} {before[one]:.3g} -> {now[one]:.3g} ({now[one] / before[one] - 1:+.0%})"
        for one in both
        if now[one] < before[one] * (1 - tolerance)
    ]
    missing = tuple(_words(one) for one in before if one not in now)
    notes = tuple(
        f"{name} {new[name]} now, {old[name]} before"
        for name in CONDITIONS
        if name in new and name in old and new[name] != old[name]
    )
    return Comparison(len(both), tuple(slower), missing, words, notes)


def read_document(path: str | Path) -> dict[str, Any]:
    """A result file.

    Raises:
        ValueError: it is not there, is no JSON, or has no rows.
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} cannot be read as a result file ({error}); give one that a benchmark wrote") from None
    if not isinstance(document, dict) or not isinstance(document.get("rows"), list):
        raise ValueError(f"{path} has no rows; give a result file that a benchmark of engines wrote")
    return document


def _identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(name, default) for name, default in IDENTITY.items())


def _words(identity: tuple[Any, ...]) -> str:
    """Of a row: ``albert-base-v2 aotinductor int8 8x128 mixed``."""
    one = dict(zip(IDENTITY, identity, strict=True))
    callers = f", {one['callers']} callers" if one["callers"] > 1 else ""
    shape = f"{one['batch']}x{one['length']}" + (" mixed" if one["mixed"] else "")
    return " ".join(part for part in (one["model"], one["engine"], shape) if part) + callers
