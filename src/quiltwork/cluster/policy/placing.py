"""Which servers a job's workers go to: best fit, so that whole servers stay free for those that need them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from quiltwork.cluster.job import Shape
from quiltwork.cluster.policy.room import Room

Placement = tuple[tuple[int, int], ...]
"""Servers, and the GPUs taken on each."""

Tier = tuple[int, ...]
"""Shelves that are looked at as one: servers of one GPU type, the smallest first where they are of several sizes."""

Way = tuple[Sequence[Tier], bool]
"""Tiers to look at, the best first, and whether flexible workers leave for whoever comes."""

EVERYWHERE = -1
"""Every server allowed, as a mask."""


def place_gang(
    room: Room, shape: Shape, tiers: Sequence[Tier], *, revoking: bool = False, allowed: int = EVERYWHERE
) -> Placement | None:
    """Servers for all of a gang's workers, of the first tier that has room for all; None where none has.

    revoking : GPUs of flexible workers count as free. allowed : a mask of the servers that may be used.
    """
    shelves = room.within if revoking else room.open
    for tier in tiers:
        size, largest = room.shelves[tier[0]].gpus, room.shelves[tier[-1]].gpus
        if size == largest:
            placed = _place_in([shelves[shelf] for shelf in tier], size, shape, allowed)
        else:
            placed = _place_over_sizes([(room.shelves[shelf].gpus, shelves[shelf]) for shelf in tier], shape, allowed)
        if placed is not None:
            return placed
    return None


def place_by(
    room: Room, shape: Shape, ways: Iterable[Way], *, allowed: int = EVERYWHERE
) -> tuple[Placement, bool] | None:
    """Servers for a gang by the first way that has room for it, and whether flexible workers have to leave those."""
    for tiers, revoking in ways:
        placed = place_gang(room, shape, tiers, revoking=revoking, allowed=allowed)
        if placed is not None:
            return placed, revoking
    return None


def _place_in(shelves: list[list[int]], size: int, shape: Shape, allowed: int) -> Placement | None:
    weight, workers = shape.gpus_per_worker, shape.workers
    per_server = size // weight
    if not per_server:
        return None
    if not shape.compact:
        return _scattered(shelves, size, weight, workers, allowed)
    whole, rest = divmod(workers, per_server)
    if not whole:
        server = best_fit(shelves, rest * weight, size, allowed)
        return None if server is None else ((server, rest * weight),)
    full = per_server * weight
    found: list[tuple[int, int]] = []
    for free in range(full, size + 1):
        mask = 0
        for buckets in shelves:
            mask |= buckets[free]
        mask &= allowed
        while mask and len(found) < whole:
            low = mask & -mask
            mask ^= low
            found.append((low.bit_length() - 1, full))
    if len(found) < whole:
        return None
    if rest:
        for server, _ in found:
            allowed &= ~(1 << server)
        last = best_fit(shelves, rest * weight, size, allowed)
        if last is None:
            return None
        found.append((last, rest * weight))
    return tuple(found)


def _place_over_sizes(tier: Sequence[tuple[int, list[int]]], shape: Shape, allowed: int) -> Placement | None:
    """Servers of several sizes, as few as there are: whole ones, the largest first, and the rest on one."""
    shelves = [buckets for _, buckets in tier]
    largest = tier[-1][0]
    if not shape.compact:
        padded = [buckets + [0] * (largest + 1 - len(buckets)) for buckets in shelves]
        return _scattered(padded, largest, shape.gpus_per_worker, shape.workers, allowed)
    weight, workers = shape.gpus_per_worker, shape.workers
    found: list[tuple[int, int]] = []
    for size, buckets in reversed(tier):
        full = size // weight * weight
        for free in range(max(full, 1), size + 1):
            mask = buckets[free] & allowed
            while mask and 0 < full <= workers * weight:
                low = mask & -mask
                mask ^= low
                allowed ^= low
                workers -= full // weight
                found.append((low.bit_length() - 1, full))
        if workers and (last := best_fit(shelves, workers * weight, largest, allowed)) is not None:
            found.append((last, workers * weight))
            workers = 0
        if not workers:
            return tuple(found)
    return None


def _scattered(shelves: list[list[int]], size: int, weight: int, workers: int, allowed: int) -> Placement | None:
    """Worker by worker on the server with the least room, which it is then for the next worker as well."""
    found: list[tuple[int, int]] = []
    for free in range(weight, size + 1):
        mask = 0
        for buckets in shelves:
            mask |= buckets[free]
        mask &= allowed
        while mask and workers:
            low = mask & -mask
            mask ^= low
            here = min(free // weight, workers)
            workers -= here
            found.append((low.bit_length() - 1, here * weight))
        if not workers:
            return tuple(found)
    return None


def best_fit(shelves: Sequence[list[int]], gpus: int, size: int, allowed: int = EVERYWHERE) -> int | None:
    """The server with the least free GPUs that are enough, the first of several alike; None where none has enough."""
    for free in range(gpus, size + 1):
        mask = 0
        for buckets in shelves:
            if free < len(buckets):
                mask |= buckets[free]
        mask &= allowed
        if mask:
            return (mask & -mask).bit_length() - 1
    return None
