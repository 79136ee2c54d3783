"""Compiling loops with numba: caching that never fails, an exponential that vectorises, reading ahead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from llvmlite import ir  # type: ignore[import-untyped]
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor


def cached_if_possible(compiler: Callable[..., Any], *arguments: Any, **options: Any) -> Callable[..., Any]:
    """One of numba's compilers, keeping what it makes on disk so that a second process does not compile again.

    Where no cache folder can be written (a read-only installation without a home), it compiles in every process.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        try:
            return compiler(*arguments, cache=True, **options)(function)
        except RuntimeError:  # numba: "no locator available"
            return compiler(*arguments, **options)(function)

    return compiled


def kernel(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``numba.njit`` for float32 loops."""
    return cached_if_possible(njit, **{"fastmath": True, "error_model": "numpy", "nogil": True, **options})


def compilable(tensor: Tensor) -> bool:
    """Whether compiled kernels can read and write ``tensor``: float32 on a CPU."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32


@njit(fastmath=True, inline="always")
def exp32(x):  # type: ignore[no-untyped-def]
    """e**x in float32 within 2 ulp, as straight-line code that LLVM vectorises (Cephes' polynomial)."""
    x = min(max(x, np.float32(-87.0)), np.float32(88.0))
    z = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
    r = x - z * np.float32(0.693359375)
    r = r + z * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    p = p * r * r + r + np.float32(1.0)
    return p * np.int32((np.int32(z) + np.int32(127)) << np.int32(23)).view(np.float32)


@intrinsic
def _prefetch_line(typing_context, address):  # type: ignore[no-untyped-def]
    """Ask for the cache line at an int64 address; no effect on results."""

    def emit(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read, near, data = (ir.Constant(word, value) for value in (0, 3, 1))
        builder.call(function, [builder.inttoptr(arguments[0], byte), read, near, data])
        return context.get_dummy_value()

    return types.void(types.int64), emit


@njit(inline="always")
def prefetch_bytes(address, size):  # type: ignore[no-untyped-def]
    """Start loading ``size`` bytes from an address into the cache."""
    for offset in range(0, size, 64):
        _prefetch_line(address + offset)
