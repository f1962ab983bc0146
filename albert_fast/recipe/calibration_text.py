"""Calibration text, from wherever it lies: a list, a file of lines, CSV, TSV, JSON lines or Parquet, a dataset.

What is taken of it does not depend on the order in which it lies there: texts that stand twice count once, and of too
many those with the smallest digests are taken, on every machine and in every release the same.
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from albert_fast._optional import require
from albert_fast.pipelines.texts import Text
from albert_fast.recipe.verifying import MOST_TEXTS, read_texts

Rows = Iterator[Mapping[str, Any]]


@dataclass(frozen=True)
class _Table:
    """Names of the columns, and the rows with those columns of them that are wanted."""

    columns: Sequence[str]
    rows: Callable[[Sequence[str]], Rows]


def read_calibration_text(
    texts: Any, *, column: str | None = None, pair_column: str | None = None
) -> tuple[list[Text], str]:
    """The texts, at most ``MOST_TEXTS`` of them, and what to call where they came from. Blank ones are left out.

    Args:
        texts: a file (a name that ends in .csv, .tsv, .jsonl or .parquet is a table with a ``column``; any other file
            has one text a line, a tab between those of a pair), or an iterable of texts, of pairs of texts, or of rows
            by column, as a dataset of Hugging Face's ``datasets`` is one.
        column: where there are columns, the one with the text; it may be left out where there is one only.
        pair_column: the one with the second text of each pair; where it is blank, the first stands alone.
    Raises:
        ValueError: the file cannot be read or is not of its kind, a column is missing or not text, or there is no text.
        MissingDependencyError: Parquet, and pyarrow is not installed.
    """
    if isinstance(texts, str | os.PathLike):
        name, path = os.fspath(texts), Path(texts)
        reader = _TABLES.get(path.suffix.lower())
        if reader is None:
            if column or pair_column:
                kinds = ", ".join(_TABLES)
                raise ValueError(f"{name} is read line by line and has no columns; tables are files named {kinds}")
            return read_texts(path), path.name
        try:
            found = _of_table(reader(path), name, column, pair_column)
        except OSError as error:
            raise ValueError(f"the calibration text {name} cannot be read: {error.strerror or error}") from None
        except UnicodeDecodeError as error:
            raise ValueError(f"the calibration text {name} is not UTF-8: {error}") from None
        except csv.Error as error:
            raise ValueError(f"the calibration text {name} is not {path.suffix[1:].upper()}: {error}") from None
        return found, path.name
    kind = "iterator" if isinstance(texts, Iterator) else type(texts).__name__
    if hasattr(texts, "itertuples"):  # of pandas: iterating gives the names of its columns
        texts = texts.to_dict("records")
    if isinstance(texts, Mapping):
        raise ValueError(
            f"the calibration text is a {kind} of {', '.join(map(str, texts))}; give one of them, such as "
            f"texts[{next(iter(texts), 'train')!r}]"
        )
    if not isinstance(texts, Iterable):
        raise ValueError(f"the calibration text is a {kind}, expected a file, texts, pairs of texts, or rows by column")
    values = iter(texts)
    first = next(values, None)
    if first is None:
        raise ValueError("there is no calibration text; give some hundred texts such as the engine will answer")
    values = chain([first], values)
    if isinstance(first, Mapping) and not (column is None and "text" in first and set(first) <= {"text", "text_pair"}):
        return _of_table(_Table(list(first), lambda wanted: values), f"the {kind}", column, pair_column), kind
    if column or pair_column:
        raise ValueError(f"the {kind} holds no rows by column but a {type(first).__name__}; leave column out")
    read = (_text(value, f"calibration text {number}") for number, value in enumerate(islice(values, MOST_TEXTS)))
    return [text for text in read if text.text.strip()], kind


def sample(texts: Iterable[Text], most: int) -> list[Text]:
    """The different texts, in the order of their digests; of more than ``most`` the first."""
    digests = {text: hashlib.sha256(f"{text.text}\t{text.text_pair or ''}".encode()).digest() for text in texts}
    return sorted(digests, key=lambda text: digests[text])[:most]


def _text(value: Any, place: str) -> Text:
    """A string, a pair as a tuple or list of two, a ``Text``, or a mapping as pipelines take it."""
    if isinstance(value, Text):
        return value
    if isinstance(value, tuple | list) and len(value) == 2 and all(isinstance(part, str) for part in value):
        return Text(*value)
    return Text.read(value, place)


def _of_table(table: _Table, name: str, column: str | None, pair_column: str | None) -> list[Text]:
    columns = list(table.columns)
    if not columns:
        raise ValueError(f"the calibration text {name} is empty, expected rows by column")
    if column is None:
        if len(columns) != 1:
            raise ValueError(
                f"{name} has the columns {', '.join(columns)}; say which holds the text: column= (--column)"
            )
        column = columns[0]
    wanted = [column] if pair_column is None else [column, pair_column]
    missing = [one for one in wanted if one not in columns]
    if missing:
        near = difflib.get_close_matches(missing[0], columns, n=1)
        meant = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name} has no column {' and '.join(missing)}; it has {', '.join(columns)}{meant}")
    found: list[Text] = []
    number = 0
    for number, row in enumerate(islice(table.rows(wanted), MOST_TEXTS), 1):
        parts = [row.get(one) for one in wanted]
        for one, part in zip(wanted, parts, strict=True):
            if part is not None and not isinstance(part, str):
                raise ValueError(
                    f"row {number} of {name} holds a {type(part).__name__} in the column {one}, expected text"
                )
        first, second = parts[0], parts[1] if len(parts) == 2 else None
        if first and first.strip():
            found.append(Text(first, second if second and second.strip() else None))
    if not found:
        raise ValueError(f"{name} holds no text: the column {column} is empty in all of its {number} rows")
    return found


def _csv(path: Path, delimiter: str = ",", quoting: Any = csv.QUOTE_MINIMAL) -> _Table:
    def reader(stream: Any) -> csv.DictReader[str]:
        return csv.DictReader(stream, delimiter=delimiter, quoting=quoting, strict=True)

    def rows(wanted: Sequence[str]) -> Rows:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            yield from reader(stream)

    with open(path, encoding="utf-8-sig", newline="") as stream:
        return _Table(list(reader(stream).fieldnames or ()), rows)


def _tsv(path: Path) -> _Table:
    """Without quoting: a quotation mark in a TSV file is a letter of the text."""
    return _csv(path, "\t", csv.QUOTE_NONE)


def _json_lines(path: Path) -> _Table:
    def rows(wanted: Sequence[str]) -> Rows:
        with open(path, encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise ValueError(f"line {number} of {path} is not JSON: {error}") from None
                if not isinstance(row, dict):
                    raise ValueError(f"line {number} of {path} is a {type(row).__name__}, expected a JSON object")
                yield row

    return _Table(list(next(rows(()), {})), rows)


def _parquet(path: Path) -> _Table:
    parquet = require("pyarrow.parquet", extra="parquet", purpose=f"read {path.name}")
    arrow = require("pyarrow", extra="parquet", purpose=f"read {path.name}")
    try:
        file = parquet.ParquetFile(path)
    except arrow.ArrowInvalid as error:
        raise ValueError(f"the calibration text {path} is not Parquet: {error}") from None

    def rows(wanted: Sequence[str]) -> Rows:
        for portion in file.iter_batches(columns=list(wanted)):
            yield from portion.to_pylist()

    return _Table(file.schema_arrow.names, rows)


_TABLES: Mapping[str, Callable[[Path], _Table]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".jsonl": _json_lines,
    ".parquet": _parquet,
}
