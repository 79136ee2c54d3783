"""The scheduler: what waits, who starts, who grows, who has to go, and which servers change hands.

It sees what is believed of jobs, never how long they will really run, and it has no clock: whoever runs it (the
simulator, the live controller) says what happened and when, asks for decisions, and carries them out. The decisions
are the rows that a call adds to the cluster's log.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

from quiltwork.cluster.displacing import Displacing
from quiltwork.cluster.job import Job, Shape
from quiltwork.cluster.log import AGAIN
from quiltwork.cluster.policy.loaning import loan_change
from quiltwork.cluster.policy.placing import place_gang
from quiltwork.cluster.policy.preempting import victims_for
from quiltwork.cluster.policy.reclaim import Held, reclaim
from quiltwork.cluster.policy.room import Room
from quiltwork.cluster.policy.rules import Cost, Elastic, Order, Rules
from quiltwork.cluster.policy.tiers import Tiers
from quiltwork.cluster.policy.waiting import Start, Waiting, admissions
from quiltwork.cluster.server import Pool
from quiltwork.cluster.sharing import Sharing
from quiltwork.cluster.starving import Starving
from quiltwork.cluster.state import Cluster
from quiltwork.core.errors import BadInputError

Forecast = Callable[[Sequence[float]], float]
"""Shares of inference's servers needed so far, at each decision, the present last -> the share that will do until the
next decision."""


class Scheduler:
    """Decides on one cluster by one set of rules.

    share_every_s : flexible demand is divided anew no more often. loans_every_s : loans are decided so often. chance :
    for random reclaiming, handed in.
    """

    def __init__(
        self,
        cluster: Cluster,
        rules: Rules,
        *,
        forecast: Forecast,
        share_every_s: float = 60.0,
        loans_every_s: float = 300.0,
        chance: random.Random | None = None,
    ) -> None:
        self.cluster, self.rules = cluster, rules
        self.tiers = Tiers(cluster.room.shelves, cluster.types, rules)
        self._sharing = Sharing(cluster, rules, self.tiers, every_s=share_every_s)
        self._forecast, self._loans_every_s = forecast, loans_every_s
        self._chance = chance or random.Random(0)
        training = {cluster.type_of[i] for i, s in enumerate(cluster.servers) if s.pool is Pool.TRAIN}
        if not training:
            raise BadInputError("training has no server", where="servers")
        self.reference = cluster.types[min(training)]
        """The GPU type by which running times are told: training's fastest."""
        self._needed = frozenset(cluster.types[t] for t in training)
        self._needed_lent = self._needed | {cluster.servers[i].gpu_type for i in cluster.inference}
        self._displacing = Displacing(cluster, rules)
        self._empty = Room(cluster.servers)
        self._fits: dict[Shape, bool] = {}
        self._waiting = Waiting()
        self._keys: dict[int, float] = {}
        self._starving = Starving(cluster, rules.starvation_s)
        self._needs: list[float] = []
        self._forecasts: list[float] = []
        self._waited = False
        for number in sorted(cluster.waiting):
            self._enqueue(number)
        cluster.retimed.update(cluster.runs)

    # What happened.

    def check(self, job: Job) -> None:
        """Raises BadInputError for a job that training's servers can never hold, or that has no speed on them."""
        where = f"job {job.id}"
        shape = job.shape
        if shape not in self._fits:
            training = shape._replace(fungible=False)
            self._fits[shape] = place_gang(self._empty, training, self.tiers.base(training)) is not None
        if not self._fits[shape]:
            raise BadInputError(f"{job.w_min} workers of {job.gpus_per_worker} GPUs are more than training's "
                                "servers hold", where=where)  # fmt: skip
        types = self._needed_lent if job.fungible and self.rules.loaning else self._needed
        if missing := types - job.speed.curves.keys():
            raise BadInputError(f"no speed on {min(missing)}", where=where)

    def submit(self, now: float, job: Job) -> int:
        """A job comes. Raises BadInputError as ``check`` does."""
        self.check(job)
        self.cluster.now = now
        number = self.cluster.submit(job, job.seconds(job.work, self.reference))
        self._enqueue(number)
        return number

    def ended(self, now: float, number: int, work: float | None = None, reason: str = "") -> None:
        """A job is done, has failed, or was cancelled. ``work`` : what it did, where that is known."""
        self.cluster.now = now
        if number in self._keys:
            job = self.cluster.jobs[number]
            self._waiting.remove(job.shape, self._keys.pop(number), number, job.priority)
        self.cluster.end(number, work, reason)
        self._sharing.left(number)

    def again(self, now: float, number: int, reason: str) -> None:
        """A running job goes back into the queue: it failed, and is tried again."""
        self.cluster.now = now
        self._stop(number, reason)

    def returned(self, now: float, server: int) -> None:
        """A server that was asked back is empty: it is inference's again."""
        self.cluster.now = now
        self.cluster.returned(server)

    def close(self, now: float, server: int, reason: str, *, empty: bool) -> None:
        """A server takes no more work. ``empty`` : whoever is on it has to leave, as where it is lost."""
        self.cluster.now = now
        self.cluster.close(server, reason)
        if empty:
            for number in list(self.cluster.base_on[server]):
                self._stop(number, reason)
            self._sharing.push_out(server, self.cluster.room.gpus[server], reason)
        self._sharing.changed()

    def open(self, now: float, server: int) -> None:
        """A server takes work again."""
        self.cluster.now = now
        self.cluster.open(server)
        self._sharing.changed()

    # Decisions.

    def decide(self, now: float) -> None:
        """One epoch: who starts, who is preempted for a shorter one, and who gets how many workers more."""
        self.cluster.now = now
        if self._keys:
            self._admit()
            if self._keys and self._displacing.any and self._displacing.looks():
                self._displace()
        self._displacing.note()
        if self.rules.elastic is Elastic.GANDIVA and bool(self._keys) != self._waited:
            self._waited = not self._waited
            self._sharing.changed()
        self._sharing.share_if_due(now, waiting=bool(self._keys))

    def due(self) -> float:
        """When to decide again though nothing happens; infinity for never."""
        return min(self._sharing.due(), self._displacing.due() if self._keys else math.inf)

    def ahead_of(self, number: int) -> list[int]:
        """Jobs that wait and are thought of before this one, in order. Raises KeyError where it does not wait."""
        jobs = self.cluster.jobs
        waiting = sorted((-jobs[n].priority, key, n) for n, key in self._keys.items())
        return [n for _, _, n in waiting[: waiting.index((-jobs[number].priority, self._keys[number], number))]]

    def loans(self, now: float, need: float, ready: Callable[[int], bool] = lambda server: True) -> None:
        """Inference needs a share of its servers: lend less of them, or more. ``ready`` : whether one may be lent."""
        cluster, rules = self.cluster, self.rules
        cluster.now = now
        self._needs.append(need)
        self._forecasts.append(min(1.0, self._forecast(self._needs)))
        lease = max(1, math.ceil(rules.min_lease_s / self._loans_every_s))
        change = loan_change(
            len(cluster.inference),
            len(cluster.lent),
            self._forecasts[-lease:],
            headroom=rules.headroom,
            hysteresis=rules.hysteresis,
        )
        if change > 0:
            self.lend(now, change, ready)
        elif change < 0:
            self.reclaim(now, -change)

    def lend(self, now: float, count: int, ready: Callable[[int], bool] = lambda server: True) -> None:
        """Lend so many of inference's servers, or as many as are ``ready``."""
        cluster = self.cluster
        cluster.now = now
        away = cluster.lent | cluster.returning | cluster.closed.keys()
        for server in cluster.inference:
            if count > 0 and server not in away and ready(server):
                cluster.lend(server)
                count -= 1
        self._sharing.changed()

    def reclaim(self, now: float, count: int) -> None:
        """Ask so many lent servers back, or all: those that are cheapest to empty. ``returned`` says when one is."""
        cluster, rules = self.cluster, self.rules
        cluster.now = now
        room = cluster.room
        lent = {s: Held(cluster.base_on[s], room.reach[s] - room.free[s]) for s in sorted(cluster.lent)}
        on = {n for held in lent.values() for n in held.base}
        plan = reclaim(
            lent,
            count,
            rules.reclaim,
            spans={n: len(cluster.runs[n].base) for n in on},
            gpus={n: sum(g for _, g in cluster.runs[n].base) for n in on},
            weights={n: cluster.runs[n].loss(now, cluster.delays) for n in on} if rules.reclaim is Cost.WORK else None,
            polish_s=rules.polish_s,
            chance=self._chance,
        )
        cluster.ask_back(plan.servers, count, len(plan.preempted), len(plan.surplus), rules.reclaim)
        for number in plan.preempted:
            self._stop(number, "reclaim")
        for server in plan.servers:
            self._sharing.push_out(server, room.reach[server] - room.free[server], "reclaim")

    # Who waits.

    def _believed(self, number: int) -> float:
        """Work that a job that does not run is believed to have left."""
        return self.cluster.jobs[number].believed_left(self.cluster.kept[number])

    def _seconds(self, number: int) -> float:
        return self.cluster.jobs[number].seconds(self._believed(number), self.reference)

    def _enqueue(self, number: int) -> None:
        job, rules = self.cluster.jobs[number], self.rules
        if rules.order is Order.FIFO:
            key = job.submit_s
        elif rules.order is Order.LAS:
            key = self._displacing.key(number)
        else:
            key = self._seconds(number) + rules.ageing * job.submit_s
        self._keys[number] = key
        self._waiting.add(job.shape, key, number, job.priority)
        self._starving.add(number)

    def _admit(self) -> None:
        reserved = self._starving.reservation(self._keys, self.tiers)
        while reserved is not None and self._admit_first(reserved.job):
            reserved = self._starving.reservation(self._keys, self.tiers)
        for start in admissions(
            self._waiting,
            self.cluster.room,
            lambda shape: self.tiers.ways(shape, self._sharing.any),
            depth=self.rules.backfill_depth,
            reserved=reserved,
            seconds=self._seconds,
        ):
            self._begin(start)

    def _admit_first(self, number: int) -> bool:
        """Start a job before all others, wherever in its line it stands; whether it fits."""
        job = self.cluster.jobs[number]
        for tiers, revoking in self.tiers.ways(job.shape, self._sharing.any):
            placed = place_gang(self.cluster.room, job.shape, tiers, revoking=revoking)
            if placed is not None:
                self._waiting.remove(job.shape, self._keys[number], number, job.priority)
                self._begin(Start(number, placed, revoking))
                return True
        return False

    def _begin(self, start: Start) -> None:
        cluster = self.cluster
        if start.revoking:
            for server, gpus in start.placement:
                self._sharing.push_out(
                    server, gpus - cluster.room.free[server], f"room for {cluster.jobs[start.job].id}"
                )
        del self._keys[start.job]
        run = cluster.start(start.job, start.placement, AGAIN if start.job in cluster.stopped else "")
        self._sharing.started(start.job, run)

    def _stop(self, number: int, reason: str) -> None:
        self._displacing.stopped(number, self.cluster.stop(number, reason))
        self._enqueue(number)
        self._sharing.left(number)

    def _displace(self) -> None:
        """While the first that waits does not fit and later ones run in its way: they go back into the queue."""
        cluster = self.cluster
        for _, key, number, shape in sorted(self._waiting.heads()):
            if number not in self._keys:
                continue
            chosen = victims_for(shape, cluster.room, self.tiers.base(shape), self._displacing.candidates(key))
            for victim in chosen:
                self._stop(victim, f"room for {cluster.jobs[number].id}")
            if chosen:
                self._admit()
