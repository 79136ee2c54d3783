"""Which running jobs go back into the queue so that a shorter one can start."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from quiltwork.cluster.job import Shape
from quiltwork.cluster.policy.placing import Placement, Tier, place_gang
from quiltwork.cluster.policy.room import Room


@dataclass(frozen=True, slots=True)
class Victim:
    """A running job that may be stopped, and where its base workers are."""

    job: int
    placement: Placement


def victims_for(
    shape: Shape, room: Room, tiers: Sequence[Tier], running: Iterable[Victim], *, revoking: bool = False
) -> list[int]:
    """The jobs that are stopped for a gang of this shape: of ``running`` (the longest remaining first) as many as it
    takes, without those that are not in the way; none where stopping all would not do."""
    trial = room.copy()
    gone: list[Victim] = []
    placed = None
    for victim in running:
        for server, gpus in victim.placement:
            trial.give(server, gpus)
        gone.append(victim)
        placed = place_gang(trial, shape, tiers, revoking=revoking)
        if placed is not None:
            break
    if placed is None:
        return []
    for server, gpus in placed:
        trial.take(server, gpus)
    stopped = []
    for victim in reversed(gone):
        if all(trial.free[server] >= gpus for server, gpus in victim.placement):
            for server, gpus in victim.placement:
                trial.take(server, gpus)
        else:
            stopped.append(victim.job)
    return stopped
