"""Compiled loops on the workers that torch keeps awake.

Numba has threads of its own for ``parallel=True``. Beside torch's they are too many for the cores: whichever wait,
wait awake, and take time from those that compute. So a loop that is worth sharing goes to torch's own OpenMP team,
through the entry point that compilers emit for ``#pragma omp parallel`` (GCC's ABI, which LLVM's runtime has as well).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from llvmlite import ir  # type: ignore[import-untyped]
from numba import cfunc, types
from numba.extending import intrinsic

from quiltwork.layers.compiled import cached_if_possible

Loop = Callable[[Any], None]
"""For numba to compile, and several threads to run at once. Given a pointer to int64: first a counter to take tickets
from until there is no more work, then the arguments."""

_INT64_POINTER = ctypes.POINTER(ctypes.c_int64)


@intrinsic
def take_ticket(typing_context, counter):  # type: ignore[no-untyped-def]
    """The value at an int64 pointer, which grows by one: no two threads get the same."""

    def emit(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.atomic_rmw("add", arguments[0], ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(types.CPointer(types.int64)), emit


def _pointer(kind: Any) -> Any:
    @intrinsic
    def at(typing_context, address):  # type: ignore[no-untyped-def]
        def emit(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(types.int64), emit

    return at


float32_at, int32_at, int64_at = (_pointer(kind) for kind in (types.float32, types.int32, types.int64))
"""Turn an int64 address into a pointer, so that one call can read arrays it was given the places of."""


@cache
def _compiled(loop: Loop) -> Any:
    signature = types.void(types.CPointer(types.int64))
    return cached_if_possible(cfunc, signature, fastmath=True, error_model="numpy")(loop)


@cache
def _parallel() -> Any:
    """``GOMP_parallel`` of the OpenMP library that torch brought, or None."""
    start = getattr(ctypes.CDLL(torch._C.__file__), "GOMP_parallel", None)
    if start is not None:
        start.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        start.restype = None
    return start


def team_size(work: int, least: int) -> int:
    """Threads for a loop of that much work: torch's, or 1 where it is less than ``least`` or there is no team."""
    threads = torch.get_num_threads()
    return 1 if threads == 1 or work < least or _parallel() is None else threads


def run_shared(loop: Loop, arguments: Sequence[int], threads: int) -> None:
    """Run a shared loop on ``threads`` threads, this one and others of torch's team, without the interpreter's lock.

    arguments : int64 each; addresses of arrays that outlive the call, sizes, whatever the loop makes of them.
    """
    call = np.array((0, *arguments), np.int64)
    compiled = _compiled(loop)
    if threads == 1:
        compiled.ctypes(call.ctypes.data_as(_INT64_POINTER))
    else:
        _parallel()(compiled.address, call.ctypes.data, threads, 0)
