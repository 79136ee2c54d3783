"""The workers of one server of this machine: started, stopped, and gone when nothing of them is left."""

from __future__ import annotations

import os
import secrets
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quiltwork.cluster.live.backend import WorkerOrder, WorkerState, check_order
from quiltwork.cluster.live.keeping import KeptWorker
from quiltwork.cluster.live.ledger import Exit, Ledger, Record
from quiltwork.cluster.live.local_server import LocalServer
from quiltwork.cluster.live.process import Process, descendants, ended_children, processes, remains
from quiltwork.cluster.live.slots import hold, release
from quiltwork.core.errors import CapacityError, ConflictError

SERVER_LOST = "its server was lost"


@dataclass(eq=False)
class LocalWorker:
    """One of which something is left. kept : None where its keeper is gone, or was a former supervisor's."""

    record: Record
    state: WorkerState = WorkerState.STARTING
    kept: KeptWorker | None = None
    ended: dict[str, Any] | None = None
    why: str = ""

    @property
    def id(self) -> str:
        return self.record.order.worker_id


class LocalWorkers:
    """folder : the server's, with its ledger and the locks of its slots. tell : is handed what happens to a worker.

    It begins with what a supervisor that was killed has left: workers of which something runs have their slots still,
    and ends that nobody dealt with are told again.
    """

    def __init__(self, folder: Path, server: LocalServer, tell: Callable[[dict[str, Any]], None]) -> None:
        self._folder, self._server, self._tell = folder, server, tell
        self._ledger = Ledger(folder)
        self._errors = os.open(folder / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.here: dict[str, LocalWorker] = {}
        for record in list(self._ledger.records.values()):
            if record.exit is None:
                self.here[record.order.worker_id] = LocalWorker(record, WorkerState.STOPPING, why=SERVER_LOST)
            else:
                self._tell_exit(record)

    def known(self, id: str) -> bool:
        """Whether it was ever ordered."""
        return self._ledger.known(id)

    def start(self, order: WorkerOrder) -> LocalWorker:
        """Start one that is not known. Raises BadInputError, ConflictError where a slot is not free, CapacityError
        where the order cannot be written down or no process be started; then nothing was."""
        check_order(order, self._server.gpus)
        for other in self.here.values():
            if both := set(order.slots) & set(other.record.order.slots):
                raise ConflictError(
                    f"slot {min(both)} is taken by worker {other.id}", where=f"server {self._server.id}",
                    hint="until nothing of that worker is left",
                )  # fmt: skip
        record = Record(order, secrets.token_hex(16))
        held = hold(self._folder, self._server.id, order.slots, record.mark)
        try:
            self._ledger.put(record)
            try:
                devices = self._server.devices_of(order.slots)
                kept = KeptWorker(order, record.mark, devices, held, os.environ, self._errors)
            except CapacityError:
                self._ledger.withdraw(order.worker_id)
                raise
        finally:
            release(held)
        self.here[order.worker_id] = worker = LocalWorker(record, kept=kept)
        return worker

    def stop(self, id: str, grace_s: float | None) -> None:
        """See ``Backend.stop_worker``; one without a keeper is being killed already."""
        worker = self.here.get(id)
        if worker is not None and worker.kept is not None:
            worker.state = WorkerState.STOPPING
            worker.kept.stop(worker.record.order.grace_s if grace_s is None else grace_s)

    def heard(self, worker: LocalWorker) -> None:
        """Take a keeper's answers. Where there will be no more ``worker.kept`` is None afterwards."""
        assert worker.kept is not None
        for answer in worker.kept.answers():
            if "started" in answer:
                process = Process(*answer["started"])
                if worker.state is WorkerState.STARTING:
                    worker.state = WorkerState.RUNNING
                self._keep(worker, replace(worker.record, process=process))
                self._tell({"kind": "started", "worker": worker.id, "process": process})
            elif "trouble" in answer:
                self._trouble(worker.id, answer["trouble"])
            else:
                worker.ended = answer["ended"]
        if worker.kept.silent:
            worker.kept.process.wait()
            worker.kept.close()
            worker.kept = None
            if worker.ended is not None:
                self._gone(worker)
            else:
                worker.state, worker.why = WorkerState.STOPPING, "its keeper was killed"
                self._trouble(worker.id, "its keeper was killed; what is left of it is killed too")

    def look(self) -> None:
        """Kill what is left of workers that have no keeper, and see who is gone. To be called again and again."""
        if orphaned := [worker for worker in self.here.values() if worker.kept is None]:
            strays = self._strays()
            for worker in orphaned:
                left = remains(worker.record.mark, worker.record.process)
                for pid in {*left.others, *strays}:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                if not left and not strays:
                    self._gone(worker)
            for pid in ended_children(os.getpid()):
                if pid not in self._keepers():
                    with suppress(ChildProcessError):
                        os.waitpid(pid, os.WNOHANG)
        self._ledger.catch_up()

    def deal_with(self, ids: set[str]) -> None:
        """Whoever asked for these workers knows of their ends, for good."""
        self._ledger.deal_with(ids)

    def _keepers(self) -> list[int]:
        return [worker.kept.process.pid for worker in self.here.values() if worker.kept is not None]

    def _strays(self) -> list[int]:
        """One's own descendants that are not of a keeper: left by one that was killed."""
        stats = processes()
        theirs = {pid for keeper in self._keepers() for pid in (keeper, *descendants(keeper, stats))}
        return [pid for pid in descendants(os.getpid(), stats) if pid not in theirs]

    def _gone(self, worker: LocalWorker) -> None:
        """Nothing of it is left."""
        ended = worker.ended or {"code": None, "signal": None, "why": worker.why}
        self._keep(worker, replace(worker.record, exit=Exit(**ended, at=time.monotonic())))
        del self.here[worker.id]
        self._tell_exit(worker.record)

    def _tell_exit(self, record: Record) -> None:
        exit = record.exit
        assert exit is not None
        self._tell({
            "kind": "exited", "worker": record.order.worker_id, "code": exit.code, "signal": exit.signal,
            "why": exit.why, "at": exit.at,
        })  # fmt: skip

    def _trouble(self, id: str, what: str) -> None:
        self._tell({"kind": "trouble", "worker": id, "what": what})

    def _keep(self, worker: LocalWorker, record: Record) -> None:
        worker.record = record
        if (error := self._ledger.keep(record)) is not None:
            self._trouble(worker.id, f"what became of it cannot be written down yet: {error}")
