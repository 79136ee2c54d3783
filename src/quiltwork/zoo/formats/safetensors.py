"""Safetensors files read by their header alone: names, dtypes, shapes and byte ranges of a memory map.

The format: eight bytes little-endian header length, a JSON header, then the tensors' bytes
(https://github.com/huggingface/safetensors#format). Every rule that a byte range relies on is checked here, because
what a range covers is what gets hashed, shared and served.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.zoo.formats.weights import Slice, WeightsFile, elements
from quiltwork.zoo.types import DTYPE_BITS

MAX_HEADER = 100_000_000
"""Bytes; the limit of the reference implementation."""

_SUB_BYTE = {"F4", "F6_E2M3", "F6_E3M2"}
_MAX_RANK = 64


def read_header(path: Path) -> WeightsFile:
    """The tensors of a safetensors file, every byte range checked against the file.

    Bytes that no tensor covers are allowed (they are kept as residue); ranges that overlap are not.
    Raises BadInputError naming the file, UnsupportedError for element types smaller than a byte.
    """
    where = str(path)
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            prefix = file.read(8)
            if len(prefix) < 8:
                raise BadInputError(f"truncated: {size} bytes are too few for a safetensors file", where=where)
            length = int.from_bytes(prefix, "little")
            if length > MAX_HEADER:
                raise BadInputError(f"not a safetensors file: a header of {length} bytes is absurd", where=where)
            if 8 + length > size:
                raise BadInputError(f"truncated: the header ends at byte {8 + length} of {size}", where=where)
            header = _parse(file.read(length), where)
    except OSError as error:
        raise BadInputError(f"cannot be read: {error.strerror or error}", where=where) from error
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BadInputError("__metadata__ is not an object of strings", where=where)
    tensors = {name: _slice(name, entry, 8 + length, size, where) for name, entry in header.items()}
    _refuse_overlap(tensors, where)
    return WeightsFile(path, size, tensors, metadata)


def _parse(raw: bytes, where: str) -> dict[str, Any]:
    if not raw.startswith(b"{"):
        raise BadInputError("not a safetensors file: the header does not begin with '{'", where=where)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) != len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise BadInputError(f"the name {twice[:100]!r} occurs twice in the header", where=where)
        return dict(pairs)

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except UnicodeDecodeError as error:
        raise BadInputError(f"the header is not UTF-8 (byte {error.start + 8})", where=where) from error
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"the header is not JSON: {str(error)[:100]}", where=where) from error
    if not isinstance(header, dict):
        raise BadInputError("the header is not a JSON object", where=where)
    return header


def _slice(name: str, entry: Any, start: int, size: int, where: str) -> Slice:
    where = f"{where}: {name[:200]}"
    if not name.isprintable():
        raise BadInputError("a tensor's name must be printable text", where=where.encode("unicode_escape").decode())
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise BadInputError("a tensor needs exactly dtype, shape and data_offsets", where=where)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if isinstance(dtype, str) and dtype in _SUB_BYTE:
        raise UnsupportedError(f"dtype {dtype} is smaller than a byte", where=where)
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise BadInputError(f"dtype {str(dtype)[:40]!r} is not known", where=where)
    if not isinstance(shape, list) or len(shape) > _MAX_RANK or not all(_is_count(n) for n in shape):
        raise BadInputError("shape is not a list of sizes", where=where)
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_count(n) for n in offsets):
        raise BadInputError("data_offsets is not a pair of byte positions", where=where)
    begin, end = offsets
    if begin > end or start + end > size:
        raise BadInputError(f"bytes {begin} to {end} lie outside the file (truncated?)", where=where)
    expected = elements(tuple(shape)) * DTYPE_BITS[dtype] // 8
    if end - begin != expected:
        raise BadInputError(f"shape and dtype need {expected} bytes, data_offsets give {end - begin}", where=where)
    return Slice(name, dtype, tuple(shape), start + begin, end - begin)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _refuse_overlap(tensors: dict[str, Slice], where: str) -> None:
    before: Slice | None = None
    for item in sorted((s for s in tensors.values() if s.nbytes), key=lambda s: s.offset):
        if before is not None and item.offset < before.offset + before.nbytes:
            raise BadInputError(f"its bytes overlap those of {before.name!r}", where=f"{where}: {item.name}")
        before = item
