"""Calibration text from every kind of file and object, and what is refused of it."""

from __future__ import annotations

import csv
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from albert_fast.errors import MissingDependencyError
from albert_fast.pipelines.texts import Text
from albert_fast.recipe.calibration_text import read_calibration_text, sample

ROWS = [
    ("a small animal", 'kept as "a pet"'),
    ("the act, of moving", "in a quick way"),
    ("who writes\nbooks", "für Ärzte"),
]
TEXTS = [Text(*row) for row in ROWS]
COLUMNS = {"column": "premise", "pair_column": "hypothesis"}
BY_COLUMN = [{"label": i, "premise": first, "hypothesis": second} for i, (first, second) in enumerate(ROWS)]


class Dataset:
    """Rows by column, as a dataset of Hugging Face's ``datasets`` gives them."""

    column_names = ("label", "premise", "hypothesis")

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(BY_COLUMN)

    def __len__(self) -> int:
        return len(BY_COLUMN)


def write(path: Path, rows: list[dict[str, Any]] = BY_COLUMN) -> Path:
    """A table of the kind that the name says."""
    if path.suffix == ".csv":
        with open(path, "w", encoding="utf-8-sig", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".tsv":
        lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
        path.write_text("\n".join("\t".join(line) for line in lines) + "\n", encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("\n\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    else:
        arrow = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'albert-fast[parquet]'")
        pytest.importorskip("pyarrow.parquet").write_table(arrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".CSV", ".jsonl", ".parquet"])
def test_pairs_are_read_from_the_columns_of_a_table(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"glosses{suffix.lower()}").rename(tmp_path / f"glosses{suffix}")
    assert read_calibration_text(path, **COLUMNS) == (TEXTS, f"glosses{suffix}")
    assert read_calibration_text(str(path), column="hypothesis")[0] == [Text(second) for _, second in ROWS]


def test_a_quotation_mark_in_a_tsv_file_is_a_letter(tmp_path: Path) -> None:
    path = tmp_path / "glosses.tsv"
    path.write_text('text\tlabel\n"Where is it?\t3\n5" wide, "open\t4\n', encoding="utf-8")
    assert read_calibration_text(path, column="text")[0] == [Text('"Where is it?'), Text('5" wide, "open')]


def test_a_file_of_lines_has_a_text_or_a_pair_on_each(tmp_path: Path) -> None:
    path = tmp_path / "glosses.txt"
    path.write_text("a small animal\n\n  \nthe act\tof moving\n", encoding="utf-8")
    assert read_calibration_text(path) == ([Text("a small animal"), Text("the act", "of moving")], "glosses.txt")


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (ROWS, "list"),
        ([list(row) for row in ROWS], "list"),
        (TEXTS, "list"),
        ([{"text": first, "text_pair": second} for first, second in ROWS], "list"),
        ((row for row in ROWS), "iterator"),
    ],
)
def test_pairs_are_taken_in_every_shape_that_they_have_in_python(texts: Any, kind: str) -> None:
    assert read_calibration_text(texts) == (TEXTS, kind)


def test_a_dataset_is_read_by_its_columns() -> None:
    assert read_calibration_text(Dataset(), **COLUMNS) == (TEXTS, "Dataset")
    assert read_calibration_text(iter(Dataset()), column="premise")[0] == [Text(first) for first, _ in ROWS]


def test_a_data_frame_is_read_by_its_rows_and_not_as_the_names_of_its_columns() -> None:
    class DataFrame:
        """What of pandas is used."""

        def itertuples(self) -> None: ...

        def to_dict(self, orient: str) -> list[dict[str, Any]]:
            assert orient == "records"
            return BY_COLUMN

        def __iter__(self) -> Iterator[str]:
            return iter(("label", "premise", "hypothesis"))

    assert read_calibration_text(DataFrame(), **COLUMNS) == (TEXTS, "DataFrame")
    with pytest.raises(ValueError, match="has the columns label, premise, hypothesis; say which"):
        read_calibration_text(DataFrame())


def test_the_only_column_need_not_be_named(tmp_path: Path) -> None:
    path = write(tmp_path / "one.csv", [{"sentence": "a"}, {"sentence": "b"}])
    assert read_calibration_text(path)[0] == [Text("a"), Text("b")]
    assert read_calibration_text([{"sentence": "a"}, {"sentence": "b"}])[0] == [Text("a"), Text("b")]


def test_blank_texts_are_left_out_and_a_blank_second_text_leaves_the_first_alone(tmp_path: Path) -> None:
    rows = [{"a": "one", "b": ""}, {"a": "", "b": "two"}, {"a": None, "b": None}, {"a": " ", "b": "x"}]
    rows += [{"a": "three", "b": "four"}, {"a": "five", "b": None}]
    expected = [Text("one"), Text("three", "four"), Text("five")]
    for texts in (
        rows,
        write(tmp_path / "t.jsonl", rows),
        write(tmp_path / "t.parquet", rows),
        write(tmp_path / "t.csv", rows),
    ):
        assert read_calibration_text(texts, column="a", pair_column="b")[0] == expected
    assert read_calibration_text(["one", "", "  "])[0] == [Text("one")]


def test_of_too_many_texts_those_with_the_smallest_digests_are_taken_whatever_their_order() -> None:
    texts = [Text(f"gloss number {i}") for i in range(50)] + [Text("gloss number 7", "with a pair")]
    smallest = sorted(texts, key=lambda t: hashlib.sha256(f"{t.text}\t{t.text_pair or ''}".encode()).digest())
    assert sample(texts, 10) == smallest[:10]
    assert sample([*texts[::-1], *texts], 10) == smallest[:10]
    assert sample(texts * 3, 1000) == smallest


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_column_that_is_not_there_is_told_with_those_that_are(suffix: str, tmp_path: Path) -> None:
    path = write(tmp_path / f"glosses{suffix}", [{"label": "x", "sentence": "a"}])
    with pytest.raises(ValueError, match=r"has no column sentense; it has label, sentence; did you mean 'sentence'\?"):
        read_calibration_text(path, column="sentense")
    with pytest.raises(ValueError, match="has no column one and two; it has label, sentence"):
        read_calibration_text(path, column="one", pair_column="two")
    with pytest.raises(ValueError, match="has the columns label, sentence; say which holds the text"):
        read_calibration_text(path)


def test_a_column_of_no_text_is_refused(tmp_path: Path) -> None:
    empty = [{"label": "x", "sentence": " "}] * 3
    for texts in (empty, write(tmp_path / "empty.csv", empty), write(tmp_path / "empty.parquet", empty)):
        with pytest.raises(ValueError, match="holds no text: the column sentence is empty in all of its 3 rows"):
            read_calibration_text(texts, column="sentence")
    with pytest.raises(ValueError, match="row 1 of the Dataset holds a int in the column label, expected text"):
        read_calibration_text(Dataset(), column="label")


BROKEN: dict[str, tuple[bytes, str]] = {
    "a.csv": (b'text\n"never closed\n', "is not CSV"),
    "b.csv": (b"text\n\xff\xfe\n", "is not UTF-8"),
    "c.jsonl": (b'{"text": "a"}\n{"text": \n', "line 2 of .* is not JSON"),
    "d.jsonl": (b'{"text": "a"}\n["b"]\n', "line 2 of .* is a list, expected a JSON object"),
    "e.parquet": (b"PAR1 no", "is not Parquet"),
    "f.txt": (b" \n\n", "holds no text; expected one a line"),
    "g.txt": (b"a\tb\tc\n", "line 1 of .* has 3 parts"),
    "h.csv": (b"", "is empty, expected rows by column"),
    "i.jsonl": (b"", "is empty, expected rows by column"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'albert-fast[parquet]'")
    content, message = BROKEN[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as refused:
        read_calibration_text(tmp_path / name, column=None if name.endswith(".txt") else "text")
    assert name in str(refused.value)


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_file_that_is_not_there_is_named(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"absent\{suffix} cannot be read"):
        read_calibration_text(tmp_path / f"absent{suffix}", column=None if suffix == ".txt" else "text")


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no calibration text; give some hundred texts"):
        read_calibration_text([])
    with pytest.raises(ValueError, match="is a int, expected a file, texts, pairs of texts, or rows by column"):
        read_calibration_text(3)
    with pytest.raises(ValueError, match=r"is a dict of train, test; give one of them, such as texts\['train'\]"):
        read_calibration_text({"train": Dataset(), "test": Dataset()})
    with pytest.raises(ValueError, match="calibration text 1 is a int, expected text"):
        read_calibration_text(["a", 3])
    with pytest.raises(ValueError, match="calibration text 0 is a tuple, expected text"):
        read_calibration_text([("a", "b", "c")])
    with pytest.raises(ValueError, match="the list holds no rows by column but a str; leave column out"):
        read_calibration_text(["a", "b"], column="text")
    (tmp_path / "lines.txt").write_text("a\n")
    with pytest.raises(ValueError, match=r"is read line by line and has no columns; tables are files named \.csv"):
        read_calibration_text(tmp_path / "lines.txt", column="text")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(
        MissingDependencyError, match=r"needed to read a\.parquet.*pip install 'albert-fast\[parquet\]'"
    ):
        read_calibration_text(tmp_path / "a.parquet", column="text")
