"""Work in a thread that ends with it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


def in_thread_apart(work: Callable[[], Result]) -> Result:
    """What ``work`` returns or raises, from a thread that ends before this does.

    OpenMP gives every thread that computes a team of workers of its own, and keeps it until that thread ends. With more
    teams than cores its workers sleep instead of waiting awake for the next matrix, also those of the thread that
    serves: a decode step takes up to twice as long. So whatever computes beside that thread does it here.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="quiltwork-apart") as thread:
        return thread.submit(work).result()
