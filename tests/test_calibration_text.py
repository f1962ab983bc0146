"""The text in export/calibration: none of what results are measured on, nor of what models are trained on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))

import wordnet
from calibration_text import CALIBRATION, GLOSSES, calibration_glosses, main

HELD_OUT = Path(__file__).parent / "data" / "wordnet_heldout.tsv"


def test_the_calibration_text_is_of_the_dev_split_alone() -> None:
    glosses = CALIBRATION.read_text(encoding="utf-8").splitlines()
    assert len(glosses) == GLOSSES
    assert {wordnet.split_of(gloss) for gloss in glosses} == {"dev"}


def test_no_calibration_gloss_is_held_out() -> None:
    held_out = HELD_OUT.read_text(encoding="utf-8").splitlines()
    digests = {wordnet.gloss_digest(line.split("\t")[2]) for line in held_out}
    assert digests.isdisjoint(map(wordnet.gloss_digest, CALIBRATION.read_text(encoding="utf-8").splitlines()))


def test_no_calibration_gloss_stands_twice_and_all_are_in_the_order_of_their_digests() -> None:
    digests = [wordnet.gloss_digest(gloss) for gloss in CALIBRATION.read_text(encoding="utf-8").splitlines()]
    assert digests == sorted(set(digests))


def test_synsets_with_one_gloss_give_one_line_and_a_short_dev_split_is_refused() -> None:
    synsets = [wordnet.Synset(0, ("word",), f"gloss number {i // 2}") for i in range(400)]
    dev = {s.gloss for s in synsets if s.split == "dev"}
    assert sorted(calibration_glosses(synsets, len(dev))) == sorted(dev)
    with pytest.raises(ValueError, match=f"has {len(dev)} different glosses, 1024 are wanted"):
        calibration_glosses(synsets, 1024)


def test_the_script_writes_one_gloss_a_line(tmp_path: Path) -> None:
    for part in wordnet.PARTS_OF_SPEECH:
        lines = [f"{i:08} 05 n 01 dog 0 000 | {part} number {i}  \n" for i in range(300)]
        (tmp_path / f"data.{part}").write_text("".join(lines), encoding="utf-8")
    main(["--wordnet", str(tmp_path), "--output", str(tmp_path / "new/text.txt"), "--glosses", "8"])
    assert len((tmp_path / "new/text.txt").read_text(encoding="utf-8").splitlines()) == 8
