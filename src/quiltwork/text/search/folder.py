"""The folder of an index: what files it has, and whether they are all there.

``graph.usearch`` the graph of near neighbours, with vectors in eight bits a number; ``vectors.f16`` the vectors row by
row, of length 1; ``texts.utf8`` the sentences one after another, ``ends.u64`` where each ends; ``index.json`` all the
rest: how many, which model, and size and BLAKE2b of every file. ``index.json`` is written last.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from quiltwork.core.errors import BadInputError, CorruptionError, NotFoundError
from quiltwork.core.servable import Json

FORMAT = 1
META, GRAPH, VECTORS, TEXTS, ENDS = "index.json", "graph.usearch", "vectors.f16", "texts.utf8", "ends.u64"
FILES = (GRAPH, VECTORS, TEXTS, ENDS)
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Meta:
    """What ``index.json`` says.

    model : what made the vectors, for whoever searches: a folder, or the name of the default model. count, dimensions :
    rows and columns. left_out : sentences that the model had no vector for. files : (bytes, BLAKE2b in hex) of each.
    """

    model: str
    count: int
    dimensions: int
    left_out: int
    connectivity: int
    expansion_add: int
    expansion_search: int
    files: Mapping[str, tuple[int, str]]


def write_meta(folder: Path, meta: Meta) -> None:
    """Write ``index.json``."""
    document = {"format": FORMAT, **asdict(meta)}
    (folder / META).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def read_meta(folder: Path) -> Meta:
    """Raises NotFoundError where there is no index, BadInputError for a file that is none."""
    where = str(folder / META)
    try:
        found = json.loads((folder / META).read_bytes())
    except FileNotFoundError as error:
        raise NotFoundError("there is no index here", where=str(folder), hint="quiltwork text search build") from error
    except OSError as error:
        raise BadInputError(f"cannot be read: {error.strerror}", where=where) from error
    except ValueError as error:
        raise BadInputError("is not JSON", where=where) from error
    if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
        raise BadInputError(f"is not an index of format {FORMAT}", where=where)
    try:
        files = {name: (int(size), str(digest)) for name, (size, digest) in found.pop("files").items()}
        meta = Meta(files=files, **found)
        numbers = (meta.count, meta.dimensions, meta.left_out, meta.connectivity, meta.expansion_search)
        if not isinstance(meta.model, str) or not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError("a field has another type")
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadInputError(f"is not an index: {error}", where=where) from error
    if set(files) != set(FILES) or files[VECTORS][0] != meta.count * meta.dimensions * 2:
        raise BadInputError("does not describe its files", where=where)
    return meta


def check(folder: Path, meta: Meta, *, whole: bool) -> None:
    """Raise CorruptionError naming a file that is missing, cut short or, where ``whole``, changed."""
    for name, (size, digest) in meta.files.items():
        path = folder / name
        try:
            there = path.stat().st_size
        except OSError as error:
            raise CorruptionError(f"cannot be read: {error.strerror}", where=str(path)) from error
        if there != size:
            raise CorruptionError(f"has {there} bytes instead of {size}", where=str(path), hint="build it again")
        if whole and digest_of(path) != digest:
            raise CorruptionError("is not what was written", where=str(path), hint="build it again")


def described(folder: Path) -> dict[str, tuple[int, str]]:
    """Size and digest of every file."""
    return {name: ((folder / name).stat().st_size, digest_of(folder / name)) for name in FILES}


def digest_of(path: Path) -> str:
    """BLAKE2b of a file."""
    total = hashlib.blake2b(digest_size=20)
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            total.update(block)
    return total.hexdigest()


def free_place(folder: Path) -> None:
    """Raise BadInputError where an index is not to be written."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BadInputError("is in use", where=str(folder), hint="choose a folder that does not exist")
    if not os.access(folder.parent if folder.parent.exists() else ".", os.W_OK):
        raise BadInputError("cannot be written to", where=str(folder.parent))


def shown(meta: Meta) -> dict[str, Json]:
    """Facts to print."""
    return {"model": meta.model, "sentences": meta.count, "dimensions": meta.dimensions, "left_out": meta.left_out,
            "bytes": sum(size for size, _ in meta.files.values())}  # fmt: skip
