"""Which process is which. A PID is given out again; a PID together with when it began, and in which boot, is not.

Linux only: everything is read from ``/proc``.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

PROC = Path("/proc")


class Stat(NamedTuple):
    """A line of ``/proc/PID/stat``, as far as it is needed. ``started`` : clock ticks since the machine's boot."""

    pid: int
    state: str
    parent: int
    session: int
    started: int


def read_stat(pid: int) -> Stat | None:
    """None where there is no such process."""
    try:
        text = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in brackets, may hold anything, brackets and spaces too.
    fields = text[text.rindex(")") + 2 :].split()
    return Stat(pid, fields[0], int(fields[1]), int(fields[3]), int(fields[19]))


def boot() -> str:
    """What this boot of the machine is called."""
    return (PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class Process(NamedTuple):
    """A process, told from every other that has or will have its PID."""

    pid: int
    started: int
    """Clock ticks since the boot."""
    boot: str

    @staticmethod
    def of(pid: int) -> Process | None:
        """The process that has that PID now."""
        stat = read_stat(pid)
        return None if stat is None else Process(pid, stat.started, boot())

    def alive(self) -> bool:
        """Whether it is there still. One that has ended and only waits to be asked for its exit code is not, unless
        other threads of it run on."""
        stat = read_stat(self.pid)
        return stat is not None and stat.started == self.started and self.boot == boot() and _runs(stat)


def _runs(stat: Stat) -> bool:
    if stat.state not in "ZX":
        return True
    try:
        return len(os.listdir(PROC / str(stat.pid) / "task")) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def _all() -> list[Stat]:
    found = (read_stat(int(name)) for name in os.listdir(PROC) if name.isdecimal())
    return [stat for stat in found if stat is not None]


def processes() -> list[Stat]:
    """All that run now."""
    return [stat for stat in _all() if _runs(stat)]


def ended_children(parent: int) -> list[int]:
    """PIDs of a process's children that have ended and wait to be asked for their exit codes."""
    return [stat.pid for stat in _all() if stat.parent == parent and not _runs(stat)]


def descendants(root: int, among: Iterable[Stat]) -> list[int]:
    """PIDs of all whose parent, or its parent and so on, is ``root``."""
    children: defaultdict[int, list[int]] = defaultdict(list)
    for stat in among:
        children[stat.parent].append(stat.pid)
    found: list[int] = []
    waiting = [root]
    while waiting:
        more = children.pop(waiting.pop(), [])
        found += more
        waiting += more
    return found


MARK, KEEPER_MARK = "QUILTWORK_MARK", "QUILTWORK_KEEPER_MARK"
"""Variables by which a worker's processes, and its keeper, are found again though nobody is left who started them."""


class Remains(NamedTuple):
    """PIDs of what is left of a worker."""

    keepers: list[int]
    others: list[int]

    def __bool__(self) -> bool:
        return bool(self.keepers or self.others)


def remains(mark: str, leader: Process | None) -> Remains:
    """What has the mark among its variables, or is in the session that ``leader`` began."""
    keeper_mark, worker_mark = f"{KEEPER_MARK}={mark}".encode(), f"{MARK}={mark}".encode()
    found = Remains([], [])
    for stat in processes():
        try:
            variables = (PROC / str(stat.pid) / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile, or is another user's
            variables = []
        if worker_mark in variables or (leader is not None and _in_session(stat, leader)):
            found.others.append(stat.pid)
        elif keeper_mark in variables:
            found.keepers.append(stat.pid)
    return found


def _in_session(stat: Stat, leader: Process) -> bool:
    """A session's number is its first process's PID, and is not given out again while the session lives; so it is
    another's only where a later process has that PID itself."""
    if stat.session != leader.pid or leader.boot != boot() or stat.started < leader.started:
        return False
    first = read_stat(leader.pid)
    return first is None or first.started == leader.started
