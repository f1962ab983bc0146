"""Write the text that INT8 scales are calibrated on: glosses of WordNet's dev split, one a line.

    python tools/calibration_text.py

Nothing of the test split is in it, nor of the text the embedded model was trained on: scales that fit the training
text, or the text a result is measured on, would prove nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from wordnet import DEFAULT_FOLDER, Synset, gloss_digest, read_synsets

from albert_fast.files import replacing

CALIBRATION = Path(__file__).resolve().parents[1] / "albert_fast" / "embedded" / "wordnet" / "calibration.txt"
GLOSSES = 1024


def calibration_glosses(synsets: Iterable[Synset], count: int) -> list[str]:
    """``count`` different glosses of the dev split in the order of their digests: the first few are a fair sample too.

    Raises:
        ValueError: the dev split has fewer.
    """
    by_digest = {gloss_digest(s.gloss): s.gloss for s in synsets if s.split == "dev"}
    if len(by_digest) < count:
        raise ValueError(f"the dev split has {len(by_digest)} different glosses, {count} are wanted; ask for fewer")
    return [by_digest[digest] for digest in sorted(by_digest)[:count]]


def main(arguments: list[str] | None = None) -> None:
    """Write the file, whole or not at all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wordnet", type=Path, default=DEFAULT_FOLDER, help="folder with data.noun ... (wordnet-base)")
    parser.add_argument("-o", "--output", type=Path, default=CALIBRATION, help="default: %(default)s")
    parser.add_argument("--glosses", type=int, default=GLOSSES, help="how many; default: %(default)s")
    options = parser.parse_args(arguments)
    glosses = calibration_glosses(read_synsets(options.wordnet), options.glosses)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(options.output) as temporary:
        temporary.write_text("".join(f"{gloss}\n" for gloss in glosses), encoding="utf-8")


if __name__ == "__main__":
    main()
