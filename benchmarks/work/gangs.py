"""Lent servers full of gangs, at random: what reclaiming is compared on.

Nineteen of twenty GPUs are taken. Sizes of running jobs are drawn by ``MIX``: a third are small jobs of one to four
GPUs, in about the proportions in which Philly ran them (Jeon et al., ATC 2019), a fifth takes a server, and nearly half
are gangs of two to eight servers, far more than Philly ran: where nearly every job is on one server, counting jobs is
as good as any cost. Jobs have come and gone: in each of ``ROUNDS`` rounds a fifth of them leaves and as many of the
same sizes come. A server's number says nothing about what is on it.

``Family.COMPACT`` : a gang takes as few servers as it can while there are whole ones, and whatever GPUs are left when
there are not. ``Family.SPREAD`` : locality does not count. Workers of 1, 2 or 4 GPUs go to the servers with the least
room for them, so that most servers are shared by several gangs.

Instances are numbered. Those of ``REPORTED`` are for what is reported and nothing else; whoever changes a policy looks
at others (``DEVELOPMENT``).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from enum import StrEnum

from quiltwork.cluster.job import Shape
from quiltwork.cluster.policy.placing import Placement, Tier, place_gang
from quiltwork.cluster.policy.reclaim import Held
from quiltwork.cluster.policy.room import Room
from quiltwork.cluster.server import Pool, Server

MIX = {1: 0.20, 2: 0.05, 4: 0.10, 8: 0.20, 16: 0.20, 24: 0.05, 32: 0.12, 64: 0.08}
"""GPUs of a job, and the share of running jobs that have so many."""
GPUS = 8
WORKERS = (1, 2, 4)
TAKEN = 0.95
ROUNDS, LEAVING = 10, 0.2
SERVERS = (20, 50, 100, 300)
ASKED_BACK = 0.2
"""Of the servers."""
REPORTED = {20: range(200), 50: range(200), 100: range(100), 300: range(40)}
DEVELOPMENT = range(1_000_000, 1_000_100)


class Family(StrEnum):
    COMPACT = "compact"
    SPREAD = "spread"


def instance(servers: int, number: int, seed: int = 0, family: Family = Family.COMPACT) -> dict[int, Held]:
    """Lent servers and the base workers on them."""
    rng = random.Random(f"gangs/{seed}/{servers}/{number}")
    room = Room([Server(f"infer-{i}", "T4", GPUS, Pool.ONLOAN) for i in range(servers)])
    lent = tuple(i for i, shelf in enumerate(room.shelves) if shelf.pool is Pool.ONLOAN)
    sizes = population(servers * GPUS, rng)
    shapes = [_shapes(size, family, rng) for size in sizes]
    placed: dict[int, Placement] = {}
    _come(room, lent, shapes, placed, rng.sample(range(len(sizes)), len(sizes)))
    for _ in range(ROUNDS):
        leaving = rng.sample(range(len(sizes)), max(1, round(LEAVING * len(sizes))))
        for job in leaving:
            for server, gpus in placed.pop(job):
                room.give(server, gpus)
        rng.shuffle(leaving)
        _come(room, lent, shapes, placed, leaving)
    base: list[dict[int, int]] = [{} for _ in range(servers)]
    names = rng.sample(range(servers), servers)
    for job in sorted(placed):
        for server, gpus in placed[job]:
            base[names[server]][job] = gpus
    return {server: Held(jobs) for server, jobs in enumerate(base)}


def population(capacity: int, rng: random.Random) -> list[int]:
    """GPUs of each running job: drawn until so many are taken, again where one would be too large."""
    sizes: list[int] = []
    taken = 0
    while taken < TAKEN * capacity:
        size = rng.choices(list(MIX), list(MIX.values()))[0]
        if taken + size <= capacity:
            sizes.append(size)
            taken += size
    return sizes


def _shapes(size: int, family: Family, rng: random.Random) -> tuple[Shape, ...]:
    """What a job asks for, and what it makes do with: single GPUs wherever they are."""
    relaxed = Shape(1, size, compact=False)
    if family is Family.COMPACT:
        return Shape(1, size), relaxed
    of_worker = min(size, rng.choice(WORKERS))
    return Shape(of_worker, size // of_worker, compact=False), relaxed


def _come(
    room: Room, lent: Tier, shapes: Sequence[Sequence[Shape]], placed: dict[int, Placement], jobs: Sequence[int]
) -> None:
    """One after the other, as each asks for where there is room for that."""
    for job in jobs:
        found = next(filter(None, (place_gang(room, shape, [lent]) for shape in shapes[job])), None)
        assert found is not None, "there is room for all of them"
        for server, gpus in found:
            room.take(server, gpus)
        placed[job] = found


def asked_back(servers: int) -> int:
    return round(ASKED_BACK * servers)


def jobs_on(lent: Mapping[int, Held]) -> set[int]:
    return {job for held in lent.values() for job in held.base}
