"""How the bytes of an object are kept."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import zstandard

from quiltwork.core.errors import CorruptionError
from quiltwork.zoo.index import ObjectRow
from quiltwork.zoo.objects import Bytes

RAW = "raw"
ZSTD = "zstd"


def decode(row: ObjectRow, payload: Bytes, read: Callable[[str], Bytes]) -> Bytes:
    """The bytes that the object's id is the hash of. ``read`` gives the decoded bytes of a delta's base.

    Raises CorruptionError where the payload cannot be what was stored.
    """
    where = f"object {row.content}"
    if row.encoding == RAW:
        out = payload
    elif row.encoding == ZSTD:
        try:
            plain = zstandard.ZstdDecompressor().decompress(memoryview(payload), max_output_size=row.nbytes)
        except zstandard.ZstdError as error:
            raise CorruptionError(f"cannot be decompressed: {error}", where=where) from error
        out = np.frombuffer(plain, dtype=np.uint8)
    else:
        raise CorruptionError(f"unknown encoding {row.encoding!r}", where=where)
    if out.size != row.nbytes:
        raise CorruptionError(f"decodes to {out.size} bytes instead of {row.nbytes}", where=where)
    return out
