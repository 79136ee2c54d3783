"""A matrix as the rounded difference from another: one step size per row, 8 or 4 bits per element.

Not exact, so only for who allows it; the error is measured on the very values that a reader will get.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from quiltwork.zoo.dtypes import PIECE, from_float32, itemsize, to_float32
from quiltwork.zoo.objects import Bytes, as_view
from quiltwork.zoo.packing import Malformed, pack, unpack

CODES = {"int8": 127, "int4": 7}
"""By code, the largest magnitude of a rounded difference."""
_DTYPES = ("F32", "BF16", "F16")
_NAMES = tuple(CODES)
_HEADER = struct.Struct("<2sBBBxxxQ")
_MAGIC = b"Q1"
_LEVEL = 3
_CLIPS = {"int8": (1.0,), "int4": (1.0, 0.9, 0.8, 0.7)}
"""By code, the fractions of a row's largest change tried as its range: clipping a few outliers pays at 4 bits."""

Floats = npt.NDArray[np.float32]


def possible(data: Bytes, dtype: str, base: Bytes, base_dtype: str) -> bool:
    """Whether both are float tensors of equal length with finite values."""
    if dtype not in _DTYPES or base_dtype not in _DTYPES or not data.size:
        return False
    if data.size // itemsize(dtype) != base.size // itemsize(base_dtype):
        return False
    return _finite(data, dtype) and _finite(base, base_dtype)


def encode(data: Bytes, dtype: str, base: Bytes, base_dtype: str, *, columns: int, code: str) -> Iterator[bytes]:
    """The payload, piece by piece. ``data``, ``base``: flat uint8 of a matrix with rows of ``columns`` elements."""
    yield _HEADER.pack(_MAGIC, _NAMES.index(code), _DTYPES.index(dtype), _DTYPES.index(base_dtype), columns)
    for start, stop in _spans(data.size // itemsize(dtype), columns):
        near = _values(base, base_dtype, start, stop)
        change = (_values(data, dtype, start, stop) - near).reshape(-1, columns)
        steps, rounded = _rounded(change, code)
        plain = _packed(rounded, code)
        squeezed = pack(plain, _LEVEL)
        run = squeezed if len(squeezed) < plain.size else plain.tobytes()
        yield len(run).to_bytes(4, "little")
        yield steps.tobytes()
        yield run


def decode(payload: Bytes, nbytes: int, base: Bytes) -> Bytes:
    """The tensor's bytes (flat uint8, ``nbytes`` of them). Raises Malformed."""
    try:
        magic, code_number, dtype_number, base_number, columns = _HEADER.unpack_from(as_view(payload))
        code, dtype, base_dtype = _NAMES[code_number], _DTYPES[dtype_number], _DTYPES[base_number]
    except (struct.error, IndexError) as error:
        raise Malformed("no header") from error
    count = nbytes // itemsize(dtype)
    if magic != _MAGIC or not 0 < columns <= count or count % columns or base.size != count * itemsize(base_dtype):
        raise Malformed("not a delta of this length")
    out = np.empty(nbytes, dtype=np.uint8)
    at, size = _HEADER.size, itemsize(dtype)
    for start, stop in _spans(count, columns):
        rows = (stop - start) // columns
        head, at = payload[at : at + 4 + 4 * rows], at + 4 + 4 * rows
        if head.size != 4 + 4 * rows:
            raise Malformed("ends too early")
        length = int.from_bytes(head[:4].tobytes(), "little")
        run, at = payload[at : at + length], at + length
        plain_length = rows * columns if code == "int8" else rows * -(-columns // 2)
        if run.size != length or length > plain_length:
            raise Malformed("ends too early")
        if length < plain_length:
            run = np.frombuffer(unpack(run, length=plain_length), dtype=np.uint8)
        steps = head[4:].copy().view("<f4").reshape(rows, 1)
        change = _unpacked(run, code, rows, columns) * steps
        values = _values(base, base_dtype, start, stop) + change.reshape(-1)
        out[start * size : stop * size] = from_float32(values, dtype)
    if at != payload.size:
        raise Malformed("bytes after its end")
    return out


def relative_error(data: Bytes, decoded: Bytes, dtype: str) -> float:
    """L2 norm of the difference over the L2 norm of ``data``."""
    lost = kept = 0.0
    for start, stop in _spans(data.size // itemsize(dtype), 1):
        exact = _values(data, dtype, start, stop).astype(np.float64)
        lost += float(np.square(exact - _values(decoded, dtype, start, stop)).sum())
        kept += float(np.square(exact).sum())
    return float(np.sqrt(lost / kept)) if kept else float(lost > 0)


def _spans(count: int, columns: int) -> Iterator[tuple[int, int]]:
    step = max(1, PIECE // columns) * columns
    for start in range(0, count, step):
        yield start, min(count, start + step)


def _values(data: Bytes, dtype: str, start: int, stop: int) -> Floats:
    size = itemsize(dtype)
    return to_float32(data[start * size : stop * size], dtype)


def _finite(data: Bytes, dtype: str) -> bool:
    count = data.size // itemsize(dtype)
    return all(np.isfinite(_values(data, dtype, start, stop)).all() for start, stop in _spans(count, 1))


def _rounded(change: Floats, code: str) -> tuple[Floats, npt.NDArray[np.int8]]:
    """Steps (rows, 1) and rounded differences (rows, columns), the range of each row chosen for the least error."""
    limit = CODES[code]
    largest = np.abs(change).max(axis=1, keepdims=True)
    best: tuple[Any, Any, Any] | None = None
    for clip in _CLIPS[code]:
        steps = (largest * np.float32(clip / limit)).astype("<f4")
        divisor = np.where(steps > 0, steps, np.float32(1))
        rounded = np.clip(np.rint(change / divisor), -limit, limit)
        error = np.square(rounded * steps - change).sum(axis=1, keepdims=True)
        if best is None:
            best = error, steps, rounded
        else:
            better = error < best[0]
            best = tuple(np.where(better, new, old) for new, old in zip((error, steps, rounded), best, strict=True))
    assert best is not None
    return best[1].astype("<f4"), best[2].astype(np.int8)


def _packed(rounded: npt.NDArray[np.int8], code: str) -> Bytes:
    if code == "int8":
        return rounded.view(np.uint8).reshape(-1)
    nibbles = (rounded & 0xF).astype(np.uint8)
    if nibbles.shape[1] % 2:
        nibbles = np.pad(nibbles, ((0, 0), (0, 1)))
    pairs: Bytes = np.bitwise_or(nibbles[:, 0::2], nibbles[:, 1::2] << np.uint8(4), dtype=np.uint8)
    return pairs.reshape(-1)


def _unpacked(run: Bytes, code: str, rows: int, columns: int) -> Floats:
    if code == "int8":
        return run.view(np.int8).astype(np.float32).reshape(rows, columns)
    pairs = run.reshape(rows, -1)
    nibbles = np.empty((rows, 2 * pairs.shape[1]), dtype=np.int8)
    nibbles[:, 0::2], nibbles[:, 1::2] = pairs & 0xF, pairs >> 4
    return (((nibbles ^ 8) - 8)[:, :columns]).astype(np.float32)
