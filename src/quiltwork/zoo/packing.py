"""zstd with the checks that stored bytes need: what is unpacked can never be longer than was promised."""

from __future__ import annotations

from collections.abc import Iterator

import zstandard

from quiltwork.zoo.objects import Data, as_view

_PIECE = 1 << 22


class Malformed(ValueError):
    """A payload is not one that this program writes."""


def pack(data: Data, level: int) -> bytes:
    """``data`` as one zstd frame that names its length."""
    return zstandard.ZstdCompressor(level=level).compress(as_view(data))


def packed_pieces(data: Data, level: int) -> Iterator[bytes]:
    """``pack``, piece by piece, for data (a memory map) that is larger than memory."""
    view = as_view(data)
    compressor = zstandard.ZstdCompressor(level=level).compressobj(size=len(view))
    for start in range(0, len(view), _PIECE):
        yield compressor.compress(view[start : start + _PIECE])
    yield compressor.flush()


def unpack(packed: Data, *, length: int | None = None, at_most: int | None = None) -> bytes:
    """The content of a frame: of exactly ``length`` bytes, or of no more than ``at_most``. Raises Malformed."""
    view = as_view(packed)
    limit = length if length is not None else at_most or 0
    try:
        size = zstandard.frame_content_size(view)
        if not 0 <= size <= limit or (length is not None and size != length):
            raise Malformed(f"holds {size} bytes where {limit} were expected")
        plain = zstandard.ZstdDecompressor().decompress(view, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise Malformed(str(error)) from error
    if len(plain) != size:
        raise Malformed(f"holds {len(plain)} bytes instead of {size}")
    return plain
