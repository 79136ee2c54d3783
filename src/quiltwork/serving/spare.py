"""Giving back what loading borrowed."""

from __future__ import annotations

import ctypes
import sys


def return_freed_memory() -> None:
    """Hand freed heap memory back to the system, where the C library can (glibc).

    Loading decodes, widens and packs tensor after tensor; the allocator keeps what that freed, up to a tenth of the
    weights.
    """
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
