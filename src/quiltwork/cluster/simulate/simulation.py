"""A cluster under virtual time: a heap of events that asks the scheduler for every decision.

A bare heap, not processes of a simulation library: there are some hundred thousand events, and each costs little more
than the decision it leads to.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence

from quiltwork.cluster.forecast import forecast_named
from quiltwork.cluster.job import Job
from quiltwork.cluster.log import Action, Row
from quiltwork.cluster.policy.rules import Rules
from quiltwork.cluster.scheduler import Scheduler
from quiltwork.cluster.server import Server
from quiltwork.cluster.simulate.settings import Settings
from quiltwork.cluster.state import Cluster
from quiltwork.core.errors import BadInputError

NEVER = math.inf


class Simulation:
    """One cluster, its jobs, and inference's need, from the first submission until the last job ends.

    servers : training's (pool TRAIN) and inference's (pool INFER). jobs : by submission. need : the share of its
    servers that inference needs whenever loans are decided, from the beginning again after its end; None where nothing
    is lent. Raises BadInputError for a job that training's servers can never hold, ids given twice,
    and jobs out of order.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        jobs: Sequence[Job],
        rules: Rules,
        *,
        need: Sequence[float] | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.jobs, self.need = jobs, need
        self.settings = settings or Settings()
        self.cluster = Cluster(servers, self.settings.gpu_types, self.settings.delays)
        self.scheduler = Scheduler(
            self.cluster,
            rules,
            forecast=forecast_named(self.settings.forecast),
            share_every_s=self.settings.share_every_s,
            loans_every_s=self.settings.loans_every_s,
            return_s=self.settings.return_s,
            chance=random.Random(self.settings.seed),
        )
        self._check()
        self._ends: list[tuple[float, int, int]] = []
        """When runs end, their numbers and turns: one whose turn has passed is outdated."""
        self._returns: list[tuple[float, int]] = []

    def _check(self) -> None:
        for i, part in enumerate(self.need or ()):
            if not 0 <= part <= 1:
                raise BadInputError(f"inference needs {part} of its servers", where=f"need {i}")
        seen: set[str] = set()
        before = -math.inf
        for job in self.jobs:
            where = f"job {job.id}"
            if job.id in seen:
                raise BadInputError("the id is given twice", where=where)
            if job.submit_s < before:
                raise BadInputError("submitted before the job that precedes it", where=where, hint="sort by time")
            self.scheduler.check(job)
            seen.add(job.id)
            before = job.submit_s

    def run(self) -> list[Row]:
        """Everything until the last job has ended; returns the log."""
        jobs, count, ends = self.jobs, len(self.jobs), self._ends
        cluster, scheduler = self.cluster, self.scheduler
        tick_s = self.settings.loans_every_s
        start = now = jobs[0].submit_s if jobs else 0.0
        loaning = bool(self.need)
        arrived = tick = 0
        while arrived < count or cluster.runs or cluster.waiting:
            while ends and self._outdated(ends[0]):
                heapq.heappop(ends)
            arrival = jobs[arrived].submit_s if arrived < count else NEVER
            end = ends[0][0] if ends else NEVER
            back = self._returns[0][0] if self._returns else NEVER
            then = min(arrival, end, back, scheduler.due(), start + tick * tick_s if loaning else NEVER)
            if then == NEVER:
                raise AssertionError("jobs wait, and nothing will happen any more")
            now = max(now, then)
            while ends and ends[0][0] <= now:
                ended = heapq.heappop(ends)
                if not self._outdated(ended):
                    scheduler.ended(now, ended[1], jobs[ended[1]].work)
            while self._returns and self._returns[0][0] <= now:
                scheduler.returned(now, heapq.heappop(self._returns)[1])
            if loaning and start + tick * tick_s <= now:
                self._loans(now, tick)
                tick += 1
            while arrived < count and jobs[arrived].submit_s <= now:
                scheduler.submit(now, jobs[arrived])
                arrived += 1
            scheduler.decide(now)
            self._time_ends()
        return cluster.log

    def _outdated(self, end: tuple[float, int, int]) -> bool:
        run = self.cluster.runs.get(end[1])
        return run is None or run.turn != end[2]

    def _time_ends(self) -> None:
        """When jobs whose speed changed end now."""
        retimed = self.cluster.retimed
        for number, run in retimed.items():
            heapq.heappush(self._ends, (run.ends_at(max(0.0, run.job.work - run.done)), number, run.turn))
        retimed.clear()

    def _loans(self, now: float, tick: int) -> None:
        """What inference needs now, and the servers that change hands for it."""
        assert self.need
        cluster = self.cluster
        need, points, own = self.need[tick % len(self.need)], len(self.need), len(cluster.inference)
        asked = set(cluster.returning)
        if self.scheduler.rules.loaning:
            self.scheduler.loans(now, need)
        for server in sorted(cluster.returning - asked):
            if self.settings.return_s:
                heapq.heappush(self._returns, (now + self.settings.return_s, server))
            else:
                self.scheduler.returned(now, server)
        cluster.now = now
        cluster.note(Action.NEED, cost=need * own, gain=self.need[(tick + 1) % points] * own)


def simulate(
    servers: Sequence[Server],
    jobs: Sequence[Job],
    rules: Rules,
    *,
    need: Sequence[float] | None = None,
    settings: Settings | None = None,
) -> list[Row]:
    """The decision log of a whole run; ``Simulation`` says what it takes and raises."""
    return Simulation(servers, jobs, rules, need=need, settings=settings).run()
