"""A job's workers as far as they are known, and who of them should compute: pure functions of what they said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from quiltwork.cluster.elastic.message import Plan, Ready


class Phase(Enum):
    """What a connected worker is doing."""

    COMING = auto()
    READY = auto()
    """It waits, with or without a state."""
    COMPUTING = auto()
    ENDING = auto()
    """It has been told, or has told, that it ends."""


@dataclass
class Worker:
    """A worker that is connected."""

    phase: Phase = Phase.COMING
    ready: Ready | None = None
    leaving: bool = False
    """Whether it is no more to be counted on."""
    held: int | None = None
    """Steps behind the whole state that it waits with; None where it computes, or has none."""

    @property
    def able(self) -> bool:
        """Whether it may be given something to compute."""
        return self.phase in (Phase.READY, Phase.COMPUTING) and not self.leaving


Workers = Mapping[str, Worker]


def target(workers: Workers, wanted: tuple[str, ...], current: tuple[str, ...]) -> tuple[str, ...] | None:
    """Who should compute now, of those who can, by rank; nobody where the job is to stop.

    Whoever is no longer wanted goes at once, except where nobody is there yet to take over; newcomers who are still
    coming up are waited for together, unless somebody goes. Other ranks alone are no reason for a change. A job that
    has not begun waits for all who are wanted: until then, or where nobody is able, None.
    """
    able = compatible(workers, tuple(name for name in wanted if name in workers and workers[name].able), current)
    if not current:
        begun = any(worker.held is not None for worker in workers.values())
        there = all(name in workers and workers[name].phase is not Phase.COMING for name in wanted)
        return able if able and (begun or there) else None
    if set(current) <= set(able):
        coming = any(name in workers and workers[name].phase is Phase.COMING for name in wanted)
        return current if coming or len(able) == len(current) else able
    if able or not wanted or any(name in workers and workers[name].leaving for name in current):
        return able
    return current


def compatible(workers: Workers, able: tuple[str, ...], current: tuple[str, ...]) -> tuple[str, ...]:
    """Those who can compute together with the first of the present members, or of all where none is among them."""
    first = next((name for name in able if name in current), None) or next(iter(able), None)
    return tuple(name for name in able if name == first or why_not(workers, name, first) is None)


def why_not(workers: Workers, name: str, first: str | None) -> str | None:
    """Why a worker cannot share steps with another one; None where it can."""
    mine, other = workers[name].ready, None if first is None else workers[first].ready
    if mine is None or other is None or not (mine.elastic and other.elastic):
        return "is not elastic: one worker alone computes it"
    return None if mine.layout == other.layout else "has parameters other than those of the job's other workers"


def plan_for(generation: int, members: tuple[str, ...], workers: Workers, current: tuple[str, ...]) -> Plan:
    """How to get from who computes to ``members``: who has the state, who lacks it, and where they find each other."""
    held = {name: worker.held for name, worker in workers.items() if worker.held is not None}
    restore = False
    if current:
        source = next((name for name in current if name in members), current[0])
        receivers = tuple(name for name in members if name not in current)
    elif held:
        furthest = [name for name in (*members, *sorted(held)) if held.get(name) == max(held.values())]
        source = furthest[0]
        receivers = tuple(name for name in members if held.get(name) != held[source])
    else:
        source, receivers, restore = members[0], members[1:], True
    if not receivers and members:
        source = members[0]
    ready = workers[source].ready
    return Plan(generation, members, source, receivers, "" if ready is None else ready.store, restore)
