"""Rows of text files that people hand in: each with the place to name when it is wrong."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from quiltwork.core.errors import BadInputError


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """Lines that are not blank, each with where it stands. Raises BadInputError."""
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield line, f"{path}: line {number}"
    except UnicodeDecodeError as error:
        raise BadInputError("is not UTF-8", where=f"{path}: line {number + 1}") from error
    except OSError as error:
        raise BadInputError(f"cannot be read: {error.strerror}", where=str(path)) from error


def csv_rows(path: Path, needed: Sequence[str]) -> Iterator[tuple[dict[str, str], str]]:
    """Rows by column name, each with where it stands. Columns beyond ``needed`` are ignored.

    Raises BadInputError naming the file, the line and the column.
    """
    where = str(path)

    def texts() -> Iterator[str]:
        nonlocal where
        for line, at in lines(path):
            where = at
            yield line

    rows = csv.reader(texts(), strict=True)
    try:
        header = [name.strip() for name in next(rows, [])]
        missing = [name for name in needed if name not in header]
        if missing:
            raise BadInputError(f"has no column {missing[0]!r}", where=where)
        for row in rows:
            if len(row) != len(header):
                raise BadInputError(f"has {len(row)} fields instead of {len(header)}", where=where)
            yield {name: value.strip() for name, value in zip(header, row, strict=True)}, where
    except csv.Error as error:
        raise BadInputError(f"is not CSV: {error}", where=where) from error
