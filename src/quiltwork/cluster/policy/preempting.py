"""Which running jobs go back into the queue so that another one can start."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from quiltwork.cluster.job import Shape
from quiltwork.cluster.policy.placing import EVERYWHERE, Placement, Tier, place_gang
from quiltwork.cluster.policy.room import Room


@dataclass(frozen=True, slots=True)
class Victim:
    """A running job that may be stopped, and where its base workers are."""

    job: int
    placement: Placement


@dataclass(frozen=True, slots=True)
class Clearing:
    """The jobs that are stopped, and where the gang goes that they are stopped for."""

    stopped: tuple[int, ...]
    placement: Placement


def clear_for(
    shape: Shape,
    room: Room,
    tiers: Sequence[Tier],
    running: Iterable[Victim],
    *,
    revoking: bool = False,
    allowed: int = EVERYWHERE,
) -> Clearing | None:
    """Room for a gang that has none: of ``running`` (the first to go first) as many are stopped as it takes, without
    those that are not in the way; None where stopping all would not do.

    revoking : flexible workers leave as well. allowed : a mask of the servers that may be used.
    """
    trial = room.copy()
    left, take = (trial.reach, trial.keep) if revoking else (trial.free, trial.take)
    gone: list[Victim] = []
    placed = None
    for victim in running:
        for server, gpus in victim.placement:
            trial.give(server, gpus)
        gone.append(victim)
        placed = place_gang(trial, shape, tiers, revoking=revoking, allowed=allowed)
        if placed is not None:
            break
    if placed is None:
        return None
    for server, gpus in placed:
        take(server, gpus)
    stopped = []
    for victim in reversed(gone):
        if all(left[server] >= gpus for server, gpus in victim.placement):
            for server, gpus in victim.placement:
                take(server, gpus)
        else:
            stopped.append(victim.job)
    return Clearing(tuple(stopped), placed)
