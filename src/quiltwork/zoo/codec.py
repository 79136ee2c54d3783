"""How the bytes of an object are kept: as they are, compressed, or as a difference from another object."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from quiltwork.core.errors import CorruptionError
from quiltwork.zoo import delta, lossy
from quiltwork.zoo.index import ObjectRow
from quiltwork.zoo.objects import Bytes
from quiltwork.zoo.packing import Malformed, unpack

RAW = "raw"
"""The bytes themselves: read as a memory map."""
ZSTD = "zstd"
DELTA = "delta"
"""Exact difference (``delta``) from the object ``base``."""
ROUNDED = "rounded"
"""Rounded difference (``lossy``) from the object ``base``; the object is what that decodes to."""
ENCODINGS = (RAW, ZSTD, DELTA, ROUNDED)


def decode(row: ObjectRow, payload: Bytes, read: Callable[[str], Bytes]) -> Bytes:
    """The bytes that the object's id is the hash of, read-only. ``read`` gives the decoded bytes of a delta's base.

    Raises CorruptionError where the payload cannot be what was stored.
    """
    where = f"object {row.content}"
    try:
        out = _decode(row, payload, read)
    except Malformed as error:
        raise CorruptionError(f"cannot be decoded: {error}", where=where) from error
    if out.size != row.nbytes:
        raise CorruptionError(f"decodes to {out.size} bytes instead of {row.nbytes}", where=where)
    out.setflags(write=False)
    return out


def _decode(row: ObjectRow, payload: Bytes, read: Callable[[str], Bytes]) -> Bytes:
    if row.encoding == RAW:
        return payload
    if row.encoding == ZSTD:
        return np.frombuffer(unpack(payload, length=row.nbytes), dtype=np.uint8)
    if row.base is None or row.encoding not in (DELTA, ROUNDED):
        raise Malformed(f"encoding {row.encoding!r}")
    decoder = delta.decode if row.encoding == DELTA else lossy.decode
    return decoder(payload, row.nbytes, read(row.base))
