"""Whether weights packed for oneDNN multiply faster on this machine: measured once, then remembered for this user.

``<cache folder>/linear.json`` holds the ratios, by the machine and the shapes that they were measured for. Who deletes
it has them measured anew.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

import torch

from albert_fast import files
from albert_fast.engine import cpu_prepack, machine
from albert_fast.engine.cpu_prepack import LinearWeight

logger = logging.getLogger(__name__)

FILE = "linear.json"


def pays(weights: Sequence[LinearWeight], tokens: int, dtype: torch.dtype) -> bool:
    """Whether to pack these weights, by ``cpu_prepack.measure_speedup`` now or before.

    Args:
        weights: as ``cpu_prepack.packable_weights`` finds them; none means no.
        tokens: rows of the typical call.
    """
    if not weights or not cpu_prepack.is_available():
        return False
    known, name = remembered(), _name(weights, tokens, dtype)
    if name not in known:
        known[name] = round(cpu_prepack.measure_speedup(list(weights), tokens, dtype), 3)
        _remember(known)
    return known[name] >= cpu_prepack.PACKED_PAYS_FROM


def remembered() -> dict[str, float]:
    """What was measured on this machine, by name; a file that is not as we write it counts as none."""
    try:
        found = json.loads((files.cache_folder() / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(name): float(ratio) for name, ratio in found.items() if isinstance(ratio, int | float)}


def here() -> dict[str, float]:
    """What was measured with this CPU, torch and number of threads: times as fast packed, the last of each dtype."""
    found = {}
    for name, ratio in remembered().items():
        if name.startswith(_conditions()):
            found[name.removeprefix(_conditions()).partition(",")[0]] = ratio
    return found


def _remember(ratios: dict[str, float]) -> None:
    """Write them; where the folder cannot be written to, the next process measures again."""
    try:
        with files.replacing(files.cache_folder() / FILE) as temporary:
            temporary.write_text(json.dumps(ratios, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        logger.info("what was measured of linear maps is not remembered: %s", error)


def _name(weights: Sequence[LinearWeight], tokens: int, dtype: torch.dtype) -> str:
    """All that the ratio depends on, in words."""
    shapes = sorted({f"{one.out_features}x{one.in_features}" for one in weights})
    rows = min(tokens, cpu_prepack.MAX_TOKENS)
    return f"{_conditions()}{str(dtype).removeprefix('torch.')}, {rows} tokens, {', '.join(shapes)}"


def _conditions() -> str:
    return f"{machine.cpu_name()}, torch {torch.__version__}, {torch.get_num_threads()} threads, "
