"""Jobs that have waited too long: servers are kept for one of them at a time."""

from __future__ import annotations

import heapq
from collections.abc import Container

from quiltwork.cluster.policy.tiers import Tiers
from quiltwork.cluster.policy.waiting import Reservation, reserve
from quiltwork.cluster.state import Cluster


class Starving:
    """Who of one cluster's jobs has waited longer than ``limit_s`` for each of its workers; None is no limit."""

    def __init__(self, cluster: Cluster, limit_s: float | None) -> None:
        self._cluster, self._limit_s = cluster, limit_s
        self._due: list[tuple[float, int]] = []
        """A heap: when a job has waited too long, and its number; one that waits no more is outdated."""

    def add(self, number: int) -> None:
        """A job waits, for the first time or again."""
        if self._limit_s is not None:
            job = self._cluster.jobs[number]
            heapq.heappush(self._due, (job.submit_s + self._limit_s * job.w_min, number))

    def reservation(self, waiting: Container[int], tiers: Tiers) -> Reservation | None:
        """Servers for the one that has waited too long for longest, of those that wait."""
        cluster = self._cluster
        while self._due and self._due[0][1] not in waiting:
            heapq.heappop(self._due)
        if not self._due or self._due[0][0] > cluster.now:
            return None
        number = self._due[0][1]
        ends: dict[int, list[tuple[float, int]]] = {}
        for run in cluster.runs.values():
            seconds = run.job.believed_left(run.done_by(cluster.now)) / run.rate
            for server, gpus in run.base:
                ends.setdefault(server, []).append((seconds, gpus))
        shape = cluster.jobs[number].shape
        return reserve(number, shape, cluster.room, tiers.base(shape), ends)
