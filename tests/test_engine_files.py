"""Writing the pair: whoever interrupts it finds the old pair, the new pair, or none, and the next export cleans up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from albert_fast.engine.files import commit, pending, sha256_of
from albert_fast.engine.manifest import manifest_path
from albert_fast.errors import EngineError


def write(target: Path, content: str) -> None:
    with pending(target) as temporary:
        temporary.write_text(content)
        commit(temporary, target, f"manifest of {content}")


def pair(target: Path) -> tuple[str | None, str | None]:
    return tuple(path.read_text() if path.exists() else None for path in (target, manifest_path(target)))  # type: ignore[return-value]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_pair_appears_and_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "e.pt2"
    write(target, "old")
    write(target, "new")
    assert pair(target) == ("new", "manifest of new")
    assert names(tmp_path) == {"e.pt2", "e.pt2.manifest.json"}


def test_an_error_while_writing_leaves_the_old_pair_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "e.pt2"
    write(target, "old")
    with pytest.raises(ZeroDivisionError), pending(target) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert pair(target) == ("old", "manifest of old")
    assert names(tmp_path) == {"e.pt2", "e.pt2.manifest.json"}


MOMENTS = {
    "while writing": ("old", "manifest of old"),
    "before rename 0": ("old", None),  # no manifest: no pair, and load says so
    "before rename 1": ("new", None),
    "after commit": ("new", "manifest of new"),
}
SIGNALS = (signal.SIGTERM, signal.SIGKILL)

KILLED = """
import os, sys
from pathlib import Path
from albert_fast.engine import files

def export(target, moment, number):
    real, renamed = os.replace, 0

    def replace(source, place):
        nonlocal renamed
        if moment == f"before rename {renamed}":
            os.kill(os.getpid(), number)
        real(source, place)
        renamed += 1

    os.replace = replace
    with files.pending(target) as temporary:
        temporary.write_text("new")
        if moment == "while writing":
            os.kill(os.getpid(), number)
        files.commit(temporary, target, "manifest of new")
        if moment == "after commit":
            os.kill(os.getpid(), number)

for folder in sorted(Path(sys.argv[1]).iterdir()):
    moment, number = folder.name.split(",")
    child = os.fork()
    if child == 0:
        export(folder / "e.pt2", moment, int(number))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -int(number)
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for each moment and signal, where an old pair lay and a new export was killed."""
    root = tmp_path_factory.mktemp("killed")
    for moment in MOMENTS:
        for number in SIGNALS:
            (root / f"{moment},{int(number)}").mkdir()
            write(root / f"{moment},{int(number)}" / "e.pt2", "old")
    done = subprocess.run([sys.executable, "-c", KILLED, str(root)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return root


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_export_leaves_the_old_pair_the_new_pair_or_none(killed: Path, moment: str, number: int) -> None:
    folder = killed / f"{moment},{int(number)}"
    assert pair(folder / "e.pt2") == MOMENTS[moment]
    assert len(names(folder) - {"e.pt2", "e.pt2.manifest.json"}) == 1  # the hidden folder of the dead
    write(folder / "e.pt2", "next")
    assert pair(folder / "e.pt2") == ("next", "manifest of next")
    assert names(folder) == {"e.pt2", "e.pt2.manifest.json"}


def test_the_folder_of_a_living_export_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "e.pt2"
    with pending(target) as living:
        living.write_text("first")
        write(target, "second")
        commit(living, target, "manifest of first")
    assert pair(target) == ("first", "manifest of first")


def test_other_files_that_look_alike_are_left_alone(tmp_path: Path) -> None:
    alike, links = {".e.pt2.tmp", ".other.pt2.x.tmp", "e.pt2.tmp"}, {".e.pt2.link.tmp", ".e.pt2.dangling.tmp"}
    for name in alike:
        (tmp_path / name).write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".e.pt2.link.tmp").symlink_to(tmp_path / "elsewhere")
    (tmp_path / ".e.pt2.dangling.tmp").symlink_to(tmp_path / "nowhere")
    write(tmp_path / "e.pt2", "new")
    assert names(tmp_path) == {*alike, *links, "elsewhere", "e.pt2", "e.pt2.manifest.json"}


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    expected = r"cannot be written to .*absent: No such file.*give a folder that exists"
    with pytest.raises(EngineError, match=expected), pending(tmp_path / "absent" / "e.pt2"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(EngineError, match="Permission denied"), pending(tmp_path / "e.pt2"):
        pass


def test_sha256_is_that_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_of(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
