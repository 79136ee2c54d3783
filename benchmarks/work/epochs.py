"""A full cluster with a long queue, and how long the scheduler takes for each event then.

A fifth of the servers is inference's and lent, the others are training's. Jobs run everywhere when the queue comes:
sizes of running jobs are Philly's by time, those of waiting ones Philly's by submission (jobs outside the 15-day
trace), durations are lognormal with Philly's median and mean. Then jobs end and others come, as many as end.

What is timed is the simulator's scheduler itself: the job that ended gives back what it had, the one that came is put
into the queue, whoever can starts, flexible workers are divided anew where the rules do that, and all of it is logged.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from quiltwork.cluster.job import Job
from quiltwork.cluster.policy.rules import Rules
from quiltwork.cluster.simulate import Settings, Simulation, two_clusters
from quiltwork.cluster.speed import Speed

SUBMITTED = {1: 0.9073, 2: 0.0291, 4: 0.0263, 8: 0.0307, 16: 0.0048, 32: 0.0014, 64: 0.0004}
RUNNING = {1: 0.586, 2: 0.013, 4: 0.131, 8: 0.229, 16: 0.038, 32: 0.003}
MEDIAN_S, MEAN_S = 1568.0, 11_914.0
SIGMA = math.sqrt(2 * math.log(MEAN_S / MEDIAN_S))
LENT, FUNGIBLE, ELASTIC = 0.2, 0.21, 0.2
"""Of the servers; of the jobs; of the running jobs: at 10,000 servers some four thousand."""
CURVES = (1.0, 0.95, 0.9, 0.8, 0.7)
"""Speed of w workers is w to one of these powers."""
QUEUE_AT = 1.0


@dataclass(frozen=True)
class Load:
    """How much there is: jobs that wait, and servers."""

    queued: int
    servers: int


class _Enough(Exception):
    """As many epochs as were wanted."""


@dataclass
class Times:
    """Seconds: for the queue built from nothing and the decision on it, and for each event's epoch after that."""

    cold_s: float = 0.0
    epochs_s: list[float] = field(default_factory=list)
    started: int = 0
    """Jobs, in those epochs."""
    elastic: int = 0
    """Jobs that run and can have more workers."""


class Timed(Simulation):
    """Stops after so many epochs with the queue in place, and knows how long each took."""

    def measure(self, epochs: int, clock: Callable[[], float]) -> Times:
        self._clock, self._wanted, self._times, self._spent, self._cold = clock, epochs, Times(), 0.0, True
        try:
            self.run()
        except _Enough:
            return self._times
        raise AssertionError("the jobs have ended before there were enough epochs")

    def _end(self, number: int) -> None:
        began = self._clock()
        super()._end(number)
        self._spent += self._clock() - began

    def _submit(self, number: int) -> None:
        began = self._clock()
        super()._submit(number)
        self._spent += self._clock() - began

    def _decide(self) -> None:
        waited, began = self._queued, self._clock()
        super()._decide()
        spent, self._spent = self._spent + self._clock() - began, 0.0
        if self.now < QUEUE_AT:
            return
        if self._cold:
            self._cold = False
            self._times.cold_s, self._times.elastic = spent, len(self._elastic)
            return
        self._times.epochs_s.append(spent)
        self._times.started += waited - self._queued
        if len(self._times.epochs_s) == self._wanted:
            raise _Enough


def measured(load: Load, rules: Rules, *, epochs: int, seed: str, clock: Callable[[], float]) -> Times:
    """A cluster of that size under those rules, sharing as often as it decides."""
    jobs = jobs_of(load, epochs, seed)
    lent = round(LENT * load.servers)
    servers = two_clusters(load.servers - lent, lent)
    rules = replace(rules, headroom=0.0, hysteresis=0.0)
    return Timed(servers, jobs, rules, need=[0.0], settings=Settings(share_every_s=0.0)).measure(epochs, clock)


def jobs_of(load: Load, epochs: int, seed: str) -> list[Job]:
    """Those that fill the cluster, those that wait, and as many more as can end in so many epochs."""
    rng = random.Random(f"epochs/{seed}/{load.queued}/{load.servers}")
    speeds = [Speed({t: tuple(c * w**power for w in range(1, 129)) for t, c in (("V100", 1.0), ("T4", 1 / 3))}, 1.0)
              for power in CURVES]  # fmt: skip
    jobs: list[Job] = []

    def add(at: float, mix: Mapping[int, float], seconds: float, elastic: bool) -> int:
        size = rng.choices(list(mix), list(mix.values()))[0]
        speed = rng.choice(speeds)
        work = max(1.0, seconds) * speed.on("V100", size)
        jobs.append(Job(f"j{len(jobs)}", at, work, speed, w_min=size, w_max=2 * size if elastic else size,
                        believed=work, fungible=rng.random() < FUNGIBLE, hetero=elastic))  # fmt: skip
        return size

    taken, most = 0, min(max(RUNNING), load.servers * 8 // 4)
    running = {size: share for size, share in RUNNING.items() if size <= most}
    while taken < load.servers * 8:
        # Of a job that runs at some moment what is left is a share of a duration drawn by its length.
        whole = MEDIAN_S * math.exp(SIGMA**2 + SIGMA * rng.gauss(0, 1))
        taken += add(0.0, running, rng.random() * whole, rng.random() < ELASTIC)
    for _ in range(load.queued):
        add(QUEUE_AT, SUBMITTED, MEDIAN_S * math.exp(SIGMA * rng.gauss(0, 1)), False)
    between = MEAN_S / (len(jobs) - load.queued)
    for i in range(epochs):
        add(QUEUE_AT + (i + 1) * between, SUBMITTED, MEDIAN_S * math.exp(SIGMA * rng.gauss(0, 1)), False)
    return jobs
