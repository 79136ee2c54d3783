"""Servers that are kept for a job: one that has waited too long, or that waits within its team's quota."""

from __future__ import annotations

import heapq
import math
from collections.abc import Container, Mapping
from types import MappingProxyType

from quiltwork.cluster.policy.rules import Rules
from quiltwork.cluster.policy.tiers import Tiers
from quiltwork.cluster.policy.waiting import Reservation, reserve
from quiltwork.cluster.state import Cluster

NOBODY: Mapping[int, float] = MappingProxyType({})


class Reserving:
    """Who of one cluster's jobs has waited for how long, and which servers one of them may count on."""

    def __init__(self, cluster: Cluster, rules: Rules, tiers: Tiers) -> None:
        self._cluster, self._rules, self._tiers = cluster, rules, tiers
        self._limits: list[tuple[float, int]] = []
        """When each job has waited too long, the first first; those that do not wait any more among them."""

    def waits(self, number: int) -> None:
        """A job waits from now on, or again."""
        if self._rules.starvation_s is not None:
            heapq.heappush(self._limits, (self._limit(number), number))

    def _limit(self, number: int) -> float:
        job, limit_s = self._cluster.jobs[number], self._rules.starvation_s
        return math.inf if limit_s is None else job.submit_s + limit_s * job.w_min

    def starved(self, waiting: Container[int]) -> int | None:
        """Of those that wait, the job that has waited too long for longest."""
        limits = self._limits
        while limits and limits[0][1] not in waiting:
            heapq.heappop(limits)
        return limits[0][1] if limits and limits[0][0] <= self._cluster.now else None

    def would_come_before(self, running: int, waiting: int) -> bool:
        """Whether servers would be kept for a running job first, were it stopped for one that waits."""
        limit = self._limit(running)
        return limit <= self._cluster.now and limit < self._limit(waiting)

    def kept_for(self, number: int | None, sooner: Mapping[int, float] = NOBODY) -> Reservation | None:
        """What is kept for a job; None where there is none, or nobody knows when it will have room. sooner : running
        jobs that may be stopped for it, and in how many seconds."""
        if number is None:
            return None
        cluster = self._cluster
        ends: dict[int, list[tuple[float, int]]] = {}
        for running, run in cluster.runs.items():
            seconds = run.job.believed_left(run.done_by(cluster.now)) / run.rate
            seconds = min(seconds, sooner.get(running, seconds))
            for server, gpus in run.base:
                ends.setdefault(server, []).append((seconds, gpus))
        shape = cluster.jobs[number].shape
        return reserve(number, shape, cluster.room, self._tiers.base(shape), ends)
