"""Text files that people hand in, plain or packed: whole, or line by line."""

from __future__ import annotations

import codecs
import gzip
import zlib
from pathlib import Path

from quiltwork.core.errors import BadInputError, NotFoundError

MOST_BYTES = 1 << 31
"""Of a file: far above any corpus that a model of this room learns from, far below what would hurt."""


def read_text(path: str, encoding: str, *, hint: str | None = "set `encoding`, as in latin-1") -> str:
    """All of a file, with a line feed at the end of every line. ``.gz`` is unpacked.

    hint : what to do where it is of another encoding.

    Raises NotFoundError, and BadInputError naming the file: truncated, of another encoding, empty.
    """
    try:
        name = codecs.lookup(encoding).name
        if name == "utf-8":
            encoding = "utf-8-sig"
        elif not codecs.lookup(encoding)._is_text_encoding:
            raise LookupError
    except LookupError as error:
        raise BadInputError(f"{encoding[:40]!r} is no encoding", where="encoding", hint="utf-8, latin-1 ...") from error
    content = _read(path)
    try:
        text = content.decode(encoding)
    except UnicodeError as error:
        at = getattr(error, "start", None)
        place = path if at is None else f"{path}: line {1 + content[:at].count(bytes([10]))}"
        raise BadInputError(f"is not {name.upper()}", where=place, hint=hint) from error
    if not text.strip():
        raise BadInputError("is empty", where=path)
    return text.replace("\r\n", "\n")


def read_lines(path: str, encoding: str) -> list[str]:
    """Its lines, without what ends them; the last one may lack that. Raises as ``read_text``."""
    lines = read_text(path, encoding).split("\n")
    return lines[:-1] if not lines[-1] else lines


def _read(path: str) -> bytes:
    place = Path(path)
    try:
        if not place.is_file():
            raise (BadInputError if place.exists() else NotFoundError)("is no file", where=path)
        with gzip.open(place) if place.suffix == ".gz" else place.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise BadInputError(f"is truncated or damaged: {error}", where=path) from error
    except (OSError, ValueError) as error:
        raise BadInputError(f"cannot be read: {getattr(error, 'strerror', None) or error}", where=path) from error
    if len(content) > MOST_BYTES:
        raise BadInputError(f"has more than {MOST_BYTES >> 30} GiB", where=path)
    return content
