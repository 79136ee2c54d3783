"""Threads that compute on one core each: several at once keep all cores busy without a barrier after every product."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

_Given = TypeVar("_Given")
_Made = TypeVar("_Made")
_SETTING = threading.Lock()


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers:
    """So many threads, started when they are first needed. torch computes on one core in each of them, and as before
    in all others."""

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._starting = threading.Lock()

    def map(self, function: Callable[[_Given], _Made], given: Iterable[_Given]) -> Iterator[_Made]:
        """Each one's result, in their order."""
        with self._starting:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._threads, "encoder", _on_one_core)
        return self._pool.map(function, given)


def _on_one_core() -> None:
    import torch

    # The number is kept twice: for this thread, and for all that have not begun yet. The second is put back, from
    # another thread, since putting it back here would undo the first.
    with _SETTING:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        other = threading.Thread(target=torch.set_num_threads, args=(before,))
        other.start()
        other.join()
