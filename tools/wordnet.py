"""WordNet 3.0 as a labelled data set: one synset is one example, its lexicographer file is its label.

The four ``data.*`` files (wndb(5WN)) hold one synset a line. Debian ships them as ``wordnet-base``. The text of the
gloss alone decides the split, so two synsets with the same gloss never stand on both sides of it.
"""

from __future__ import annotations

import hashlib
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

DEFAULT_FOLDER = Path("/usr/share/wordnet")
PARTS_OF_SPEECH = ("noun", "verb", "adj", "adv")
SPLITS = ("train", "dev", "test")
DEV_PER_MILLE = 20
TEST_PER_MILLE = 30

# lexnames(5WN): the place in this tuple is the number of the lexicographer file.
LEXNAMES = (
    "adj.all",
    "adj.pert",
    "adv.all",
    "noun.Tops",
    "noun.act",
    "noun.animal",
    "noun.artifact",
    "noun.attribute",
    "noun.body",
    "noun.cognition",
    "noun.communication",
    "noun.event",
    "noun.feeling",
    "noun.food",
    "noun.group",
    "noun.location",
    "noun.motive",
    "noun.object",
    "noun.person",
    "noun.phenomenon",
    "noun.plant",
    "noun.possession",
    "noun.process",
    "noun.quantity",
    "noun.relation",
    "noun.shape",
    "noun.state",
    "noun.substance",
    "noun.time",
    "verb.body",
    "verb.change",
    "verb.cognition",
    "verb.communication",
    "verb.competition",
    "verb.consumption",
    "verb.contact",
    "verb.creation",
    "verb.emotion",
    "verb.motion",
    "verb.perception",
    "verb.possession",
    "verb.social",
    "verb.stative",
    "verb.weather",
    "adj.ppl",
)

_SYNTACTIC_MARKER = re.compile(r"\((?:a|p|ip)\)$")
_LICENCE_LINE = re.compile(r"^ +\d+ ?")


@dataclass(frozen=True)
class Synset:
    """One sense: its lexicographer file's number, its lemmas with spaces for underscores, and its gloss."""

    label: int
    lemmas: tuple[str, ...]
    gloss: str

    @property
    def lexname(self) -> str:
        return LEXNAMES[self.label]

    @property
    def split(self) -> str:
        return split_of(self.gloss)


def gloss_digest(gloss: str) -> bytes:
    """SHA-256 of the gloss; case and white space do not count, so texts that are equal as tokens are equal here."""
    return hashlib.sha256(" ".join(gloss.lower().split()).encode()).digest()


def split_of(gloss: str) -> str:
    """``"train"``, ``"dev"`` (2 %) or ``"test"`` (3 %), from the digest of the gloss: the same on every machine."""
    place = int.from_bytes(gloss_digest(gloss)[:8], "big") % 1000
    if place < TEST_PER_MILLE:
        return "test"
    return "dev" if place < TEST_PER_MILLE + DEV_PER_MILLE else "train"


def parse_line(line: str, where: str) -> Synset:
    """One line of a ``data.*`` file; ValueError names ``where`` when it is not one."""
    head, bar, gloss = line.partition(" | ")
    fields = head.split(" ")
    try:
        label, count = int(fields[1]), int(fields[3], 16)
        words = fields[4 : 4 + 2 * count : 2]
        if not bar or not count or len(words) != count or not 0 <= label < len(LEXNAMES):
            raise ValueError("fields out of range")
    except (IndexError, ValueError) as error:
        raise ValueError(
            f"{where}: expected a synset as in wndb(5WN) "
            f"('offset lex_filenum ss_type w_cnt word lex_id ... | gloss'), found {line[:60]!r}"
        ) from error
    lemmas = tuple(_SYNTACTIC_MARKER.sub("", word).replace("_", " ") for word in words)
    return Synset(label, lemmas, " ".join(gloss.split()))


def read_synsets(folder: str | Path = DEFAULT_FOLDER) -> list[Synset]:
    """Every synset of WordNet, in the order of the files noun, verb, adj, adv.

    Raises:
        FileNotFoundError: a ``data.*`` file is missing; says which and where to get it.
        ValueError: a line is not a synset.
    """
    folder = Path(folder)
    paths = [folder / f"data.{part}" for part in PARTS_OF_SPEECH]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {', '.join(missing)} of WordNet 3.0. Install the Debian package wordnet-base "
            "(apt install wordnet-base), or unpack WordNet-3.0.tar.gz and name its dict/ folder with --wordnet"
        )
    synsets = []
    for path in paths:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if line and not line.startswith("  "):  # the licence stands on lines that begin with two spaces
                synsets.append(parse_line(line, f"{path}, line {number}"))
    return synsets


def read_licence(folder: str | Path = DEFAULT_FOLDER) -> str:
    """The licence that heads ``data.noun``, without its line numbers."""
    lines = []
    with open(Path(folder) / "data.noun", encoding="utf-8") as file:
        for line in file:
            if not line.startswith("  "):
                break
            lines.append(_LICENCE_LINE.sub("", line).rstrip())
    return textwrap.dedent("\n".join(lines)) + "\n"
