"""Rows of text files that people hand in: each with the place to name when it is wrong."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from quiltwork.core.errors import BadInputError

BLOCK = 1 << 11
"""Rows at a time: few enough to stay in the cache of a core, which halves the time."""


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """Lines that are not blank, each with where it stands; those of a ``.gz`` unpacked. Raises BadInputError."""
    for line, number in _numbered(path):
        yield line, f"{path}: line {number}"


def csv_rows(path: Path, needed: Sequence[str]) -> Iterator[tuple[dict[str, str], str]]:
    """Rows by column name, each with where it stands. Columns beyond ``needed`` are ignored.

    Raises BadInputError naming the file, the line and the column.
    """
    table = _Table(path, ",")
    table.require(needed)
    for row, number in table.rows():
        values = {name: value.strip() for name, value in zip(table.header, row, strict=True)}
        yield values, f"{path}: line {number}"


@dataclass(frozen=True)
class Block:
    """Some consecutive rows of a table, by column."""

    columns: dict[str, tuple[str, ...]]
    numbers: tuple[int, ...]
    """The line that each row ends on."""


def csv_header(path: Path, *, delimiter: str = ",") -> tuple[str, ...]:
    """The names of a table's columns. Raises BadInputError."""
    return tuple(_Table(path, delimiter).header)


def csv_blocks(path: Path, names: Sequence[str], *, delimiter: str = ",", size: int = BLOCK) -> Iterator[Block]:
    """The named columns of a table, up to ``size`` rows at a time: for tables that are larger than memory.

    delimiter : a comma, with CSV's quotes, or another character, with none. Raises BadInputError naming the file, the
    line and the column.
    """
    table = _Table(path, delimiter)
    table.require(names)
    taken = [(name, table.header.index(name)) for name in names]
    rows: list[list[str]] = []
    numbers: list[int] = []

    def block() -> Block:
        columns = tuple(zip(*rows, strict=True))
        return Block({name: columns[index] for name, index in taken}, tuple(numbers))

    for row, number in table.rows():
        rows.append(row)
        numbers.append(number)
        if len(rows) == size:
            yield block()
            rows.clear()
            numbers.clear()
    if rows:
        yield block()


class _Table:
    """A table whose first line has been read."""

    def __init__(self, path: Path, delimiter: str) -> None:
        self._path, self._number = path, 0
        if delimiter == ",":
            self._reader = csv.reader(self._texts(), strict=True)
        else:
            self._reader = csv.reader(self._texts(), strict=True, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        self.header = [name.strip() for name in next(self._checked(), [])]

    def require(self, names: Sequence[str]) -> None:
        for name in names:
            if self.header.count(name) != 1:
                what = f"has no column {name!r}" if name not in self.header else f"has more than one column {name!r}"
                raise BadInputError(what, where=self._where())

    def rows(self) -> Iterator[tuple[list[str], int]]:
        width = len(self.header)
        for row in self._checked():
            if len(row) != width:
                raise BadInputError(f"has {len(row)} fields instead of {width}", where=self._where())
            yield row, self._number

    def _checked(self) -> Iterator[list[str]]:
        try:
            yield from self._reader
        except csv.Error as error:
            raise BadInputError(f"is not CSV: {error}", where=self._where()) from error

    def _texts(self) -> Iterator[str]:
        for line, number in _numbered(self._path):
            self._number = number
            yield line

    def _where(self) -> str:
        return f"{self._path}: line {self._number}" if self._number else str(self._path)


def _numbered(path: Path) -> Iterator[tuple[str, int]]:
    number = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, 1):
                if not line.isspace():
                    yield line, number
    except UnicodeDecodeError as error:
        raise BadInputError("is not UTF-8", where=f"{path}: line {number + 1}") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadInputError(f"is not whole gzip: {error}", where=f"{path}: line {number + 1}") from error
    except OSError as error:
        raise BadInputError(f"cannot be read: {error.strerror}", where=str(path)) from error


def _open(path: Path) -> TextIO:
    if path.suffix.lower() == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")
