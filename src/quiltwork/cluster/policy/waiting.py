"""The queue, and who of it starts: shortest first, passing over what does not fit (phase one of the allocation).

Jobs wait in one line for each shape. Where the first of a line does not fit, none behind it does, so a walk of
the whole queue looks at as many jobs as start, and at one more for each shape.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass

from quiltwork.cluster.job import Shape
from quiltwork.cluster.policy.placing import EVERYWHERE, Placement, Tier, Way, place_by
from quiltwork.cluster.policy.room import Room

Entry = tuple[int, float, int]
"""Priority, minus the key, minus the number."""


class Waiting:
    """Waiting jobs by priority, the highest first, then by key, then by number: as they are thought of."""

    def __init__(self) -> None:
        self.lines: dict[Shape, list[Entry]] = {}
        """By shape, the last entry goes first."""
        self.stuck: set[Shape] = set()
        """Shapes that do not fit unless something is freed."""
        self.grown = -1
        """The room's count of that when they were found."""

    def add(self, shape: Shape, key: float, job: int, priority: int = 0) -> None:
        line = self.lines.get(shape)
        if line is None:
            line = self.lines[shape] = []
        insort(line, (priority, -key, -job))

    def remove(self, shape: Shape, key: float, job: int, priority: int = 0) -> None:
        """Raises KeyError where it does not wait."""
        line = self.lines.get(shape, [])
        entry = (priority, -key, -job)
        at = bisect_left(line, entry)
        if at == len(line) or line[at] != entry:
            raise KeyError(job)
        del line[at]

    def heads(self, without: Set[Shape] = frozenset()) -> list[tuple[int, float, int, Shape]]:
        """The first of each line: minus its priority, key, number and shape. They sort as they are thought of."""
        lines = self.lines.items()
        return [_head(line[-1], shape) for shape, line in lines if line and shape not in without]

    def __len__(self) -> int:
        return sum(map(len, self.lines.values()))


def _head(entry: Entry, shape: Shape) -> tuple[int, float, int, Shape]:
    return -entry[0], -entry[1], -entry[2], shape


@dataclass(frozen=True, slots=True)
class Start:
    """A waiting job's gang starts on these servers; where ``revoking``, flexible workers have to leave some of them."""

    job: int
    placement: Placement
    revoking: bool


@dataclass(frozen=True, slots=True)
class Reservation:
    """Servers (a mask) that are kept for a job until all of them are free, ``seconds`` from now: others may use them
    only if they are believed to be gone by then."""

    job: int
    servers: int
    seconds: float


def admissions(
    waiting: Waiting,
    room: Room,
    ways: Callable[[Shape], Sequence[Way]],
    *,
    depth: int | None = None,
    reserved: Reservation | None = None,
    seconds: Callable[[int], float] | None = None,
) -> Iterator[Start]:
    """The jobs that start now, one after another; each is out of the queue when it is told.

    Whoever iterates takes each placement in ``room`` before asking for the next (in a copy, to ask what would be).
    ways : where a shape may go, best first. depth : jobs that may be passed over. reserved, seconds : what is kept for
    a job that has waited too long, and how long a job is believed to run.
    """
    if room.grown != waiting.grown or reserved is not None:
        waiting.stuck.clear()
        waiting.grown = room.grown
    stuck = waiting.stuck
    heads = waiting.heads(stuck)
    heapq.heapify(heads)
    blocked = [waiting.lines[shape] for shape in stuck] if heads else []
    while heads:
        rank, key, job, shape = heads[0]
        line = waiting.lines[shape]
        if depth is not None and blocked:
            mine = (-rank, -key, -job)
            if sum(len(other) - bisect_right(other, mine) for other in blocked) > depth:
                return
        allowed = EVERYWHERE if reserved is None else allowed_for(job, reserved, seconds)
        placed = place_by(room, shape, ways(shape), allowed=allowed)
        if placed is None:
            blocked.append(line)
            if reserved is None:
                stuck.add(shape)
            heapq.heappop(heads)
            continue
        line.pop()
        if line:
            heapq.heapreplace(heads, _head(line[-1], shape))
        else:
            heapq.heappop(heads)
        yield Start(job, *placed)


def allowed_for(job: int, reserved: Reservation, seconds: Callable[[int], float] | None) -> int:
    """The servers that a job may use beside what is reserved, as a mask. seconds : how long it is believed to run."""
    if job == reserved.job or (seconds is not None and seconds(job) <= reserved.seconds):
        return EVERYWHERE
    return ~reserved.servers


def reserve(
    job: int,
    shape: Shape,
    room: Room,
    tiers: Sequence[Tier],
    ends: Mapping[int, Sequence[tuple[float, int]]],
) -> Reservation | None:
    """The servers on which a gang that does not fit now is believed to fit first, and when.

    ends : by server, when base workers are believed to leave it (seconds from now) and their GPUs. None where no tier
    can ever hold the gang.
    """
    best: Reservation | None = None
    for tier in tiers:
        waits = sorted(
            (_wait(room.reach[server], min(held, shape.workers) * shape.gpus_per_worker, ends.get(server, ())), server)
            for shelf in tier
            if (held := room.shelves[shelf].gpus // shape.gpus_per_worker)
            for server in room.servers(shelf)
        )
        mask, left = 0, shape.workers
        for seconds, server in waits:
            mask |= 1 << server
            left -= room.gpus[server] // shape.gpus_per_worker
            if left <= 0:
                if seconds < float("inf") and (best is None or seconds < best.seconds):
                    best = Reservation(job, mask, seconds)
                break
    return best


def _wait(reach: int, needed: int, ends: Sequence[tuple[float, int]]) -> float:
    """Seconds until a server has so many GPUs that are free or flexible."""
    if reach >= needed:
        return 0.0
    for seconds, gpus in sorted(ends):
        reach += gpus
        if reach >= needed:
            return seconds
    return float("inf")
