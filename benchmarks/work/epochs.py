"""A full cluster with a long queue, and how long the scheduler takes for each event then.

A fifth of the servers is inference's and lent, the others are training's. Jobs run everywhere when the queue comes:
sizes of running jobs are Philly's by time, those of waiting ones Philly's by submission (jobs outside the 15-day
trace), durations are lognormal with Philly's median and mean. Then jobs end and others come, as many as end.

What is timed is the scheduler that the simulator and the live controller run: the job that ended gives back what it
had, or one that came is put into the queue; whoever can starts; flexible workers are divided anew and moved where the
rules do that; and all of it is written to the log.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from quiltwork.cluster.forecast import persistent
from quiltwork.cluster.job import Job
from quiltwork.cluster.policy.rules import Elastic, Rules
from quiltwork.cluster.scheduler import Scheduler
from quiltwork.cluster.simulate import two_clusters
from quiltwork.cluster.speed import Speed
from quiltwork.cluster.state import Cluster

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


@dataclass
class Times:
    """Seconds: for the queue built from nothing and the decision on it, and for each event's epoch after that."""

    cold_s: float = 0.0
    epochs_s: list[float] = field(default_factory=list)
    started: int = 0
    """Jobs, in those epochs."""
    left: int = 0
    """Jobs that still wait after them."""
    elastic: int = 0
    """Jobs that run and can have more workers."""


class World:
    """A cluster, its scheduler, and the ends of jobs that run; what is not the scheduler's is not timed."""

    def __init__(self, load: Load, rules: Rules, clock: Callable[[], float]) -> None:
        lent = round(LENT * load.servers)
        self.cluster = Cluster(two_clusters(load.servers - lent, lent), ("V100", "T4"))
        self.scheduler = Scheduler(self.cluster, rules, forecast=persistent, share_every_s=0.0)
        self.scheduler.lend(0.0, lent)
        self._clock = clock
        self._ends: list[tuple[float, int, int]] = []
        self.now = 0.0

    def come(self, jobs: Sequence[Job]) -> float:
        """Jobs come together, and it is decided on them; seconds that took."""
        self.now = max(self.now, jobs[0].submit_s)
        began = self._clock()
        for job in jobs:
            self.scheduler.submit(self.now, job)
        self.scheduler.decide(self.now)
        took = self._clock() - began
        self._time_ends()
        return took

    def end(self) -> float:
        """The next job ends, and it is decided on what it leaves; seconds that took."""
        self.now, number, _ = heapq.heappop(self._ends)
        work = self.cluster.jobs[number].work
        began = self._clock()
        self.scheduler.ended(self.now, number, work)
        self.scheduler.decide(self.now)
        took = self._clock() - began
        self._time_ends()
        return took

    def next_end(self) -> float:
        while self._outdated(self._ends[0]):
            heapq.heappop(self._ends)
        return self._ends[0][0]

    def _outdated(self, end: tuple[float, int, int]) -> bool:
        run = self.cluster.runs.get(end[1])
        return run is None or run.turn != end[2]

    def _time_ends(self) -> None:
        for number, run in self.cluster.retimed.items():
            heapq.heappush(self._ends, (run.since + (run.job.work - run.done) / run.rate, number, run.turn))
        self.cluster.retimed.clear()


def measured(load: Load, rules: Rules, *, epochs: int, seed: str, clock: Callable[[], float]) -> Times:
    """A cluster of that size under those rules, sharing as often as it decides."""
    jobs = jobs_of(load, epochs, seed)
    world = World(load, rules, clock)
    filling = [job for job in jobs if job.submit_s < QUEUE_AT]
    queue, later = jobs[len(filling) : len(filling) + load.queued], jobs[len(filling) + load.queued :]
    world.come(filling)
    times = Times(cold_s=world.come(queue))
    elastic = rules.elastic is not Elastic.NONE
    times.elastic = sum(run.job.elastic for run in world.cluster.runs.values()) if elastic else 0
    waiting, came = len(world.cluster.waiting), 0
    for _ in range(epochs):
        if world.next_end() <= later[came].submit_s:
            times.epochs_s.append(world.end())
        else:
            times.epochs_s.append(world.come([later[came]]))
            came += 1
    times.left = len(world.cluster.waiting)
    times.started = waiting + came - times.left
    return times


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
