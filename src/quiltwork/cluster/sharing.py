"""Flexible workers: when they are divided anew, where they go, and who leaves a server that is needed."""

from __future__ import annotations

import math

from quiltwork.cluster.job import Shape
from quiltwork.cluster.log import Action
from quiltwork.cluster.policy.flexing import lost_by_one_less, share, to_leave
from quiltwork.cluster.policy.placing import Placement, Tier, place_gang
from quiltwork.cluster.policy.rules import Elastic, FlexOn, Rules
from quiltwork.cluster.policy.tiers import Tiers
from quiltwork.cluster.running import Run
from quiltwork.cluster.state import Cluster


class Sharing:
    """The flexible demand of one cluster's elastic jobs. every_s : it is divided anew no more often."""

    def __init__(self, cluster: Cluster, rules: Rules, tiers: Tiers, *, every_s: float) -> None:
        self._cluster, self._rules, self._tiers, self._every_s = cluster, rules, tiers, every_s
        self._elastic: dict[int, Run] = {}
        self._shared_at = -math.inf
        self._unshared = False
        for number, run in cluster.runs.items():
            self.started(number, run)
        order = range(len(cluster.types))
        self._order = order if rules.flex_on is FlexOn.FASTEST else order[::-1]

    @property
    def any(self) -> bool:
        """Whether an elastic job runs, whose flexible workers might be pushed out."""
        return bool(self._elastic)

    def started(self, number: int, run: Run) -> None:
        """A job runs from now on."""
        if run.job.elastic and self._rules.elastic is not Elastic.NONE:
            self._elastic[number] = run
            self._unshared = True

    def left(self, number: int) -> None:
        """A job runs no more."""
        self._elastic.pop(number, None)
        self.changed()

    def changed(self) -> None:
        """GPUs came or went, or may be divided otherwise."""
        self._unshared = self.any

    def due(self) -> float:
        """When flexible demand is to be divided anew; infinity where nothing changed."""
        return self._shared_at + self._every_s if self._unshared else math.inf

    def share_if_due(self, now: float, *, waiting: bool) -> None:
        """Divide flexible demand anew, and move workers where that says. ``waiting`` : whether a job waits."""
        if not self._unshared or now < self._shared_at + self._every_s:
            return
        self._shared_at, self._unshared = now, False
        if self.any:
            self._share(waiting)

    def _share(self, waiting: bool) -> None:
        cluster = self._cluster
        numbers = list(self._elastic)
        runs = list(self._elastic.values())
        jobs = [run.flexible for run in runs]
        held = [tuple(run.flexing) for run in runs]
        found = share(
            jobs,
            [run.job.believed_left(run.done_by(cluster.now)) for run in runs],
            self._spare(),
            cluster.types,
            elastic=self._rules.elastic,
            order=self._order,
            held=held,
            stickiness=self._rules.stickiness,
            waiting=waiting,
        )
        cluster.note(Action.SHARE, before=len(jobs), cost=found.value, gain=found.gap)
        growing: list[tuple[int, int, int]] = []
        for at, target in enumerate(found.workers):
            if target == held[at]:
                continue
            for t, wanted in enumerate(target):
                if wanted < held[at][t]:
                    cluster.shrink(numbers[at], self._leaving(runs[at], t, held[at][t] - wanted), "share")
                elif wanted > held[at][t]:
                    growing.append((at, t, wanted - held[at][t]))
        growing.sort(key=lambda g: (-jobs[g[0]].gpus_per_worker, g[0], g[1]))
        for at, t, workers in growing:
            self._grow(numbers[at], runs[at].job.gpus_per_worker, t, workers)

    def _spare(self) -> list[int]:
        """GPUs by type that are free or held by flexible workers, on servers that take work."""
        room, types = self._cluster.room, self._cluster.types
        spare = [0] * len(types)
        for shelf, buckets in zip(room.shelves, room.within, strict=True):
            spare[types.index(shelf.gpu_type)] += sum(n * b.bit_count() for n, b in enumerate(buckets))
        return spare

    def _leaving(self, run: Run, t: int, workers: int) -> list[tuple[int, int]]:
        """Flexible workers on one type go from the servers that have the fewest flexible GPUs first."""
        room, type_of = self._cluster.room, self._cluster.type_of
        here = [s for s in run.flex if type_of[s] == t]
        here.sort(key=lambda s: (room.reach[s] - room.free[s], s))
        leaving = []
        for server in here:
            if not workers:
                break
            going = min(workers, run.flex[server])
            workers -= going
            leaving.append((server, going))
        return leaving

    def _grow(self, number: int, weight: int, t: int, workers: int) -> None:
        """Up to so many flexible workers more on one type, as far as there is room."""
        placed: list[tuple[int, int]] = []
        for tier in self._tiers.flexible(t):
            for server, gpus in self._scatter(tier, weight, workers):
                workers -= gpus // weight
                placed.append((server, gpus))
            if not workers:
                break
        if placed:
            self._cluster.grow(number, tuple(placed), "share")

    def _scatter(self, tier: Tier, weight: int, workers: int) -> Placement:
        """As many of the workers as there is room for."""
        room = self._cluster.room
        fitting = sum(
            (free // weight) * buckets.bit_count()
            for shelf in tier
            for free, buckets in enumerate(room.open[shelf])
            if buckets
        )
        fitting = min(workers, fitting)
        if not fitting:
            return ()
        return place_gang(room, Shape(weight, fitting, compact=False), [tier]) or ()

    def push_out(self, server: int, gpus: int, reason: str) -> None:
        """Flexible workers leave a server until so many GPUs more are free, those that are least missed."""
        if gpus <= 0:
            return
        cluster = self._cluster
        offers = []
        for number, workers in cluster.flex_on[server].items():
            run = cluster.runs[number]
            left = run.job.believed_left(run.done_by(cluster.now))
            lost = lost_by_one_less(run.flexible, left, tuple(run.counts), cluster.type_of[server], cluster.types)
            offers.append((number, workers, run.job.gpus_per_worker, lost))
        for number, workers in to_leave(offers, gpus):
            cluster.shrink(number, [(server, workers)], reason)
        self.changed()
