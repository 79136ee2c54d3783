"""What runs where. Every change is one of the moves here, and each writes its row of the decision log: the log of a
cluster makes the same cluster again."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from quiltwork.cluster.job import Job
from quiltwork.cluster.log import AGAIN, LOST, Action, Changes, Row
from quiltwork.cluster.policy.placing import Placement
from quiltwork.cluster.policy.progress import Belief, Heard
from quiltwork.cluster.policy.room import Room
from quiltwork.cluster.running import Delays, Run
from quiltwork.cluster.server import Pool, Server
from quiltwork.core.errors import BadInputError


class Cluster:
    """Servers, and the jobs on them, as they are decided to be.

    gpu_types : the fastest first. Jobs and servers are told by number: their place in ``jobs`` and ``servers``.
    A job in ``jobs`` is as it is believed to be now, its work told by its own progress where it says so.
    ``now`` : set by whoever makes moves. ``waiting`` : jobs that are to run and do not. ``kept`` : by job, the work
    that it goes on from. ``stopped`` : jobs that were preempted once. ``lent`` : inference's servers that training may
    use; ``returning`` : those that it is leaving. ``closed`` : servers that take nothing though their side has them,
    and why. ``heard`` : by running job, what its reports have come to. ``retimed`` : runs whose speed or work changed
    since somebody last looked; ``turns`` counts such changes.
    """

    def __init__(self, servers: Sequence[Server], gpu_types: Sequence[str], delays: Delays | None = None) -> None:
        self.servers, self.types = tuple(servers), tuple(gpu_types)
        self.delays = delays or Delays()
        self.room = Room(servers)
        self.type_of = [self._type(server) for server in servers]
        self.inference = [i for i, s in enumerate(servers) if s.pool is not Pool.TRAIN]
        self._own = [s.pool is Pool.TRAIN for s in servers]
        self.lent = {i for i, s in enumerate(servers) if s.pool is Pool.ONLOAN}
        self.returning: set[int] = set()
        self.closed: dict[int, str] = {}
        self.jobs: list[Job] = []
        self.numbers: dict[str, int] = {}
        self.kept: list[float] = []
        self.waiting: set[int] = set()
        self.runs: dict[int, Run] = {}
        self.heard: dict[int, Heard] = {}
        self.base_on: list[dict[int, int]] = [{} for _ in servers]
        """By server, GPUs of each job's base workers."""
        self.flex_on: list[dict[int, int]] = [{} for _ in servers]
        """By server, flexible workers of each job."""
        self.stopped: set[int] = set()
        self._left_at = [-math.inf] * len(servers)
        """By server, when somebody was asked to leave it last."""
        self.retimed: dict[int, Run] = {}
        self.turns = 0
        self.log: list[Row] = []
        self.now = 0.0
        for i, server in enumerate(servers):
            self.note(Action.SERVER, server.id, servers=((i, 0),), after=server.gpus, reason=server.pool)

    def _type(self, server: Server) -> int:
        if server.gpu_type not in self.types:
            known = ", ".join(self.types)
            raise BadInputError(f"GPU type {server.gpu_type!r} is not one of {known}", where=f"server {server.id}")
        return self.types.index(server.gpu_type)

    def note(
        self,
        action: Action,
        job: str = "",
        *,
        servers: Changes = (),
        before: int = 0,
        after: int = 0,
        gpus: tuple[int, int] = (0, 0),
        reason: str = "",
        cost: float = 0.0,
        gain: float = 0.0,
    ) -> None:
        """Write a row of the log."""
        self.log.append(Row(self.now, action, job, servers, before, after, gpus, reason, cost, gain))

    # Jobs come and go.

    def submit(self, job: Job, alone_s: float) -> int:
        """A job waits from now on; ``alone_s`` is its running time with what it asked for. Raises BadInputError for an
        id that there is."""
        if job.id in self.numbers:
            raise BadInputError("the id is given twice", where=f"job {job.id}")
        number = len(self.jobs)
        self.jobs.append(job)
        self.numbers[job.id] = number
        self.kept.append(0.0)
        self.waiting.add(number)
        self.note(Action.SUBMIT, job.id, after=job.w_min, cost=job.work, gain=alone_s, reason=job.team)
        return number

    def start(self, number: int, placement: Placement, reason: str = "") -> Run:
        """A waiting job's base workers start. Raises BadInputError where a server has no room for them."""
        job = self.jobs[number]
        counts = [0] * len(self.types)
        for server, gpus in placement:
            self.room.take(server, gpus)
            self.base_on[server][number] = gpus
            counts[self.type_of[server]] += gpus // job.gpus_per_worker
        self.waiting.discard(number)
        usable = tuple(t in job.speed.curves and (job.hetero or n > 0) for t, n in zip(self.types, counts, strict=True))
        began = self._free_from(placement) + job.start_s
        if reason == AGAIN:
            began += self.delays.restart_s
        run = self.runs[number] = Run(job, placement, counts, usable, self.kept[number], began)
        self._retime(number, run)
        self.note(Action.START, job.id, servers=placement, after=job.w_min, gpus=self._gpus(run), reason=reason)
        return run

    def progressed(self, number: int, belief: Belief) -> None:
        """A running job has said how far it is."""
        run, heard = self.runs[number], belief.heard
        self.heard[number] = heard
        if belief.believed != run.job.believed:
            run.job = self.jobs[number] = replace(run.job, believed=belief.believed)
            self._retime(number, run)
        self.note(Action.PROGRESS, run.job.id, before=heard.steps, after=heard.total, gain=heard.pace or 0.0,
                  cost=-1.0 if belief.believed is None else belief.believed, reason=belief.odd)  # fmt: skip

    def end(self, number: int, work: float | None = None, reason: str = "") -> None:
        """A job leaves for good, whether it ran or waited. ``work`` : what it did; as believed where None."""
        job, run = self.jobs[number], self.runs.get(number)
        if run is None:
            self.waiting.discard(number)
            self.note(Action.END, job.id, reason=reason)
            return
        run.settle(self.now)
        freed = self._vacate(number, run)
        done = run.done if work is None else work
        self.note(Action.END, job.id, servers=freed, before=sum(run.counts), cost=done, reason=reason)

    def stop(self, number: int, reason: str) -> Run:
        """Preempt: back among those that wait, with what is kept of its work; ``LOST`` is without a warning."""
        run = self.runs[number]
        run.settle(self.now)
        kept = run.kept(self.now, self.delays, warned=reason != LOST)
        freed = self._vacate(number, run)
        self._leaves(freed)
        self.kept[number] = kept
        self.waiting.add(number)
        self.stopped.add(number)
        lost = run.done - kept
        self.note(Action.PREEMPT, run.job.id, servers=freed, before=sum(run.counts), reason=reason, cost=lost)
        return run

    def _vacate(self, number: int, run: Run) -> Changes:
        """A job leaves all its servers."""
        del self.runs[number]
        self.heard.pop(number, None)
        self.retimed.pop(number, None)
        freed = []
        for server, gpus in run.base:
            self.room.give(server, gpus)
            del self.base_on[server][number]
            freed.append((server, -gpus))
        for server, workers in run.flex.items():
            gpus = workers * run.job.gpus_per_worker
            self.room.give(server, gpus, flexible=True)
            del self.flex_on[server][number]
            freed.append((server, -gpus))
        return tuple(freed)

    # Flexible workers.

    def grow(self, number: int, placement: Placement, reason: str) -> None:
        """Flexible workers of a running job come."""
        run = self.runs[number]
        run.settle(self.now)
        before = sum(run.counts)
        from_s = self._free_from(placement)
        for server, gpus in placement:
            self.room.take(server, gpus, flexible=True)
            workers = gpus // run.job.gpus_per_worker
            run.counts[self.type_of[server]] += workers
            run.flexing[self.type_of[server]] += workers
            run.flex[server] = run.flex.get(server, 0) + workers
            self.flex_on[server][number] = run.flex[server]
            if self.now >= run.began and from_s + run.job.start_s > self.now:
                run.come(from_s + run.job.start_s, self.type_of[server], workers)
        if self.now < run.began:
            # A run that has not begun waits for all of its workers.
            run.began = run.since = max(run.since, from_s + run.job.start_s)
        self._resized(number, run)
        self.note(Action.SCALE_OUT, run.job.id, servers=placement, before=before, after=sum(run.counts),
                  gpus=self._gpus(run), reason=reason)  # fmt: skip

    def shrink(self, number: int, leaving: Iterable[tuple[int, int]], reason: str) -> None:
        """Flexible workers of a running job go: servers, and workers on each. Raises BadInputError where there are not
        so many."""
        run = self.runs[number]
        run.settle(self.now)
        before = sum(run.counts)
        freed = []
        for server, workers in leaving:
            left = run.flex.get(server, 0) - workers
            if left < 0:
                raise BadInputError(f"{workers} workers leave where there are not so many", where=f"job {run.job.id}")
            gpus = workers * run.job.gpus_per_worker
            self.room.give(server, gpus, flexible=True)
            run.go(self.type_of[server], workers)
            run.counts[self.type_of[server]] -= workers
            run.flexing[self.type_of[server]] -= workers
            if left:
                run.flex[server] = self.flex_on[server][number] = left
            else:
                del run.flex[server], self.flex_on[server][number]
            freed.append((server, -gpus))
        self._leaves(freed)
        self._resized(number, run)
        self.note(Action.SCALE_IN, run.job.id, servers=tuple(freed), before=before, after=sum(run.counts),
                  gpus=self._gpus(run), reason=reason)  # fmt: skip

    def _resized(self, number: int, run: Run) -> None:
        if self.delays.pause_s:
            run.since = max(run.since, self.now + self.delays.pause_s)
        self._retime(number, run)

    def _leaves(self, freed: Iterable[tuple[int, int]]) -> None:
        """Workers on these servers were asked to leave."""
        for server, _ in freed:
            self._left_at[server] = self.now

    def _free_from(self, placement: Placement) -> float:
        """When nobody is left on the GPUs that were given to somebody else."""
        if not self.delays.leave_s:
            return self.now
        return max(self.now, max(self._left_at[server] for server, _ in placement) + self.delays.leave_s)

    def _retime(self, number: int, run: Run) -> None:
        self.turns += 1
        run.retime(self.types, self.turns)
        self.retimed[number] = run

    def _gpus(self, run: Run) -> tuple[int, int]:
        """GPUs on training's own servers and on lent ones."""
        own = lent = 0
        for server, gpus in run.base:
            if self._own[server]:
                own += gpus
            else:
                lent += gpus
        for server, workers in run.flex.items():
            if self._own[server]:
                own += workers * run.job.gpus_per_worker
            else:
                lent += workers * run.job.gpus_per_worker
        return own, lent

    # Servers change hands.

    def lend(self, server: int) -> None:
        """Inference's server becomes training's."""
        self.lent.add(server)
        self._reopen(server)
        self.note(Action.LOAN, self.servers[server].id, servers=((server, 0),))

    def ask_back(self, servers: Sequence[int], asked: int, preempted: int, surplus: int, reason: str) -> None:
        """Lent servers take no work any more; whoever is on them is made to leave next."""
        for server in servers:
            self.lent.discard(server)
            self.returning.add(server)
            self.room.close(server)
        self.note(Action.RECLAIM, servers=tuple((s, 0) for s in servers), after=asked, cost=preempted, gain=surplus,
                  reason=reason)  # fmt: skip

    def returned(self, server: int) -> None:
        """Nobody is on it any more: it is inference's again."""
        self.returning.discard(server)
        self.note(Action.RETURN, self.servers[server].id, servers=((server, 0),))

    def close(self, server: int, reason: str) -> None:
        """A server takes no work, for another reason than that its side has not got it: drained, or lost."""
        self.closed[server] = reason
        self.room.close(server)
        self.note(Action.CLOSE, self.servers[server].id, servers=((server, 0),), reason=reason)

    def open(self, server: int) -> None:
        """It takes work again."""
        del self.closed[server]
        self._reopen(server)
        self.note(Action.OPEN, self.servers[server].id, servers=((server, 0),))

    def takes_work(self, server: int) -> bool:
        """Whether workers may be placed on a server: training has it, and it is not closed."""
        return server not in self.closed and (self._own[server] or server in self.lent)

    def _reopen(self, server: int) -> None:
        if not self.takes_work(server):
            return
        if self._own[server]:
            self.room.admit(server, Pool.TRAIN)
        else:
            self.room.admit(server, Pool.ONLOAN)

    # The same again.

    def replay(self, rows: Iterable[Row], jobs: dict[str, Job]) -> None:
        """Make the moves of a log of this cluster, which was written after the one that is here.

        jobs : those that were submitted, by id. Raises BadInputError where the log does not fit.
        """
        for row in rows:
            self.now = row.time
            try:
                self._again(row, jobs)
            except (KeyError, IndexError) as error:
                raise BadInputError(f"a row of the log does not fit: {row.action} {row.job}", where="log") from error

    def _again(self, row: Row, jobs: dict[str, Job]) -> None:
        if row.action is Action.SUBMIT:
            self.submit(jobs[row.job], row.gain)
        elif row.action is Action.START:
            self.start(self.numbers[row.job], row.servers, row.reason)
        elif row.action is Action.PROGRESS:
            self.progressed(self.numbers[row.job], self._belief(row))
        elif row.action is Action.END:
            self.end(self.numbers[row.job], row.cost, row.reason)
        elif row.action is Action.PREEMPT:
            self.stop(self.numbers[row.job], row.reason)
        elif row.action is Action.SCALE_OUT:
            self.grow(self.numbers[row.job], row.servers, row.reason)
        elif row.action is Action.SCALE_IN:
            number = self.numbers[row.job]
            weight = self.jobs[number].gpus_per_worker
            self.shrink(number, [(server, -gpus // weight) for server, gpus in row.servers], row.reason)
        elif row.action is Action.LOAN:
            self.lend(row.servers[0][0])
        elif row.action is Action.RECLAIM:
            self.ask_back([s for s, _ in row.servers], row.after, int(row.cost), int(row.gain), row.reason)
        elif row.action is Action.RETURN:
            self.returned(row.servers[0][0])
        elif row.action is Action.CLOSE:
            self.close(row.servers[0][0], row.reason)
        elif row.action is Action.OPEN:
            self.open(row.servers[0][0])
        else:
            self.log.append(row)

    def _belief(self, row: Row) -> Belief:
        """What a row of progress was written for."""
        number = self.numbers[row.job]
        odd = self.heard[number].odd if number in self.heard else 0
        done = self.runs[number].done_by(row.time)
        heard = Heard(row.time, row.before, row.after, done, row.gain or None, odd + bool(row.reason))
        return Belief(heard, None if row.cost < 0 else row.cost, row.reason)
