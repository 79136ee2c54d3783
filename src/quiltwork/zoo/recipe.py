"""How to write a source's files again: per file an ordered list of pieces, tensors by content, the rest as residue.

A recipe is one line of JSON and after it the residue of all files, in order. Whole files that hold no tensors stand
under their name in ``Model.files``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from quiltwork.core.errors import CorruptionError
from quiltwork.zoo.types import DTYPE_BITS

FORMAT = 1


@dataclass(frozen=True)
class TensorPiece:
    """The bytes of a tensor, row-major."""

    content: str
    stored_dtype: str
    dtype: str
    nbytes: int
    """Bytes in ``dtype``."""
    rope_heads: int = 0
    """Heads whose rows a GGUF file holds in interleaved order; 0 where the bytes stand as stored."""
    rows: int = 0
    """Rows of the matrix, where ``rope_heads`` is set."""


@dataclass(frozen=True)
class Residue:
    """Bytes kept as they are."""

    data: bytes


@dataclass(frozen=True)
class FileRecipe:
    """One entry of the source: a file from pieces, a whole file, a link, or an empty folder."""

    path: str
    pieces: tuple[TensorPiece | Residue, ...] | None = None
    content: str | None = None
    link: str | None = None


@dataclass(frozen=True)
class Recipe:
    """All entries of a source."""

    kind: str
    """``directory`` or ``file``; ``made`` for a model that no files describe."""
    files: tuple[FileRecipe, ...] = field(default=())


def dump(recipe: Recipe) -> bytes:
    """The recipe as bytes; equal recipes give equal bytes."""
    residue: list[bytes] = []

    def piece(item: TensorPiece | Residue) -> Any:
        if isinstance(item, Residue):
            residue.append(item.data)
            return len(item.data)
        plain = [item.content, item.stored_dtype, item.dtype, item.nbytes]
        return [*plain, item.rope_heads, item.rows] if item.rope_heads else plain

    entries = []
    for file in recipe.files:
        entry: dict[str, Any] = {"path": file.path}
        if file.pieces is not None:
            entry["pieces"] = [piece(item) for item in file.pieces]
        elif file.content is not None:
            entry["content"] = file.content
        elif file.link is not None:
            entry["link"] = file.link
        entries.append(entry)
    head = {"format": FORMAT, "kind": recipe.kind, "files": entries}
    return json.dumps(head, separators=(",", ":")).encode() + b"\n" + b"".join(residue)


def load(data: bytes, *, where: str) -> Recipe:
    """The recipe in ``data``. Raises CorruptionError where it is not one; paths are checked to stay inside."""
    line, _, rest = data.partition(b"\n")
    at = 0

    def piece(item: Any) -> TensorPiece | Residue:
        nonlocal at
        if isinstance(item, int) and not isinstance(item, bool):
            if not 0 <= item <= len(rest) - at:
                raise ValueError("residue is missing")
            at += item
            return Residue(rest[at - item : at])
        found = TensorPiece(*item)
        if found.dtype not in DTYPE_BITS or found.stored_dtype not in DTYPE_BITS or not isinstance(found.nbytes, int):
            raise ValueError("a piece is not a tensor")
        return found

    try:
        head = json.loads(line)
        if head["format"] != FORMAT:
            raise ValueError(f"format {head['format']} is not known")
        files = []
        for entry in head["files"]:
            path = PurePosixPath(entry["path"])
            if path.is_absolute() or ".." in path.parts or not path.parts:
                raise ValueError(f"the path {entry['path']!r} leaves the folder")
            pieces: Sequence[Any] | None = entry.get("pieces")
            made = None if pieces is None else tuple(piece(item) for item in pieces)
            files.append(FileRecipe(entry["path"], made, entry.get("content"), entry.get("link")))
        return Recipe(head["kind"], tuple(files))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CorruptionError(f"the recipe cannot be read: {error}", where=where) from error
