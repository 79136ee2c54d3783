"""Texts with their classes: a table by its columns, lines of ``label ||| text``, or a file for each class."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from quiltwork.core.errors import BadInputError
from quiltwork.moe.text_files import read_lines, read_text

_BARS = " ||| "
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_TEXT_NAMES = ("text", "sentence", "review", "tweet")
_LABEL_NAMES = ("label", "class", "sentiment", "category")

Row = tuple[str, str]


def read_labelled(paths: Sequence[str], encoding: str, text: str, label: str) -> list[Row]:
    """(text, label) of every row. Which kind it is say the number of files and the suffix.

    text, label : a table's columns, each a name, or a number from 1 where there is no header; found out where empty.
    Raises as ``read_text``, and BadInputError naming file, line and column.
    """
    if len(paths) > 1:
        return [(line, Path(path).name) for path in paths for line in read_lines(path, encoding)]
    path = paths[0]
    suffixes = [suffix.lower() for suffix in Path(path).suffixes if suffix.lower() != ".gz"]
    if suffixes and suffixes[-1] in _DELIMITERS:
        return _table(path, encoding, _DELIMITERS[suffixes[-1]], text, label)
    return [_barred(line, f"{path}: line {number}") for number, line in enumerate(read_lines(path, encoding), 1)]


def _barred(line: str, where: str) -> Row:
    if not line.strip():
        return "", ""
    label, bars, text = line.partition(_BARS)
    if not bars:
        hint = "tables are .csv or .tsv; or give a file of texts for each class"
        raise BadInputError(f"is not `label{_BARS}text`", where=where, hint=hint)
    return text, label.strip()


def _table(path: str, encoding: str, delimiter: str, text: str, label: str) -> list[Row]:
    file = io.StringIO(read_text(path, encoding), newline="")
    reader = csv.reader(file) if delimiter == "," else csv.reader(file, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    try:
        rows = [(row, reader.line_num) for row in reader if row]
    except csv.Error as error:
        raise BadInputError(f"is no table: {error}", where=f"{path}: line {reader.line_num}") from error
    first = rows[0][0]
    at = (
        _column(first, text, _TEXT_NAMES, path, "text_column"),
        _column(first, label, _LABEL_NAMES, path, "label_column"),
    )
    places = (at[0][0], at[1][0])
    headed = at[0][1] or at[1][1]
    for row, number in rows:
        if len(row) != len(first):
            what = f"has {len(row)} columns, and the first line has {len(first)}"
            raise BadInputError(what, where=f"{path}: line {number}")
    if None in places:
        places = _guessed([row for row, _ in rows], path)
    text_at, label_at = places
    assert text_at is not None
    assert label_at is not None
    return [(row[text_at], row[label_at].strip()) for row, _ in rows[headed:]]


def _column(first: Sequence[str], asked: str, usual: Sequence[str], path: str, setting: str) -> tuple[int | None, bool]:
    """Which column it is, if that is known, and whether the first line names columns."""
    names = [name.strip() for name in first]
    if asked.isascii() and asked.isdigit() and 1 <= int(asked[:9]) <= len(names):
        return int(asked) - 1, False  # before names: a file without a header may well begin with a cell "1"
    if asked in names:
        return names.index(asked), True
    if asked:
        has = ", ".join(name[:20] for name in names[:12])
        raise BadInputError(f"has no column {asked[:40]!r}", where=f"{path}: {setting}", hint=f"has {has}")
    found = next((names.index(name) for name in usual if name in names), None)
    return found, found is not None


def _guessed(rows: Sequence[Sequence[str]], path: str) -> tuple[int, int]:
    """Of two columns without names that with fewer values is the label."""
    if len(rows[0]) != 2:
        hint = "set `text_column` and `label_column`: names, or numbers from 1"
        raise BadInputError("which columns have texts and labels is not said", where=path, hint=hint)
    values = [len({row[at] for row in rows}) for at in (0, 1)]
    return (1, 0) if values[0] < values[1] else (0, 1)
