"""A cluster under virtual time: a heap of events that asks the policy for every decision and writes each down.

A bare heap, not processes of a simulation library: there are some hundred thousand events, and each costs little more
than the decision it leads to.
"""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

from quiltwork.cluster.job import Job, Shape
from quiltwork.cluster.policy.flexing import Flexible, lost_by_one_less, share, to_leave
from quiltwork.cluster.policy.loaning import loan_change
from quiltwork.cluster.policy.placing import Placement, Tier, place_gang
from quiltwork.cluster.policy.preempting import Victim, victims_for
from quiltwork.cluster.policy.reclaim import Held, reclaim
from quiltwork.cluster.policy.room import Room
from quiltwork.cluster.policy.rules import BaseOn, Elastic, FlexOn, Order, Rules
from quiltwork.cluster.policy.waiting import Reservation, Waiting, admissions, reserve
from quiltwork.cluster.server import Group, Pool, Server
from quiltwork.cluster.simulate.log import Action, Row
from quiltwork.cluster.simulate.settings import Settings
from quiltwork.core.errors import BadInputError

NEVER = math.inf


class _Run:
    """A running job: its workers by server and type, and how far it is."""

    __slots__ = (
        "base",
        "began",
        "counts",
        "end",
        "flex",
        "flexible",
        "flexing",
        "job",
        "left",
        "rate",
        "since",
        "version",
        "work_at",
    )

    def __init__(
        self, job: Job, base: Placement, counts: list[int], usable: tuple[bool, ...], left: float, began: float
    ) -> None:
        self.job, self.base, self.counts, self.left = job, base, counts, left
        self.flexible = Flexible(job.speed, tuple(counts), job.w_max - job.w_min, job.gpus_per_worker, usable)
        self.flex: dict[int, int] = {}
        """Flexible workers by server."""
        self.flexing = [0] * len(counts)
        """Flexible workers by type."""
        self.rate = 0.0
        self.began = self.since = began
        """Work is counted up to here; later than now where the job computes nothing until then."""
        self.work_at = left
        """Work left when it began."""
        self.version = 0
        self.end = (NEVER, 0)
        """When it is believed to end, and its number: its entry among the running."""


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
        self.servers, self.jobs, self.rules, self.need = servers, jobs, rules, need
        self.settings = settings or Settings()
        self.types = self.settings.gpu_types
        self.room = Room(servers)
        self.log: list[Row] = []
        self._type = [self._type_of(s) for s in servers]
        self._infers = [i for i, s in enumerate(servers) if s.pool is Pool.INFER]
        self._tiers: dict[tuple[Shape, bool], tuple[Tier, ...]] = {}
        self._kinds: dict[tuple[str, Pool, tuple[Group, ...]], Tier] = {}
        self._check(jobs)
        for i, part in enumerate(need or ()):
            if not 0 <= part <= 1:
                raise BadInputError(f"inference needs {part} of its servers", where=f"need {i}")
        self._reference = self.types[min(self._type[i] for i, s in enumerate(servers) if s.pool is Pool.TRAIN)]
        self._lent: set[int] = set()
        self._waiting = Waiting()
        self._queued = 0
        self._keys: dict[int, float] = {}
        self._left = [job.work for job in jobs]
        """Work left of jobs that do not run."""
        self._stopped: set[int] = set()
        """Jobs that ran before and were preempted."""
        self._runs: dict[int, _Run] = {}
        self._elastic: dict[int, _Run] = {}
        self._base_on: list[dict[int, int]] = [{} for _ in servers]
        self._flex_on: list[dict[int, int]] = [{} for _ in servers]
        self._ends: list[tuple[float, int, int]] = []
        self._by_end: list[tuple[float, int]] = []
        self._starving: list[tuple[float, int]] = []
        self._returns: list[tuple[float, int]] = []
        self._needs: list[float] = []
        self._forecasts: list[float] = []
        self._chance = random.Random(self.settings.seed)
        self._shared_at = -math.inf
        self._unshared = False
        self._arrived = 0
        self._version = 0
        """Of the last entry among the ends: one that is not its run's is outdated."""
        self._waited = False
        self.now = 0.0

    def _type_of(self, server: Server) -> int:
        if server.gpu_type not in self.types:
            raise BadInputError(f"GPU type {server.gpu_type!r} is not one of {', '.join(self.types)}",
                                where=f"server {server.id}")  # fmt: skip
        return self.types.index(server.gpu_type)

    def _check(self, jobs: Sequence[Job]) -> None:
        if not any(s.pool is Pool.TRAIN for s in self.servers):
            raise BadInputError("training has no server", where="servers")
        fits: dict[Shape, bool] = {}
        seen: set[str] = set()
        before = -math.inf
        for job in jobs:
            where = f"job {job.id}"
            if job.id in seen:
                raise BadInputError("the id is given twice", where=where)
            if job.submit_s < before:
                raise BadInputError("submitted before the job that precedes it", where=where, hint="sort by time")
            seen.add(job.id)
            before = job.submit_s
            shape = job.shape
            if shape not in fits:
                training = shape._replace(fungible=False)
                fits[shape] = place_gang(self.room, training, self._tiers_of(training)) is not None
            if not fits[shape]:
                raise BadInputError(f"{job.w_min} workers of {job.gpus_per_worker} GPUs are more than training's "
                                    "servers hold", where=where)  # fmt: skip
            types = {self.servers[i].gpu_type for i in self._infers} if job.fungible and self.rules.loaning else set()
            types |= {s.gpu_type for s in self.servers if s.pool is Pool.TRAIN}
            if missing := types - job.speed.curves.keys():
                raise BadInputError(f"no speed on {min(missing)}", where=where)

    # Where workers may go.

    def _tiers_of(self, shape: Shape, revoking: bool = False) -> tuple[Tier, ...]:
        found = self._tiers.get((shape, revoking))
        if found is None:
            training = [self._shelves(t, Pool.TRAIN, (Group.NONE,)) for t in self.types]
            lent: list[Tier] = []
            if shape.fungible and self.rules.loaning:
                groups = tuple(Group) if revoking or not self.rules.group_lent else (Group.NONE, Group.BASE)
                lent = [self._shelves(t, Pool.ONLOAN, groups) for t in self.types]
            tiers = training + lent if self.rules.base_on is BaseOn.TRAINING else lent + training
            found = self._tiers[shape, revoking] = tuple(tier for tier in tiers if tier)
        return found

    def _shelves(self, gpu_type: str, pool: Pool, groups: tuple[Group, ...]) -> Tier:
        found = self._kinds.get((gpu_type, pool, groups))
        if found is None:
            found = self._kinds[gpu_type, pool, groups] = tuple(
                i
                for i, shelf in enumerate(self.room.shelves)
                if shelf.gpu_type == gpu_type and shelf.pool is pool and shelf.group in groups
            )
        return found

    # Time.

    def run(self) -> list[Row]:
        """Everything until the last job has ended; returns the log."""
        for i, server in enumerate(self.servers):
            self._note(Action.SERVER, job=server.id, servers=((i, 0),), after=server.gpus, reason=server.pool)
        jobs, count, ends = self.jobs, len(self.jobs), self._ends
        loaning = bool(self.need)
        tick_s = self.settings.loans_every_s
        tick = 0
        start = jobs[0].submit_s if jobs else 0.0
        while self._arrived < count or self._runs or self._queued:
            while ends and self._outdated(ends[0]):
                heapq.heappop(ends)
            arrival = jobs[self._arrived].submit_s if self._arrived < count else NEVER
            times = [arrival, ends[0][0] if ends else NEVER, start + tick * tick_s if loaning else NEVER]
            if self._unshared:
                times.append(self._shared_at + self.settings.share_every_s)
            if self._returns:
                times.append(self._returns[0][0])
            now = min(times)
            if now == NEVER:
                raise AssertionError("jobs wait, and nothing will happen any more")
            self.now = now = max(now, self.now)
            while ends and ends[0][0] <= now:
                ended = heapq.heappop(ends)
                if not self._outdated(ended):
                    self._end(ended[1])
            while self._returns and self._returns[0][0] <= now:
                self._returned(heapq.heappop(self._returns)[1])
            if loaning and start + tick * tick_s <= now:
                self._orchestrate(tick)
                tick += 1
            while self._arrived < count and jobs[self._arrived].submit_s <= now:
                self._submit(self._arrived)
                self._arrived += 1
            self._decide()
        return self.log

    def _outdated(self, end: tuple[float, int, int]) -> bool:
        run = self._runs.get(end[1])
        return run is None or run.version != end[2]

    def _decide(self) -> None:
        """One epoch: who starts, who is preempted for a shorter one, and who gets how many workers more."""
        if self._queued:
            self._admit()
            if self._queued and self.rules.order is Order.SRTF:
                self._preempt_longer()
        if self.rules.elastic is Elastic.GANDIVA and bool(self._queued) != self._waited:
            self._waited = not self._waited
            self._unshared = True
        if self._unshared and self.now >= self._shared_at + self.settings.share_every_s:
            self._share()

    # Jobs come, start and end.

    def _submit(self, number: int) -> None:
        job = self.jobs[number]
        alone = job.seconds(job.work, self._reference)
        self._note(Action.SUBMIT, job=job.id, after=job.w_min, cost=job.work, gain=alone, reason=job.team)
        self._enqueue(number)

    def _believed(self, number: int) -> float:
        """Work that a job that does not run is believed to have left."""
        job = self.jobs[number]
        return job.believed_left(job.work - self._left[number])

    def _seconds(self, number: int) -> float:
        return self.jobs[number].seconds(self._believed(number), self._reference)

    def _enqueue(self, number: int) -> None:
        job, rules = self.jobs[number], self.rules
        key = job.submit_s if rules.order is Order.FIFO else self._seconds(number) + rules.ageing * job.submit_s
        self._keys[number] = key
        self._waiting.add(job.shape, key, number)
        self._queued += 1
        if rules.starvation_s is not None:
            heapq.heappush(self._starving, (job.submit_s + rules.starvation_s * job.w_min, number))

    def _admit(self) -> None:
        rules = self.rules
        revoking = bool(self._elastic)
        for start in admissions(
            self._waiting,
            self.room,
            self._tiers_of,
            depth=rules.backfill_depth,
            revoking=revoking,
            reserved=self._reservation() if self._starving else None,
            seconds=self._seconds,
        ):
            if start.revoking:
                for server, gpus in start.placement:
                    self._push_out(server, gpus - self.room.free[server], f"room for {self.jobs[start.job].id}")
            self._start(start.job, start.placement)

    def _start(self, number: int, placement: Placement) -> None:
        job = self.jobs[number]
        self._queued -= 1
        del self._keys[number]
        counts = [0] * len(self.types)
        for server, gpus in placement:
            self.room.take(server, gpus)
            self._base_on[server][number] = gpus
            counts[self._type[server]] += gpus // job.gpus_per_worker
        again = number in self._stopped
        usable = tuple(t in job.speed.curves and (job.hetero or n > 0) for t, n in zip(self.types, counts, strict=True))
        began = self.now + self.settings.restart_s if again else self.now
        run = _Run(job, placement, counts, usable, self._left[number], began)
        self._runs[number] = run
        if job.elastic and self.rules.elastic is not Elastic.NONE:
            self._elastic[number] = run
            self._unshared = True
        self._retime(number, run)
        self._note(Action.START, job=job.id, servers=placement, after=job.w_min, gpus=self._gpus(run),
                   reason="again" if again else "")  # fmt: skip

    def _end(self, number: int) -> None:
        run = self._runs[number]
        freed = self._vacate(number, run)
        self._note(Action.END, job=run.job.id, servers=freed, before=sum(run.counts), cost=run.job.work)
        self._unshared = bool(self._elastic)

    def _vacate(self, number: int, run: _Run) -> tuple[tuple[int, int], ...]:
        """A job leaves all its servers."""
        del self._runs[number]
        self._elastic.pop(number, None)
        self._forget_end(run)
        freed = []
        for server, gpus in run.base:
            self.room.give(server, gpus)
            del self._base_on[server][number]
            freed.append((server, -gpus))
        for server, workers in run.flex.items():
            gpus = workers * run.job.gpus_per_worker
            self.room.give(server, gpus, flexible=True)
            del self._flex_on[server][number]
            freed.append((server, -gpus))
        return tuple(freed)

    def _stop(self, number: int, reason: str) -> None:
        """Preempt: back into the queue, with what its last checkpoint left."""
        run, job = self._runs[number], self.jobs[number]
        self._settle(run)
        done = kept = job.work - run.left
        if not self.settings.keep_on_preempt:
            kept = job.work - run.work_at if job.checkpoint_s is not None else 0.0
            if job.checkpoint_s is not None and self.now > run.began:
                # What was done since the last checkpoint is lost.
                kept = max(kept, done - run.rate * ((self.now - run.began) % job.checkpoint_s))
        freed = self._vacate(number, run)
        self._left[number] = job.work - kept
        self._stopped.add(number)
        self._note(Action.PREEMPT, job=job.id, servers=freed, before=sum(run.counts), reason=reason, cost=done - kept)
        self._enqueue(number)
        self._unshared = bool(self._elastic)

    # Progress.

    def _settle(self, run: _Run) -> None:
        if self.now > run.since:
            run.left = max(0.0, run.left - run.rate * (self.now - run.since))
            run.since = self.now

    def _retime(self, number: int, run: _Run) -> None:
        """After its workers changed, and its work up to now was settled: when it ends now."""
        self._forget_end(run)
        run.rate = run.job.speed.of(run.counts, self.types)
        self._version += 1
        run.version = self._version
        heapq.heappush(self._ends, (run.since + run.left / run.rate, number, run.version))
        if self.rules.order is Order.SRTF:
            run.end = (run.since + run.job.believed_left(run.job.work - run.left) / run.rate, number)
            insort(self._by_end, run.end)

    def _forget_end(self, run: _Run) -> None:
        if self._by_end and run.version:
            del self._by_end[bisect_left(self._by_end, run.end)]

    def _gpus(self, run: _Run) -> tuple[int, int]:
        held = [0, 0]
        for server, gpus in run.base:
            held[server in self._lent] += gpus
        for server, workers in run.flex.items():
            held[server in self._lent] += workers * run.job.gpus_per_worker
        return held[0], held[1]

    def _note(
        self,
        action: Action,
        *,
        job: str = "",
        servers: tuple[tuple[int, int], ...] = (),
        before: int = 0,
        after: int = 0,
        gpus: tuple[int, int] = (0, 0),
        reason: str = "",
        cost: float = 0.0,
        gain: float = 0.0,
    ) -> None:
        self.log.append(Row(self.now, action, job, servers, before, after, gpus, reason, cost, gain))

    # Shorter jobs before longer ones.

    def _preempt_longer(self) -> None:
        """While the shortest that waits does not fit and longer ones run in its way: they go back into the queue."""
        heads = sorted((-line[-1][0], -line[-1][1], shape) for shape, line in self._waiting.lines.items() if line)
        for key, number, shape in heads:
            if number not in self._keys:
                continue
            chosen = victims_for(shape, self.room, self._tiers_of(shape), self._longer(self.now + key))
            for victim in chosen:
                self._stop(victim, f"shorter: {self.jobs[number].id}")
            if chosen:
                self._admit()

    def _longer(self, end: float) -> Iterator[Victim]:
        """Running jobs that are believed to end after ``end``, the last first."""
        for believed, number in reversed(self._by_end):
            if believed <= end:
                return
            run = self._runs[number]
            if self.now - run.began >= self.rules.min_run_s:
                yield Victim(number, run.base)

    # Jobs that have waited too long.

    def _reservation(self) -> Reservation | None:
        """Servers for the job that has waited too long for longest."""
        while self._starving and self._starving[0][1] not in self._keys:
            heapq.heappop(self._starving)
        if not self._starving or self._starving[0][0] > self.now:
            return None
        number = self._starving[0][1]
        ends: dict[int, list[tuple[float, int]]] = {}
        for run in self._runs.values():
            seconds = run.job.believed_left(self._done(run)) / run.rate
            for server, gpus in run.base:
                ends.setdefault(server, []).append((seconds, gpus))
        shape = self.jobs[number].shape
        return reserve(number, shape, self.room, self._tiers_of(shape), ends)

    def _done(self, run: _Run) -> float:
        """Work that a running job has done up to now."""
        left = run.left
        if self.now > run.since:
            left -= run.rate * (self.now - run.since)
        return run.job.work - left if left > 0 else run.job.work

    # Flexible workers.

    def _share(self) -> None:
        """Divide flexible demand anew, and move workers where that says."""
        self._shared_at, self._unshared = self.now, False
        if not self._elastic:
            return
        numbers = list(self._elastic)
        runs = [self._elastic[n] for n in numbers]
        jobs = [run.flexible for run in runs]
        remaining = [run.job.believed_left(self._done(run)) for run in runs]
        held = [tuple(run.flexing) for run in runs]
        capacity = self._spare()
        order = range(len(self.types))
        found = share(
            jobs,
            remaining,
            capacity,
            self.types,
            elastic=self.rules.elastic,
            order=order if self.rules.flex_on is FlexOn.FASTEST else order[::-1],
            held=held,
            stickiness=self.rules.stickiness,
            waiting=bool(self._queued),
        )
        self._note(Action.SHARE, before=len(jobs), cost=found.value, gain=found.gap)
        changed: dict[int, _Run] = {}
        growing: list[tuple[int, int, int]] = []
        for at, (number, target) in enumerate(zip(numbers, found.workers, strict=True)):
            for t, wanted in enumerate(target):
                if wanted < held[at][t]:
                    before = sum(runs[at].counts)
                    dropped = self._drop(number, runs[at], t, held[at][t] - wanted)
                    self._note_size(Action.SCALE_IN, runs[at], dropped, before, "share")
                    changed[number] = runs[at]
                elif wanted > held[at][t]:
                    growing.append((at, t, wanted - held[at][t]))
        growing.sort(key=lambda g: (-jobs[g[0]].gpus_per_worker, g[0], g[1]))
        for at, t, workers in growing:
            before = sum(runs[at].counts)
            grown = self._grow(numbers[at], runs[at], t, workers)
            if grown:
                self._note_size(Action.SCALE_OUT, runs[at], grown, before, "share")
                changed[numbers[at]] = runs[at]
        for number, run in changed.items():
            self._resized(number, run)

    def _spare(self) -> list[int]:
        """GPUs by type that are free or held by flexible workers, on servers that take work."""
        spare = [0] * len(self.types)
        for shelf, buckets in zip(self.room.shelves, self.room.within, strict=True):
            if shelf.gpu_type in self.types:
                spare[self.types.index(shelf.gpu_type)] += sum(n * b.bit_count() for n, b in enumerate(buckets))
        return spare

    def _drop(self, number: int, run: _Run, t: int, workers: int) -> list[tuple[int, int]]:
        """Flexible workers on one type go, from the servers that have the fewest flexible GPUs first."""
        here = [s for s in run.flex if self._type[s] == t]
        here.sort(key=lambda s: (self.room.reach[s] - self.room.free[s], s))
        gone = []
        for server in here:
            if not workers:
                break
            going = min(workers, run.flex[server])
            workers -= going
            gone.append(self._leave(number, run, server, going))
        return gone

    def _leave(self, number: int, run: _Run, server: int, workers: int) -> tuple[int, int]:
        self._settle(run)
        gpus = workers * run.job.gpus_per_worker
        self.room.give(server, gpus, flexible=True)
        t = self._type[server]
        run.counts[t] -= workers
        run.flexing[t] -= workers
        for holder, key in ((run.flex, server), (self._flex_on[server], number)):
            if holder[key] == workers:
                del holder[key]
            else:
                holder[key] -= workers
        return server, -gpus

    def _grow(self, number: int, run: _Run, t: int, workers: int) -> list[tuple[int, int]]:
        """Up to so many flexible workers more on one type: on lent servers of their own first where it lends any."""
        gpu_type = self.types[t]
        lent = [self._shelves(gpu_type, Pool.ONLOAN, (group,)) for group in (Group.FLEX, Group.NONE, Group.BASE)]
        if not self.rules.group_lent:
            lent = [self._shelves(gpu_type, Pool.ONLOAN, tuple(Group))]
        grown: list[tuple[int, int]] = []
        weight = run.job.gpus_per_worker
        for tier in (self._shelves(gpu_type, Pool.TRAIN, (Group.NONE,)), *lent):
            if not tier or not workers:
                continue
            for server, gpus in self._scatter(tier, weight, workers):
                self._settle(run)
                self.room.take(server, gpus, flexible=True)
                more = gpus // weight
                workers -= more
                run.counts[t] += more
                run.flexing[t] += more
                run.flex[server] = run.flex.get(server, 0) + more
                self._flex_on[server][number] = run.flex[server]
                grown.append((server, gpus))
        return grown

    def _scatter(self, tier: Tier, weight: int, workers: int) -> Placement:
        """As many of the workers as there is room for."""
        room = sum(
            (free // weight) * buckets.bit_count()
            for shelf in tier
            for free, buckets in enumerate(self.room.open[shelf])
        )
        fitting = min(workers, room)
        if not fitting:
            return ()
        return place_gang(self.room, Shape(weight, fitting, compact=False), [tier]) or ()

    def _push_out(self, server: int, gpus: int, reason: str) -> None:
        """Flexible workers leave a server, those that are least missed."""
        if gpus <= 0:
            return
        offers = []
        for number, workers in self._flex_on[server].items():
            run = self._runs[number]
            left = run.job.believed_left(self._done(run))
            lost = lost_by_one_less(run.flexible, left, tuple(run.counts), self._type[server], self.types)
            offers.append((number, workers, run.job.gpus_per_worker, lost))
        for number, workers in to_leave(offers, gpus):
            run = self._runs[number]
            before = sum(run.counts)
            gone = self._leave(number, run, server, workers)
            self._note_size(Action.SCALE_IN, run, [gone], before, reason)
            self._resized(number, run)
        self._unshared = True

    def _note_size(self, action: Action, run: _Run, servers: list[tuple[int, int]], before: int, reason: str) -> None:
        self._note(action, job=run.job.id, servers=tuple(servers), before=before, after=sum(run.counts),
                   gpus=self._gpus(run), reason=reason)  # fmt: skip

    def _resized(self, number: int, run: _Run) -> None:
        if self.settings.pause_s:
            run.since = max(run.since, self.now + self.settings.pause_s)
        self._retime(number, run)

    # Loans.

    def _orchestrate(self, tick: int) -> None:
        """What inference needs now; lend it less, or give it more back."""
        assert self.need
        own, points = len(self._infers), len(self.need)
        need = self.need[tick % points]
        if self.rules.loaning:
            self._needs.append(need)
            self._forecasts.append(min(1.0, self.settings.forecast(self._needs)))
            lease = max(1, math.ceil(self.rules.min_lease_s / self.settings.loans_every_s))
            change = loan_change(
                own,
                len(self._lent),
                self._forecasts[-lease:],
                headroom=self.rules.headroom,
                hysteresis=self.rules.hysteresis,
            )
            if change > 0:
                self._lend(change)
            elif change < 0:
                self._reclaim(-change)
        self._note(Action.NEED, cost=need * own, gain=self.need[(tick + 1) % points] * own)

    def _lend(self, count: int) -> None:
        away = self._lent | {server for _, server in self._returns}
        for server in [s for s in self._infers if s not in away][:count]:
            self._lent.add(server)
            self.room.admit(server, Pool.ONLOAN)
            self._note(Action.LOAN, servers=((server, 0),), job=self.servers[server].id)
        self._unshared = bool(self._elastic)

    def _reclaim(self, count: int) -> None:
        lent = {s: Held(self._base_on[s], self.room.reach[s] - self.room.free[s]) for s in sorted(self._lent)}
        on = {n for held in lent.values() for n in held.base}
        plan = reclaim(
            lent,
            count,
            self.rules.reclaim,
            spans={n: len(self._runs[n].base) for n in on},
            gpus={n: sum(g for _, g in self._runs[n].base) for n in on},
            polish_s=self.rules.polish_s,
            chance=self._chance,
        )
        self._note(Action.RECLAIM, servers=tuple((s, 0) for s in plan.servers), after=count, cost=len(plan.preempted),
                   gain=len(plan.surplus), reason=self.rules.reclaim)  # fmt: skip
        for number in plan.preempted:
            self._stop(number, "reclaim")
        for server in plan.servers:
            self._push_out(server, self.room.reach[server] - self.room.free[server], "reclaim")
            self.room.close(server)
            self._lent.discard(server)
            if self.settings.return_s:
                heapq.heappush(self._returns, (self.now + self.settings.return_s, server))
            else:
                self._returned(server)

    def _returned(self, server: int) -> None:
        self._note(Action.RETURN, servers=((server, 0),), job=self.servers[server].id)


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
