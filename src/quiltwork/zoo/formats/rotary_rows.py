"""The two orders of a query or key matrix's rows: halves (Hugging Face) and neighbours (GGUF) of each rotated pair."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]


def interleaved(data: Bytes, rows: int, heads: int) -> Bytes:
    """Rows from half-split to interleaved order: within each head, row ``i`` and row ``i + half`` become neighbours.

    ``data``: flat bytes of a matrix of ``rows`` rows. Inverse of ``half_split``.
    """
    return _swapped(data, (heads, 2, rows // heads // 2))


def half_split(data: Bytes, rows: int, heads: int) -> Bytes:
    """Rows from interleaved to half-split order."""
    return _swapped(data, (heads, rows // heads // 2, 2))


def _swapped(data: Bytes, shape: tuple[int, int, int]) -> Bytes:
    return np.ascontiguousarray(data.reshape(*shape, -1).swapaxes(1, 2)).reshape(-1)
