"""Columns of a table of sentences: CSV, TSV or Parquet, by the names of its columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quiltwork.core.errors import BadInputError
from quiltwork.core.registry import missing_package
from quiltwork.core.rows import csv_blocks

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")


@dataclass(frozen=True)
class Columns:
    """Some columns of a table, as text.

    texts : by column name, one for each row. places : what error messages call each row (``pairs.csv: line 7``).
    """

    texts: dict[str, tuple[str, ...]]
    places: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.places)


def read_columns(path: Path, names: Sequence[str]) -> Columns:
    """The named columns of a table; which kind it is says its suffix, one of ``SUFFIXES``.

    CSV has commas and CSV's quotes, TSV tabs and none. The first line names the columns. Raises BadInputError naming
    file, line and column: a file that cannot be read, is not UTF-8, or has no such column.
    """
    plain = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    if plain.suffix.lower() in _DELIMITERS:
        return _texts(path, list(dict.fromkeys(names)), _DELIMITERS[plain.suffix.lower()])
    if path.suffix.lower() == ".parquet":
        return _parquet(path, list(dict.fromkeys(names)))
    raise BadInputError(
        "is no table that is known by its suffix", where=str(path), hint=f"one of {', '.join(SUFFIXES)}"
    )


def _texts(path: Path, names: list[str], delimiter: str) -> Columns:
    blocks = list(csv_blocks(path, names, delimiter=delimiter))
    texts = {name: tuple(text for block in blocks for text in block.columns[name]) for name in names}
    return Columns(texts, tuple(f"{path}: line {number}" for block in blocks for number in block.numbers))


def _parquet(path: Path, names: list[str]) -> Columns:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise missing_package(error, where=str(path)) from error
    try:
        with parquet.ParquetFile(path) as file:
            held = file.schema_arrow.names
            if absent := next((name for name in names if name not in held), None):
                raise BadInputError(f"has no column {absent!r}", where=str(path), hint=f"it has {', '.join(held[:20])}")
            table = file.read(columns=names)
    except OSError as error:
        raise BadInputError(f"cannot be read: {error.strerror or error}", where=str(path)) from error
    except pa.ArrowException as error:
        raise BadInputError(f"is not Parquet: {str(error).splitlines()[0]}", where=str(path)) from error
    texts = {name: tuple(_cells(table.column(name).to_pylist(), path, name)) for name in names}
    return Columns(texts, tuple(f"{path}: row {at + 1}" for at in range(table.num_rows)))


def _cells(values: Sequence[Any], path: Path, name: str) -> Iterator[str]:
    for at, value in enumerate(values):
        if value is None or isinstance(value, bytes | list | dict):
            what = "nothing" if value is None else "no text and no number"
            raise BadInputError(f"{name}: there is {what}", where=f"{path}: row {at + 1}")
        yield str(value)
