"""How many flexible workers each elastic job gets on GPUs of each type (phase two of the allocation)."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from quiltwork.cluster.policy.knapsack import Menu, allocate, allocate_exactly, menu_of
from quiltwork.cluster.policy.rules import Elastic
from quiltwork.cluster.speed import Speed

Counts = tuple[int, ...]
"""Workers by GPU type, in the order of the types."""


@dataclass(frozen=True, slots=True)
class Flexible:
    """An elastic job as it runs: base workers by type, flexible ones at most, and the types these may be on."""

    speed: Speed
    base: Counts
    most: int
    gpus_per_worker: int
    usable: tuple[bool, ...]


@dataclass(frozen=True)
class Shares:
    """Flexible workers by job and type; what they are worth in seconds of completion time, and the share by which the
    best allocation could be better (types one after another, as given)."""

    workers: list[Counts]
    value: float
    gap: float


def share(
    jobs: Sequence[Flexible],
    remaining: Sequence[float],
    capacity: Sequence[int],
    gpu_types: Sequence[str],
    *,
    elastic: Elastic = Elastic.MARGINAL,
    order: Sequence[int] | None = None,
    held: Sequence[Counts] | None = None,
    stickiness: float = 0.0,
    waiting: bool = False,
) -> Shares:
    """Divide the GPUs that base demand leaves.

    remaining : reference worker-seconds that each job is believed to have left. capacity : GPUs by type. order : in
    which types are divided, each knowing what the former gave; as given where None (the fastest first: then a slow GPU
    goes only to whom it still speeds up). held : what each job has now. waiting : whether a job waits that does not
    fit.
    """
    types = tuple(gpu_types)
    given = [list(job.base) for job in jobs]
    left = [job.most for job in jobs]
    value = bound = 0.0
    for t in range(len(types)) if order is None else order:
        who = [i for i, job in enumerate(jobs) if left[i] and job.usable[t]]
        if not who or capacity[t] <= 0:
            continue
        menus = [_menu(jobs[i].speed, tuple(given[i]), t, left[i], types) for i in who]
        gpus = [jobs[i].gpus_per_worker for i in who]
        scale = [remaining[i] for i in who]
        if elastic is Elastic.MARGINAL:
            now = None if held is None else [held[i][t] for i in who]
            found = allocate(menus, gpus, capacity[t], scale=scale, held=now, stickiness=stickiness)
            workers, value, bound = found.workers, value + found.value, bound + found.bound
        elif elastic is Elastic.EXACT:
            found = allocate_exactly(menus, gpus, capacity[t], scale=scale)
            workers, value, bound = found.workers, value + found.value, bound + found.bound
        else:
            speeds = [[_speed(jobs[i].speed, tuple(given[i]), t, k, types) for k in range(left[i] + 1)] for i in who]
            workers = _by_turns(speeds, gpus, scale, capacity[t], elastic, waiting)
        for i, k in zip(who, workers, strict=True):
            given[i][t] += k
            left[i] -= k
    more = [tuple(n - b for n, b in zip(now, job.base, strict=True)) for now, job in zip(given, jobs, strict=True)]
    return Shares(more, value, (bound - value) / bound if bound > 0 else 0.0)


@lru_cache(maxsize=1 << 16)
def _menu(speed: Speed, counts: Counts, on: int, most: int, gpu_types: tuple[str, ...]) -> Menu:
    """What workers more on one type save, in seconds for each reference worker-second that is left."""
    speeds = np.array([_speed(speed, counts, on, k, gpu_types) for k in range(most + 1)])
    with np.errstate(divide="ignore"):
        return menu_of(1 / speeds[0] - np.minimum(1 / speeds, 1e9))


def _speed(speed: Speed, counts: Counts, on: int, more: int, gpu_types: tuple[str, ...]) -> float:
    return speed.of([n + more if t == on else n for t, n in enumerate(counts)], gpu_types)


def lost_by_one_less(job: Flexible, remaining: float, counts: Counts, on: int, gpu_types: Sequence[str]) -> float:
    """Seconds per GPU by which an elastic job ends later with one worker less on a type."""
    now = job.speed.of(counts, gpu_types)
    less = job.speed.of([n - (t == on) for t, n in enumerate(counts)], gpu_types)
    if not less:
        return float("inf")
    return remaining * (1 / less - 1 / now) / job.gpus_per_worker


def to_leave(offers: Sequence[tuple[int, int, int, float]], gpus: int) -> list[tuple[int, int]]:
    """Whose flexible workers leave a server so that ``gpus`` more of it are free: those that are least missed.

    offers : job, its flexible workers there, GPUs of each, seconds lost per GPU. Returns jobs and workers; too few GPUs
    where all of them together have no more.
    """
    leaving: list[tuple[int, int]] = []
    for job, workers, weight, _ in sorted(offers, key=lambda o: (o[3], o[0])):
        if gpus <= 0:
            break
        gone = min(workers, -(-gpus // weight))
        leaving.append((job, gone))
        gpus -= gone * weight
    return leaving


def _by_turns(
    speeds: Sequence[Sequence[float]],
    gpus: Sequence[int],
    remaining: Sequence[float],
    capacity: int,
    elastic: Elastic,
    waiting: bool,
) -> list[int]:
    """Worker by worker to the job that comes first by another system's measure."""
    workers = [0] * len(speeds)
    if elastic is Elastic.NONE or (elastic is Elastic.GANDIVA and waiting):
        return workers

    def rank(i: int) -> float:
        k, curve = workers[i], speeds[i]
        if elastic is Elastic.GANDIVA:
            return float(k)
        gain = curve[k + 1] - curve[k]
        if gain <= 0:
            return float("inf")
        if elastic is Elastic.AFS:
            # What is left at this speed, over the share that a worker adds to it.
            return remaining[i] / gain * gpus[i]
        # The harmonic mean of speed-ups over each job's fair share rises most where 1 / speed falls most.
        return -(curve[0] / curve[k] - curve[0] / curve[k + 1]) / gpus[i]

    heap = [(rank(i), i) for i in range(len(speeds)) if len(speeds[i]) > 1]
    heapq.heapify(heap)
    while heap and capacity > 0:
        first, i = heapq.heappop(heap)
        if first == float("inf") or gpus[i] > capacity:
            continue
        workers[i] += 1
        capacity -= gpus[i]
        if workers[i] + 1 < len(speeds[i]):
            heapq.heappush(heap, (rank(i), i))
    return workers
