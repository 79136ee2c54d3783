"""Exact conversions between float formats, in numpy alone, and the one form in which equal values are stored.

bfloat16 has no numpy type, so bf16 and f16 travel as uint16 bit patterns. All conversions that have to be exact are
done on bits (shifts, or a table of the 65,536 half-precision values), never by the processor's own conversion, whose
treatment of NaN payloads differs between machines.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError, UnsupportedError
from quiltwork.zoo.objects import Bytes
from quiltwork.zoo.types import DTYPE_BITS

PIECE = 1 << 20
"""Elements converted at a time, which bounds the memory beyond input and output."""

Bits16 = npt.NDArray[np.uint16]
Bits32 = npt.NDArray[np.uint32]

WIDER: dict[str, tuple[str, ...]] = {
    "F16": ("BF16",),
    "F32": ("BF16", "F16"),
    "F64": ("BF16", "F16", "F32"),
}
"""By dtype, the forms tried for storing it, first fit. F16 whose values all fit bf16 is kept as bf16, so that equal
values have one form whatever dtype they came in."""


def itemsize(dtype: str) -> int:
    """Bytes per element. Raises UnsupportedError for a dtype the zoo does not store."""
    try:
        return DTYPE_BITS[dtype] // 8
    except KeyError:
        raise UnsupportedError("this dtype is not stored", where=f"dtype {dtype!r}") from None


@cache
def f16_as_f32_bits() -> Bits32:
    """(65536,) uint32: the float32 bit pattern of every float16 bit pattern, payloads of NaN kept."""
    half = np.arange(1 << 16, dtype=np.uint32)
    sign, exponent, mantissa = (half >> 15) << 31, (half >> 10) & 31, half & 1023
    normal = sign | ((exponent + 112) << 23) | (mantissa << 13)
    special = sign | np.uint32(0x7F800000) | (mantissa << 13)
    # A subnormal half is mantissa * 2**-24: exact in float32, and free of NaN.
    subnormal = sign | (mantissa.astype(np.float32) * np.float32(2.0**-24)).view(np.uint32)
    table: Bits32 = np.where(exponent == 31, special, np.where(exponent == 0, subnormal, normal)).astype(np.uint32)
    table.setflags(write=False)
    return table


def widen(stored: Bytes, stored_dtype: str, dtype: str) -> Bytes:
    """The bytes of the same values in ``dtype``: the inverse of ``narrowed``, exact to the bit.

    ``stored``: flat uint8. Returned as given (a memory map, perhaps) where the dtypes are equal.
    Raises BadInputError for a pair that ``narrowed`` never makes.
    """
    if stored_dtype == dtype:
        return stored
    if stored_dtype not in WIDER.get(dtype, ()):
        raise BadInputError(f"{stored_dtype} is not widened to {dtype}", where="stored_dtype")
    count = stored.size // itemsize(stored_dtype)
    out = np.empty(count * itemsize(dtype), dtype=np.uint8)
    for start, stop in _spans(count):
        piece = stored[start * itemsize(stored_dtype) : stop * itemsize(stored_dtype)]
        out[start * itemsize(dtype) : stop * itemsize(dtype)] = _widen_piece(piece, stored_dtype, dtype)
    return out


def narrowed(data: Bytes, dtype: str) -> tuple[str, Bytes]:
    """``(stored_dtype, bytes)``: the narrowest form, of those in ``WIDER``, that holds every value bit for bit.

    ``data``: flat uint8 of ``dtype``. Returned as given where no narrower form is exact.
    """
    for narrow in WIDER.get(dtype, ()):
        out = _narrow(data, dtype, narrow)
        if out is not None:
            return narrow, out
    return dtype, data


def to_float32(data: Bytes, dtype: str) -> npt.NDArray[np.float32]:
    """Values of F32, BF16 or F16 bytes as float32 (exact)."""
    return widen(data, dtype, "F32").view(np.float32)


def from_float32(values: npt.NDArray[np.float32], dtype: str) -> Bytes:
    """Bytes of ``values`` in F32, BF16 or F16, rounded to nearest, ties to even. NaN-free input expected."""
    if dtype == "F32":
        return np.ascontiguousarray(values).view(np.uint8).reshape(-1)
    if dtype == "F16":
        with np.errstate(over="ignore"):  # beyond the range of a half: infinity
            return values.astype(np.float16).view(np.uint8).reshape(-1)
    if dtype != "BF16":
        raise BadInputError(f"float32 is not rounded to {dtype}", where="dtype")
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16).view(np.uint8).reshape(-1)


def is_float(dtype: str) -> bool:
    """Whether a float delta makes sense for the dtype."""
    return dtype in ("F16", "BF16", "F32", "F64")


def _spans(count: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, PIECE):
        yield start, min(count, start + PIECE)


def _view(data: Bytes, dtype: Any) -> Any:
    # A piece of a memory map may start at any byte; numpy reads unaligned views correctly, only slower.
    return data.view(dtype)


def _widen_piece(piece: Bytes, stored_dtype: str, dtype: str) -> Bytes:
    if stored_dtype == "F32":
        return _view(piece, np.float32).astype(np.float64).view(np.uint8)  # type: ignore[no-any-return]
    half: Bits16 = _view(piece, np.uint16)
    if dtype == "F16":
        return _bf16_to_f16(half).view(np.uint8)
    bits = half.astype(np.uint32) << 16 if stored_dtype == "BF16" else f16_as_f32_bits()[half]
    if dtype == "F32":
        return bits.view(np.uint8)
    return bits.view(np.float32).astype(np.float64).view(np.uint8)


def _narrow(data: Bytes, dtype: str, narrow: str) -> Bytes | None:
    """``data`` in the dtype ``narrow``, or None at the first piece that is not exact."""
    count, size, narrow_size = data.size // itemsize(dtype), itemsize(dtype), itemsize(narrow)
    # Trained weights fail within the first few values; look there before paying for a buffer.
    if _narrow_piece(data[: min(count, 256) * size], dtype, narrow) is None:
        return None
    out = np.empty(count * narrow_size, dtype=np.uint8)
    for start, stop in _spans(count):
        piece = _narrow_piece(data[start * size : stop * size], dtype, narrow)
        if piece is None:
            return None
        out[start * narrow_size : stop * narrow_size] = piece
    return out


def _narrow_piece(piece: Bytes, dtype: str, narrow: str) -> Bytes | None:
    if dtype == "F64":
        values: npt.NDArray[np.float64] = _view(piece, np.float64)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            single = values.astype(np.float32)
        # Processors disagree about NaN payloads between F64 and F32, so a tensor with any NaN is kept as it is.
        back = single.astype(np.float64).view(np.uint64)
        if np.isnan(values).any() or not np.array_equal(back, _view(piece, np.uint64)):
            return None
        return single.view(np.uint8) if narrow == "F32" else _narrow_piece(single.view(np.uint8), "F32", narrow)
    if dtype == "F16":
        return _to_bf16(f16_as_f32_bits()[_view(piece, np.uint16)])
    bits: Bits32 = _view(piece, np.uint32)
    return _to_bf16(bits) if narrow == "BF16" else _to_f16(bits)


def _to_bf16(bits: Bits32) -> Bytes | None:
    if (bits & np.uint32(0xFFFF)).any():
        return None
    return (bits >> 16).astype(np.uint16).view(np.uint8)


def _to_f16(bits: Bits32) -> Bytes | None:
    half = _f16_bits(bits)
    return half.view(np.uint8) if np.array_equal(f16_as_f32_bits()[half], bits) else None


def _f16_bits(bits: Bits32) -> Bits16:
    """The half that a float32 pattern would be if it is one exactly (anything where it is not)."""
    sign, exponent, mantissa = (bits >> 16) & 0x8000, (bits >> 23) & 0xFF, bits & 0x7FFFFF
    normal = ((exponent - np.uint32(112)) << 10) | (mantissa >> 13)
    # exponent 103..112 are subnormal halves: the implicit one moves into the mantissa.
    shift = np.minimum(np.where(exponent <= 112, 126 - exponent, 0), 31).astype(np.uint32)
    subnormal = (mantissa | 0x800000) >> shift
    small = np.where(exponent < 102, 0, subnormal)
    special = 0x7C00 | (mantissa >> 13)
    magnitude = np.where(exponent == 255, special, np.where(exponent <= 112, small, normal))
    return ((sign | magnitude) & 0xFFFF).astype(np.uint16)


def _bf16_to_f16(half: Bits16) -> Bits16:
    bits: Bits32 = half.astype(np.uint32) << np.uint32(16)
    return _f16_bits(bits)
