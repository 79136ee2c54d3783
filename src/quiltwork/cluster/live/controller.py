"""The controller: hears what happened, asks the scheduler, writes down what is decided, and has it carried out.

One thread does all of that, a step at a time. Nothing is carried out that is not written down, and what is written down
is carried out whoever does it: a controller that is killed at any point is followed by one that reads the log, looks at
what really runs, and goes on. The steps from what is decided to what runs are ``reconcile``'s.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence

from quiltwork.cluster.forecast import forecast_named
from quiltwork.cluster.job import Job
from quiltwork.cluster.live.backend import (
    Backend,
    Event,
    ServerBack,
    ServerLost,
    WorkerExited,
    WorkerTrouble,
)
from quiltwork.cluster.live.crews import Crews, Failed, Report, Stepped
from quiltwork.cluster.live.entries import Entry, JobState, Worker, job_of
from quiltwork.cluster.live.hands import Hands
from quiltwork.cluster.live.lending import Lender
from quiltwork.cluster.live.memory import Memory
from quiltwork.cluster.live.orders import OrderBook
from quiltwork.cluster.live.reconcile import Wanted
from quiltwork.cluster.live.settings import Settings
from quiltwork.cluster.live.turns import Turns
from quiltwork.cluster.log import LOST, Action, Row
from quiltwork.cluster.policy.progress import impossible
from quiltwork.cluster.scheduler import Scheduler
from quiltwork.cluster.server import Server
from quiltwork.cluster.state import Cluster
from quiltwork.core.errors import QuiltworkError

DRAINED = "drained"


class Controller:
    """A cluster that runs.

    servers : those of a new cluster; one that is remembered keeps its own. memory : what was decided before, and where
    it is written. crews : the elastic workers' end of the line. lender : inference's side, None where it has none.
    clock : seconds since 1970; one that goes back stands still.

    ``run`` in a thread of its own, or ``step`` again and again; what users ask meanwhile goes over a ``Desk``.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        memory: Memory,
        backend: Backend,
        crews: Crews,
        book: OrderBook,
        settings: Settings,
        *,
        clock: Callable[[], float],
        lender: Lender | None = None,
    ) -> None:
        self.memory, self._backend, self._crews, self._settings = memory, backend, crews, settings
        self._clock, self._lender = clock, lender
        self.book = book
        self.turns = Turns()
        kept = memory.recall(servers)
        self.entries: dict[str, Entry] = {entry.id: entry for entry in kept.entries}
        workers = {worker.id: worker for worker in kept.workers}
        self.hands = Hands(backend, crews, memory, book, workers, deadline_s=settings.delays.deadline_s)
        self.index = {server.id: i for i, server in enumerate(kept.servers)}
        self.cluster = Cluster(kept.servers, settings.gpu_types, settings.delays)
        rows = kept.rows[len(kept.servers) :]
        self.cluster.replay(rows, {entry.id: self.job_of(entry) for entry in kept.entries})
        self._written, self._noted = len(kept.rows), len(self.cluster.log)
        self._now = kept.rows[-1].time if kept.rows else clock()
        self.scheduler = Scheduler(
            self.cluster,
            settings.rules,
            forecast=forecast_named(settings.forecast),
            share_every_s=settings.share_every_s,
            loans_every_s=settings.loans_every_s,
            return_s=settings.return_s,
            progress_every_s=settings.progress_every_s,
        )
        self._loans_at = self._now
        self._events: deque[Event] = deque()
        self._unwritten = False
        """Whether what was heard last is not written down yet."""
        self._changed: set[str] = set()
        """Jobs of which something is to be written down that no decision tells."""
        self._not_before: dict[str, float] = {}
        self._found = frozenset(worker.id for worker in kept.workers)
        """Workers of a controller before this one."""
        self._spoke: dict[str, float] = {}
        """By elastic job that runs, when it began or its crew said something last."""
        self.troubles: dict[str, str] = {}
        """What somebody should look at, by what it is about."""
        self.hands.adopt()
        self._fence()

    def job_of(self, entry: Entry) -> Job:
        return job_of(entry.spec, entry.id, entry.submit_s, self._settings.gpu_types, self._settings.capability)

    def _fence(self) -> None:
        """Tell the machines where nothing may start."""
        for i, server in enumerate(self.cluster.servers):
            if self.cluster.takes_work(i):
                self._backend.unfence(server.id)
            else:
                self._backend.fence(server.id)

    # The loop.

    def run(self, stop: threading.Event) -> None:
        """Step after step until told to stop; workers run on. A step that fails is told, and made again: what is to be
        done hangs on what is written and what runs, not on how far the last step came."""
        self.turns.run(stop, self._safe_step, self._settings.poll_s)

    def _safe_step(self, timeout_s: float) -> None:
        try:
            self.step(timeout_s)
        except (QuiltworkError, OSError) as error:
            self.troubles["controller"] = f"a step failed, and is made again: {error}"
            self.turns.take(self._settings.retry_after_s)
        else:
            self.troubles.pop("controller", None)

    def step(self, timeout_s: float = 0.0) -> None:
        """Hear, decide, write down, carry out. timeout_s : as long may it wait for somebody to ask something."""
        self.turns.take(timeout_s)
        now = self.now()
        self._listen()
        # A crew says what there is to say before its workers end; so it was said by now, and is heard first.
        for report in self._crews.reports():
            self._heard(report, now)
        while self._events:
            self._hear(self._events.popleft(), now)
        self._look(now)
        if self._lender is not None and now >= self._loans_at:
            # Every so many seconds, however late this one is.
            every = self._settings.loans_every_s
            self._loans_at += every * (1 + (now - self._loans_at) // every)
            self._lend(self._lender, now)
        self.scheduler.decide(now)
        self.cluster.retimed.clear()
        if self.write():
            self.hands.carry_out(self._wanted(now), self.entries, now)

    def now(self) -> float:
        """Seconds since 1970, never less than before."""
        self._now = max(self._now, self._clock())
        return self._now

    def stop_workers(self, grace_s: float = 30.0) -> None:
        """Have all workers stopped, and wait until they are gone. What was decided on their jobs stays so: the next
        controller starts them again."""
        self._backend.shutdown(grace_s)

    # What happened.

    def _listen(self) -> None:
        """Nothing new is asked for until the last that was told is written down: asking for more says that it was dealt
        with, and who follows a controller that was killed before is to be told again."""
        if not self._unwritten:
            self._events.extend(self._backend.events(0.0))
            self._unwritten = bool(self._events)

    def _hear(self, event: Event, now: float) -> None:
        if isinstance(event, WorkerExited):
            worker = self.hands.exited(event.worker_id)
            if worker is not None:
                self._exited(worker, event, now)
        elif isinstance(event, WorkerTrouble):
            self.troubles[event.worker_id] = event.what
        elif isinstance(event, ServerLost):
            server = self.index.get(event.server_id)
            if server is not None and self.cluster.closed.get(server) != LOST:
                self.scheduler.close(now, server, LOST, empty=True)
        elif isinstance(event, ServerBack):
            server = self.index.get(event.server_id)
            if server is not None and self.cluster.closed.get(server) == LOST:
                self.scheduler.open(now, server)

    def _exited(self, worker: Worker, event: WorkerExited, now: float) -> None:
        """A worker is gone: as it was told to, as one that is done, or against all expectation."""
        self.troubles.pop(worker.id, None)
        entry = self.entries[worker.job]
        if worker.leaving_until is not None or worker.run != entry.runs or entry.state is not JobState.RUNNING:
            return
        # Once an elastic job's result is written it does not matter how its workers end.
        if entry.finished if entry.elastic else event.code == 0:
            entry.exit_code = entry.exit_code or 0
            entry.over[worker.server] = entry.over.get(worker.server, 0) + 1
            self._changed.add(entry.id)
            if not self.hands.of(entry.id):
                self.finish(entry, JobState.DONE, now)
            return
        unheard = event.code == 0 and worker.id in self._found
        if entry.elastic and (event.code is None or unheard) and self.hands.of(entry.id):
            return  # A server or a process was lost; the others go on, and another takes its place.
        if entry.elastic and unheard:
            # That all was done may have been said while no controller was there. Who starts again finds the result.
            self._again(entry, "ended while nobody heard of it", now)
            return
        said = event.why or (f"killed by signal {event.signal}" if event.signal else f"exit code {event.code}")
        entry.exit_code = event.code
        self._failed(entry, f"worker {worker.id}: {said}", now)

    def _heard(self, report: Report, now: float) -> None:
        """What a crew says. One of a job that has ended means nothing any more."""
        entry = self.entries.get(report.job)
        if entry is None or entry.state is not JobState.RUNNING:
            return
        self._spoke[entry.id] = now
        self.troubles.pop(f"job {entry.id}", None)
        if isinstance(report, Stepped):
            self._stepped(entry, report, now)
        elif isinstance(report, Failed):
            self._failed(entry, report.what, now)
        else:
            entry.finished = True
            self._changed.add(entry.id)

    def _stepped(self, entry: Entry, report: Stepped, now: float) -> None:
        """How far a job says it is, and what follows for how long it is believed to run."""
        entry.metrics = dict(report.metrics)
        if not impossible(report.done, report.total):
            entry.steps = (report.done, report.total)
        if odd := self.scheduler.progressed(now, self.cluster.numbers[entry.id], report.done, report.total):
            self.troubles[entry.id] = f"what it says of its progress cannot be: {odd}"

    def _look(self, now: float) -> None:
        """What nobody says: time that is up, workers that could not be started, servers that are empty now."""
        for entry in self.entries.values():
            limit = entry.spec.time_limit_s
            if entry.state is JobState.RUNNING and limit is not None and entry.started_s is not None:
                if now - entry.started_s > limit:
                    entry.error = f"ran into its time limit of {limit:g} s"
                    self.finish(entry, JobState.FAILED, now)
            elif entry.state is JobState.STOPPING and not self.hands.of(entry.id):
                assert entry.outcome is not None
                entry.state, entry.ended_s = entry.outcome, now
                self._crews.forget(entry.id)
                self._changed.add(entry.id)
                self._spoke.pop(entry.id, None)
                self.troubles.pop(f"job {entry.id}", None)
            if entry.state is JobState.RUNNING and entry.elastic:
                self._miss(entry, now)
        for job, why in self.hands.refused.items():
            self.troubles[job] = f"a worker could not be started: {why}"
            self._not_before[job] = now + self._settings.retry_after_s
            entry = self.entries[job]
            if not entry.elastic and entry.state is JobState.RUNNING:
                self._again(entry, "not all of it could be started", now)
        self.hands.refused.clear()
        for server in sorted(self.cluster.returning):
            name = self.cluster.servers[server].id
            if self.hands.empty(name):
                self.memory.move(name, to_training=False)
                self.scheduler.returned(now, server)
                if self._lender is not None:
                    self._lender.take_back(name)

    def _miss(self, entry: Entry, now: float) -> None:
        """A crew that says nothing: it has never begun, hangs, or has said that all is done and does not end."""
        silent_s = now - self._spoke.setdefault(entry.id, now)
        if not entry.finished:
            if silent_s > self._settings.silent_s:
                self.troubles[f"job {entry.id}"] = f"runs, and no step of it was heard of for {silent_s:.0f} s"
        elif silent_s > entry.spec.grace_s:
            for worker in self.hands.of(entry.id):
                self._backend.stop_worker(worker.id, entry.spec.grace_s)
            self._spoke[entry.id] = now

    # Jobs end.

    def _failed(self, entry: Entry, why: str, now: float) -> None:
        entry.error = why
        if entry.retries < entry.spec.retries:
            entry.retries += 1
            self._again(entry, "failed", now)
        else:
            self.finish(entry, JobState.FAILED, now)

    def _again(self, entry: Entry, why: str, now: float) -> None:
        """Back into the queue, to be started anew."""
        number = self.cluster.numbers[entry.id]
        if number in self.cluster.runs:
            self.scheduler.again(now, number, why)

    def finish(self, entry: Entry, outcome: JobState, now: float) -> None:
        """It will not run again: whoever of its workers is left has to go."""
        self.scheduler.ended(now, self.cluster.numbers[entry.id], reason=str(outcome))
        entry.state, entry.outcome = JobState.STOPPING, outcome
        self._changed.add(entry.id)
        self.troubles.pop(entry.id, None)

    # What is decided is written, and wanted.

    def write(self) -> bool:
        """Write down, all at once, what was decided since the last time and what became of jobs and workers; whether
        that worked. Nothing is carried out before."""
        rows, gone = self.cluster.log[self._written :], tuple(self.hands.gone)
        self._note(self.cluster.log[self._noted :])
        jobs = self._changed | {row.job for row in rows}
        if rows or jobs or gone:
            try:
                self.memory.append(rows, [entry for job, entry in self.entries.items() if job in jobs], gone)
            except QuiltworkError as error:
                self.troubles["memory"] = str(error)
                return False
            self.troubles.pop("memory", None)
        self._written += len(rows)
        self._changed.clear()
        del self.hands.gone[: len(gone)]
        self._unwritten = bool(self._events)
        if any(row.action in (Action.LOAN, Action.RECLAIM, Action.CLOSE, Action.OPEN) for row in rows):
            self._fence()
        return True

    def _note(self, rows: Sequence[Row]) -> None:
        """What rows say of jobs."""
        self._noted += len(rows)
        for row in rows:
            if row.action is Action.START:
                entry = self.entries[row.job]
                entry.state, entry.finished, entry.exit_code, entry.over = JobState.RUNNING, False, None, {}
                entry.runs += 1
                self._spoke[entry.id] = row.time
                if entry.started_s is None:
                    entry.started_s = row.time
            elif row.action is Action.PREEMPT:
                self.entries[row.job].state = JobState.QUEUED

    def _wanted(self, now: float) -> dict[str, Wanted]:
        """Workers by server for every job that runs, in the order of their starts."""
        names = [server.id for server in self.cluster.servers]
        wanted = {}
        for run in self.cluster.runs.values():
            job = run.job
            if now < self._not_before.get(job.id, 0.0) and not self.hands.of(job.id):
                continue
            if self.entries[job.id].finished:
                # All is done, and they end one by one: nobody takes the place of one that has.
                here = Counter(w.server for w in self.hands.of(job.id) if w.leaving_until is None)
                wanted[job.id] = Wanted(job.gpus_per_worker, here)
                continue
            over = self.entries[job.id].over
            base = {names[s]: gpus // job.gpus_per_worker - over.get(names[s], 0) for s, gpus in run.base}
            flexible = {names[server]: workers for server, workers in run.flex.items()}
            wanted[job.id] = Wanted(job.gpus_per_worker, base, flexible)
        return wanted

    # Servers change hands.

    def _lend(self, lender: Lender, now: float) -> None:
        try:
            need = min(1.0, max(0.0, lender.need()))
        except QuiltworkError as error:
            # Nobody knows what inference needs: what it may need is everything.
            self.troubles["lender"] = str(error)
            need = 1.0
        else:
            self.troubles.pop("lender", None)
        before = set(self.cluster.lent)
        self.scheduler.loans(now, need, ready=lambda server: lender.release(self.cluster.servers[server].id))
        self.cluster.note(Action.NEED, cost=need * len(self.cluster.inference), gain=need * len(self.cluster.inference))
        for server in sorted(self.cluster.lent - before):
            self.memory.move(self.cluster.servers[server].id, to_training=True)
