"""The workers there are, and the steps from them to those that there should be."""

from __future__ import annotations

import math
from collections.abc import Mapping

from quiltwork.cluster.live.backend import Backend
from quiltwork.cluster.live.crews import Crews
from quiltwork.cluster.live.entries import Entry, Worker
from quiltwork.cluster.live.memory import Memory
from quiltwork.cluster.live.orders import OrderBook
from quiltwork.cluster.live.reconcile import Present, Start, Wanted, reconcile
from quiltwork.core.errors import QuiltworkError


class Hands:
    """Starts workers on GPUs that are really free, and has workers leave; decides neither.

    deadline_s : whoever is asked to leave is made to after so long, whatever its job says.
    ``held_up`` : jobs that wait for GPUs which somebody is still leaving. ``refused`` : jobs of which a
    worker could not be started, and why, until somebody has dealt with that. ``gone`` : workers of which nothing is
    left, until that is written down.
    """

    def __init__(
        self,
        backend: Backend,
        crews: Crews,
        memory: Memory,
        book: OrderBook,
        workers: Mapping[str, Worker],
        *,
        deadline_s: float = math.inf,
    ) -> None:
        self._backend, self._crews, self._memory, self._book = backend, crews, memory, book
        self._workers = dict(workers)
        self._deadline_s = deadline_s
        self._told: dict[str, tuple[str, ...]] = {}
        self.held_up: tuple[str, ...] = ()
        self.refused: dict[str, str] = {}
        self.gone: list[str] = []

    def adopt(self) -> None:
        """After a start: order again whatever may never have been heard. What was heard starts nothing again."""
        for worker in list(self._workers.values()):
            self._send(worker)
            if worker.leaving_until is not None:
                self._backend.stop_worker(worker.id)

    def of(self, job: str) -> list[Worker]:
        """A job's workers, the oldest first."""
        return [worker for worker in self._workers.values() if worker.job == job]

    def all(self) -> list[Worker]:
        """All workers, the oldest first."""
        return list(self._workers.values())

    def empty(self, server: str) -> bool:
        """Whether no worker is on a server."""
        return all(worker.server != server for worker in self._workers.values())

    def exited(self, worker_id: str) -> Worker | None:
        """Nothing of a worker is left: its GPUs are free. None where it was gone already."""
        worker = self._workers.pop(worker_id, None)
        if worker is not None:
            self.gone.append(worker_id)
        return worker

    def carry_out(self, wanted: Mapping[str, Wanted], entries: Mapping[str, Entry], now: float) -> None:
        """One step towards ``wanted``, by job in the order of their starts."""
        current = {
            job: want
            for job, want in wanted.items()
            # Nobody starts beside workers of an earlier run of the same job.
            if all(worker.run == entries[job].runs for worker in self.of(job))
        }
        present = [
            Present(w.id, w.job, w.server, w.order.slots, w.leaving_until is not None) for w in self._workers.values()
        ]
        slots = {s.id: s.gpus for s in self._backend.servers() if s.alive and not s.fenced}
        steps = reconcile(current, present, slots)
        self.held_up = tuple(dict.fromkeys((*steps.held_up, *(job for job in wanted if job not in current))))
        for worker_id in steps.leave:
            self._ask_to_leave(self._workers[worker_id], wanted, entries, now)
        self._start(steps.start, current, entries)
        self._tell_crews(wanted, entries)
        for worker in self._workers.values():
            if worker.leaving_until is not None and now >= worker.leaving_until:
                self._backend.stop_worker(worker.id)

    def _ask_to_leave(
        self, worker: Worker, wanted: Mapping[str, Wanted], entries: Mapping[str, Entry], now: float
    ) -> None:
        """A worker of a crew that goes on leaves by itself at the next step's end; all others are stopped."""
        entry = entries[worker.job]
        goes_on = worker.job in wanted and entry.elastic and worker.run == entry.runs
        grace_s = min(entry.spec.grace_s, self._deadline_s)
        worker.leaving_until = now + grace_s
        self._memory.keep_workers([worker])
        if not goes_on:
            self._backend.stop_worker(worker.id, grace_s)

    def _start(self, starts: tuple[Start, ...], wanted: Mapping[str, Wanted], entries: Mapping[str, Entry]) -> None:
        gangs: dict[tuple[str, bool], list[Start]] = {}
        for start in starts:
            gangs.setdefault((start.job, start.flexible), []).append(start)
        for (job, flexible), gang in gangs.items():
            orders = self._book.orders(entries[job], gang, flexible=flexible)
            workers = [Worker(o.worker_id, job, o.server_id, entries[job].runs, o) for o in orders]
            self._memory.keep_workers(workers, entries[job])
            self._workers.update({worker.id: worker for worker in workers})
            for worker in workers:
                self._send(worker)

    def _send(self, worker: Worker) -> None:
        try:
            self._backend.start_worker(worker.order)
        except QuiltworkError as error:
            # Nothing was started.
            self.exited(worker.id)
            self.refused[worker.job] = str(error)

    def _tell_crews(self, wanted: Mapping[str, Wanted], entries: Mapping[str, Entry]) -> None:
        """Who computes from the next step on, for each elastic job; told only where it changes."""
        for job in wanted:
            if not entries[job].elastic:
                continue
            members = tuple(w.id for w in self.of(job) if w.leaving_until is None and w.run == entries[job].runs)
            if members and self._told.get(job) != members:
                self._crews.want(job, members)
                self._told[job] = members
        for job in self._told.keys() - wanted.keys():
            del self._told[job]
