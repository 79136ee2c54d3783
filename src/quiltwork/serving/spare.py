"""Giving memory back to the system."""

from __future__ import annotations

import ctypes
import mmap
import sys

from torch import Tensor

_DONTNEED = 4
"""MADV_DONTNEED of Linux: the pages are dropped, and read as zeros when they are touched again."""


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


def drop_contents(tensor: Tensor, begin: int, end: int) -> None:
    """Hand the memory behind the bytes ``begin`` to ``end`` of a CPU tensor back to the system; what was in it is lost.

    Only whole pages of the system go, so up to one stays at either end.
    """
    if sys.platform != "linux":
        return
    page, base = mmap.PAGESIZE, tensor.data_ptr()
    first, last = -(-(base + begin) // page) * page, (base + end) // page * page
    if last > first:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _DONTNEED)
