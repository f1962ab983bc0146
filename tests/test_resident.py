"""Memory that a loaded engine file gives back: the constants in its file, of which PyTorch computes with a copy."""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

import pytest
from engine_samples import BUDGET, batch_of, differ, eager_answers, engine_file, small_model

from albert_fast.engine import load, resident

MEGABYTES = 4
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, which tells what is resident")


def resident_kb(part: str) -> list[int]:
    """Of each read-only stretch of mapped files whose path holds ``part``, how much of it is in memory."""
    found, inside = [], False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        words = line.split()
        if "-" in words[0]:
            inside = words[1] == "r--p" and part in line
        elif inside and words[0] == "Rss:":
            found.append(int(words[1]))
    return found


def test_read_only_pages_of_a_mapped_file_are_given_back_and_read_again(tmp_path: Path) -> None:
    path, content = tmp_path / "constants.bin", os.urandom(MEGABYTES << 20)
    path.write_bytes(content)
    with path.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)
    assert mapped[:] == content and resident_kb(path.name) == [MEGABYTES << 10]
    if resident.page_out(path.name) == 0:
        pytest.skip("needs Linux 5.4 or later, which takes the advice")
    assert resident_kb(path.name)[0] < MEGABYTES << 8
    assert mapped[:] == content


def test_files_of_other_names_stay_where_they_are(tmp_path: Path) -> None:
    assert resident.page_out(str(tmp_path / "no-such-file")) == 0


def test_loading_a_package_gives_back_what_is_mapped_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    path, batch, asked = engine_file("aotinductor"), batch_of(3, 9), list[str]()
    monkeypatch.setattr(resident, "page_out", asked.append)
    engine = load(path)
    assert len(asked) == 1 and resident_kb(asked[0]) != []
    monkeypatch.undo()
    resident.page_out(asked[0])
    assert differ(engine(batch), eager_answers(small_model(), batch)) <= BUDGET.max_abs
