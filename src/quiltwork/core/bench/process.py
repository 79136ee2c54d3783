"""What a process and everything it started cost: processor time and memory, read from ``/proc`` (Linux)."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from quiltwork.core.errors import QuiltworkError, UnsupportedError

_TRIES = 20
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class _Stat:
    """What ``/proc/PID/stat`` says of one process."""

    parent: int
    reaped_s: float
    """Processor time of children that have ended and been waited for, and of theirs."""


def tree_cpu_seconds(root: int | None = None) -> float:
    """User and system time, in seconds, of a process and all its descendants since each began.

    Ended threads count, and so do ended children once they have been waited for (those in clock ticks, usually 10 ms,
    the living in nanoseconds). A descendant that was handed over to init is lost to the count. ``root`` is this process
    where None. Raises UnsupportedError without ``/proc``, QuiltworkError where ``root`` has gone.
    """
    root = os.getpid() if root is None else root
    for _ in range(_TRIES):
        try:
            stats = _tree(root)
            # The living after the reaped: a child that ends in between has no clock any more, and we look again.
            return sum(stat.reaped_s for stat in stats.values()) + sum(map(_own_seconds, stats))
        except ProcessLookupError:
            continue
    raise QuiltworkError("its processes come and go too fast to be measured", where=f"process {root}")


def tree_pss_bytes(root: int | None = None) -> int:
    """Proportional set size of a process and all its descendants: pages shared by n processes count 1/n in each.

    Raises UnsupportedError without ``/proc``, QuiltworkError where ``root`` has gone or may not be looked at.
    """
    root = os.getpid() if root is None else root
    total = 0
    for pid in _tree(root):
        try:
            total += _pss_bytes(pid)
        except ProcessLookupError as error:
            if pid == root:
                raise QuiltworkError("it has gone", where=f"process {root}") from error
        except PermissionError as error:
            raise QuiltworkError("its memory may not be looked at", where=f"process {pid}") from error
    return total


@dataclass
class Peak:
    """The most memory seen so far, in bytes."""

    bytes: int


@contextmanager
def peak_pss(root: int | None = None, *, every: float = 0.02) -> Iterator[Peak]:
    """Watch a process tree's PSS while the block runs, looking every ``every`` seconds and at both ends."""
    peak, done = Peak(tree_pss_bytes(root)), threading.Event()
    gone: list[QuiltworkError] = []

    def watch() -> None:
        try:
            while not done.wait(every):
                peak.bytes = max(peak.bytes, tree_pss_bytes(root))
            peak.bytes = max(peak.bytes, tree_pss_bytes(root))
        except QuiltworkError as error:
            gone.append(error)

    watcher = threading.Thread(target=watch, name="peak-pss", daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        done.set()
        watcher.join()
    if gone:
        raise gone[0]


def _tree(root: int) -> dict[int, _Stat]:
    """``root`` and its descendants by process id."""
    try:
        pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except FileNotFoundError as error:
        raise UnsupportedError("processes are measured through /proc, which is Linux's", where="bench") from error
    stats = {pid: stat for pid in pids if (stat := _stat(pid)) is not None}
    if root not in stats:
        raise QuiltworkError("it has gone", where=f"process {root}")
    children: dict[int, list[int]] = {}
    for pid, stat in stats.items():
        children.setdefault(stat.parent, []).append(pid)
    found, open_ = [root], [root]
    while open_:
        below = children.get(open_.pop(), [])
        found += below
        open_ += below
    return {pid: stats[pid] for pid in found}


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    # The name, in parentheses, may hold anything; fields are counted from behind it (proc(5): 4, 16 and 17).
    fields = text[text.rindex(")") + 2 :].split()
    return _Stat(int(fields[1]), (int(fields[13]) + int(fields[14])) / _TICKS)


def _own_seconds(pid: int) -> float:
    """Processor time of one living process, ended threads included. Raises ProcessLookupError where it has gone."""
    # The kernel's number for another process's CPU clock, as clock_getcpuclockid(3) makes it.
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError as error:
        raise ProcessLookupError(pid) from error


def _pss_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
    except FileNotFoundError as error:
        raise ProcessLookupError(pid) from error
    return 0
