"""Columns written as a table: CSV, TSV or Parquet, by the file's suffix."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from quiltwork.core.errors import BadInputError
from quiltwork.core.registry import missing_package
from quiltwork.core.servable import Json

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".csv", ".tsv", ".parquet")


def check_out(path: Path, suffixes: Sequence[str] = SUFFIXES) -> None:
    """Raise BadInputError where no table can be written to ``path``: before the work is done, not after."""
    if path.suffix.lower() not in suffixes:
        raise BadInputError("is of no kind that is written", where=str(path), hint=f"one of {', '.join(suffixes)}")
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise BadInputError("is a folder" if path.is_dir() else "its folder does not exist", where=str(path))


def write_columns(path: Path, columns: Mapping[str, Sequence[Json]]) -> None:
    """Write columns of equal length; None is an empty cell. Raises BadInputError where the file cannot be written."""
    check_out(path)
    try:
        if path.suffix.lower() == ".parquet":
            _write_parquet(path, columns)
            return
        with open(path, "w", encoding="utf-8", newline="", errors="surrogatepass") as file:
            writer = csv.writer(file, delimiter=_DELIMITERS[path.suffix.lower()], lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
    except OSError as error:
        raise BadInputError(f"cannot be written: {error.strerror or error}", where=str(path)) from error


def _write_parquet(path: Path, columns: Mapping[str, Sequence[Json]]) -> None:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise missing_package(error, where=str(path)) from error
    parquet.write_table(pa.table({name: list(values) for name, values in columns.items()}), path)
