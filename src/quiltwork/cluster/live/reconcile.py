"""From what is decided to what is: which workers leave now, and which can start on GPUs that are really free."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Present:
    """A worker that exists, or that was ordered: its GPUs are taken until it is known to be gone."""

    id: str
    job: str
    server: str
    slots: tuple[int, ...]
    leaving: bool = False


@dataclass(frozen=True)
class Wanted:
    """The workers that a job is decided to have, by server. A job that has none yet gets all of ``base`` at once."""

    gpus_per_worker: int
    base: Mapping[str, int] = field(default_factory=dict)
    flexible: Mapping[str, int] = field(default_factory=dict)

    def on(self, server: str) -> int:
        return self.base.get(server, 0) + self.flexible.get(server, 0)

    @property
    def servers(self) -> list[str]:
        return list(dict.fromkeys((*self.base, *self.flexible)))


@dataclass(frozen=True, slots=True)
class Start:
    """A worker to start, on these GPUs. ``flexible`` : it is not of the gang."""

    job: str
    server: str
    slots: tuple[int, ...]
    flexible: bool


@dataclass(frozen=True)
class Steps:
    """What can be done now. ``held_up`` : jobs, in order, that wait for GPUs which somebody is still leaving."""

    leave: tuple[str, ...]
    start: tuple[Start, ...]
    held_up: tuple[str, ...]


def reconcile(wanted: Mapping[str, Wanted], present: Sequence[Present], slots: Mapping[str, int]) -> Steps:
    """The next steps from ``present`` to ``wanted`` (by job, in the order of their starts).

    present : the oldest first. slots : GPUs of each server that can be reached; nothing starts on another. A GPU is
    free when no worker that is present has it, leaving or not: so nobody is ever started beside somebody who is only
    believed to be gone.
    """
    here: defaultdict[tuple[str, str], list[Present]] = defaultdict(list)
    taken: defaultdict[str, set[int]] = defaultdict(set)
    for worker in present:
        taken[worker.server].update(worker.slots)
        if not worker.leaving:
            here[worker.job, worker.server].append(worker)
    leave: list[str] = []
    for (job, server), workers in here.items():
        most = wanted[job].on(server) if job in wanted else 0
        leave.extend(worker.id for worker in reversed(workers[most:]))
    free = {server: [i for i in range(count) if i not in taken[server]] for server, count in slots.items()}
    start: list[Start] = []
    held_up: list[str] = []
    for job, want in wanted.items():
        lacking: list[tuple[str, bool]] = []
        for server in want.servers:
            running = len(here[job, server])
            base = want.base.get(server, 0)
            lacking += [(server, i >= base) for i in range(running, want.on(server))]
        if not lacking:
            continue
        # The gang at once; what is flexible as it comes.
        gang = [each for each in lacking if not each[1]]
        found = _seats(job, gang, want.gpus_per_worker, free)
        if found is None:
            held_up.append(job)
            continue
        start += found
        for each in lacking:
            if each[1]:
                more = _seats(job, [each], want.gpus_per_worker, free)
                if more is None:
                    held_up.append(job)
                    break
                start += more
    return Steps(tuple(leave), tuple(start), tuple(held_up))


def _seats(job: str, workers: Sequence[tuple[str, bool]], gpus: int, free: dict[str, list[int]]) -> list[Start] | None:
    """GPUs for all of them, taken out of ``free``; None, and nothing taken, where there are too few."""
    needed: defaultdict[str, int] = defaultdict(int)
    for server, _ in workers:
        needed[server] += gpus
    if any(len(free.get(server, ())) < count for server, count in needed.items()):
        return None
    found = []
    for server, flexible in workers:
        seats, free[server] = free[server][:gpus], free[server][gpus:]
        found.append(Start(job, server, tuple(seats), flexible))
    return found
