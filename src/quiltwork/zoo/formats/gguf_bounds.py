"""A walk over a GGUF file's metadata that only checks bounds: the reading library trusts the counts it finds."""

from __future__ import annotations

from typing import BinaryIO

from quiltwork.core.errors import BadInputError, UnsupportedError

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a metadata value by its type number."""
_STRING, _ARRAY = 8, 9
_MOST_TENSORS = 1 << 20


def check_bounds(file: BinaryIO, size: int, *, where: str) -> None:
    """Raise BadInputError unless every count and length in the metadata fits in the file."""

    def number(width: int) -> int:
        data = file.read(width)
        if len(data) < width:
            raise BadInputError("is truncated", where=where)
        return int.from_bytes(data, "little")

    def skip(count: int) -> None:
        if count > size - file.tell():
            raise BadInputError("is truncated, or a length in it is absurd", where=where)
        file.seek(count, 1)

    def value(kind: int, depth: int) -> None:
        if kind in _SIZES:
            skip(_SIZES[kind])
        elif kind == _STRING:
            skip(number(8))
        elif kind == _ARRAY and depth < 4:
            inner, count = number(4), number(8)
            if inner in _SIZES:
                skip(count * _SIZES[inner])
                return
            if count > size - file.tell():
                raise BadInputError("a list in it is absurdly long", where=where)
            for _ in range(count):
                value(inner, depth + 1)
        else:
            raise BadInputError(f"holds a value of the unknown type {kind}", where=where)

    file.seek(0)
    if file.read(4) != b"GGUF":
        raise BadInputError("is not a GGUF file", where=where)
    version, tensors, pairs = number(4), number(8), number(8)
    if version not in (2, 3):
        raise UnsupportedError(f"GGUF version {version} is not implemented", where=where)
    if tensors > _MOST_TENSORS or pairs > size:
        raise BadInputError("its counts are absurd", where=where)
    for _ in range(pairs):
        skip(number(8))
        value(number(4), 0)
    for _ in range(tensors):
        skip(number(8))
        dimensions = number(4)
        if dimensions > 8:
            raise BadInputError(f"a tensor of {dimensions} dimensions is absurd", where=where)
        skip(8 * dimensions + 4 + 8)
