"""A server of this machine as its controller sees it: whether its supervisor is reached, and what it was ordered."""

from __future__ import annotations

import select
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from quiltwork.cluster.live.backend import (
    Event,
    ServerBack,
    ServerLost,
    WorkerExited,
    WorkerInfo,
    WorkerOrder,
    WorkerState,
)
from quiltwork.cluster.live.ledger import Record, document_of, ended_ids, read_records
from quiltwork.cluster.live.link import Link
from quiltwork.cluster.live.local_server import LocalServer
from quiltwork.cluster.live.local_workers import SERVER_LOST
from quiltwork.cluster.live.process import Process, remains
from quiltwork.cluster.live.wire import make_gate
from quiltwork.core.disk import disk_errors
from quiltwork.core.errors import CapacityError, ConflictError, QuiltworkError

START_SECONDS = 60.0
"""How long a supervisor may take until it listens."""


@dataclass(frozen=True)
class LocalSettings:
    """beat_s : how often a supervisor says that it is there. lost_s : after how much silence its server is lost.
    answer_s : how long it may take to answer."""

    beat_s: float = 1.0
    lost_s: float = 5.0
    answer_s: float = 10.0


class LocalPlace:
    """clock : seconds. tell : is handed what happens to the server and its workers."""

    def __init__(
        self,
        server: LocalServer,
        folder: Path,
        clock: Callable[[], float],
        settings: LocalSettings,
        tell: Callable[[Event], None],
    ) -> None:
        self.server, self.folder = server, folder
        self._clock, self._settings, self._tell = clock, settings, tell
        self.link: Link | None = None
        """None where the supervisor is not reached."""
        self.lost = False
        self.heard = clock()
        """When, last."""
        self.ordered = _ids(folder)
        """Ids of all workers that it has been ordered for certain."""
        self.unsure: set[str] = set()
        """Those of whose order nobody knows whether it has it."""
        self._exited: set[str] = set()
        """Workers whose end was told though no supervisor could tell it."""
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The supervisor's, where this process started it."""
        return None if self._child is None else self._child.pid

    def start(self) -> None:
        """Start the supervisor where there is none. Raises CapacityError."""
        if self.link is None and not self.reach():
            self._launch()
            if not self.reach():
                raise CapacityError("its supervisor is not reached", where=f"server {self.server.id}")

    def _launch(self) -> None:
        make_gate(self.folder)
        command = [sys.executable, "-m", "quiltwork.cluster.live.supervisor"]
        with disk_errors(self.folder), open(self.folder / "supervisor.log", "ab") as errors:
            child = subprocess.Popen(
                [*command, str(self.folder), str(self._settings.beat_s)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True,
            )  # fmt: skip
        self._child = child
        assert child.stdout is not None
        with child.stdout as said:
            ready = select.select([said], [], [], START_SECONDS)[0] and said.readline()
        if not ready:
            child.kill()
            child.wait()
            raise CapacityError(
                "its supervisor does not start", where=f"server {self.server.id}",
                hint=f"see {self.folder / 'supervisor.log'}",
            )  # fmt: skip

    def reach(self) -> bool:
        """Connect to the supervisor, if there is one. A lost server is back when something is heard of it."""
        if self._child is not None:
            self._child.poll()
        self.link = Link.to(self.folder)
        if self.link is None:
            return False
        self.heard = self._clock()
        return True

    def order(self, order: WorkerOrder) -> None:
        """Have a worker started. Raises what the supervisor does, and ConflictError where the server is lost."""
        if self.lost:
            raise self._is_lost()
        self.unsure.add(order.worker_id)
        try:
            self._ask(do="start", order=document_of(order))
        except QuiltworkError:
            if not self.lost:  # then this is its answer
                self.unsure.discard(order.worker_id)
            raise
        self.unsure.discard(order.worker_id)
        self.ordered.add(order.worker_id)

    def tell(self, **message: object) -> None:
        """Have something done, and do not wait for it. Workers of a server without a supervisor are being killed."""
        if self.link is not None and not self.link.tell(**message):
            self.lose()

    def _ask(self, **asked: object) -> object:
        """Raises what the supervisor does, and ConflictError where there is none or it does not answer."""
        if self.link is not None and not self.lost:
            try:
                return self.link.ask(self._settings.answer_s, **asked)
            except (EOFError, TimeoutError):
                self.lose()
        raise self._is_lost()

    def _is_lost(self) -> ConflictError:
        return ConflictError(
            "the server is lost", where=f"server {self.server.id}", hint="an order may be sent again when it is back"
        )

    def deal_with(self) -> None:
        """The controller has dealt with what it was given."""
        if self.link is not None and not self.link.deal_with():
            self.lose()

    def lose(self, *, hang_up: bool = True) -> None:
        """hang_up : where nobody is at the other end, or an answer would be too late to be believed."""
        if hang_up:
            self.hang_up()
        if not self.lost:
            self.lost = True
            self._tell(ServerLost(self.server.id, self._clock()))

    def hang_up(self) -> None:
        if self.link is not None:
            self.link.close()
            self.link = None

    def listen(self) -> None:
        """Take in what the supervisor has said, or notice that it says nothing."""
        if self.link is None:
            return
        now = self._clock()
        there = self.link.drain()
        for event in self.link.events(now):
            if not (isinstance(event, WorkerExited) and event.worker_id in self._exited):
                self._tell(event)
        if not there:
            self.lose()
        elif self.link.heard:
            self.link.heard = False
            self.heard = now
            if self.lost:
                self._be_back()
        elif now - self.heard > self._settings.lost_s:
            self.lose(hang_up=False)

    def _be_back(self) -> None:
        self.lost = False
        self._tell(ServerBack(self.server.id, self._clock()))
        # What was sent before is in its ledger by now, or will never be.
        self.ordered |= self.unsure & _ids(self.folder)
        self.unsure.clear()

    def verify(self) -> None:
        """Tell the ends of workers that no supervisor can tell."""
        if self.link is not None:
            return
        for id, record in read_records(self.folder).items():
            if id in self._exited or (record.exit is None and remains(record.mark, record.process)):
                continue
            exit, now = record.exit, self._clock()
            self._exited.add(id)
            if exit is None:
                self._tell(WorkerExited(id, None, None, now, SERVER_LOST))
            else:
                ago = max(time.monotonic() - exit.at, 0.0)
                self._tell(WorkerExited(id, exit.code, exit.signal, now - ago, exit.why))

    def workers(self) -> list[WorkerInfo]:
        """All of which something is left: as the supervisor says, or where it says nothing as the kernel does."""
        told: dict[str, tuple[WorkerState, Process | None]] | None = None
        with suppress(ConflictError):
            answer = self._ask(do="workers")
            assert isinstance(answer, list)
            told = {
                one["id"]: (WorkerState(one["state"]), one["process"] and Process(*one["process"])) for one in answer
            }
        records = read_records(self.folder)
        if told is None:
            told = {
                id: (WorkerState.LOST, record.process)
                for id, record in records.items()
                if record.exit is None and remains(record.mark, record.process)
            }
        return [_info(records[id], *state) for id, state in told.items() if id in records]

    def wait(self, seconds: float) -> None:
        """For the end of a supervisor that this process started."""
        if self._child is not None and self.link is None:
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(seconds)


def _ids(folder: Path) -> set[str]:
    """All that a server was ever ordered."""
    return ended_ids(folder) | read_records(folder).keys()


def _info(record: Record, state: WorkerState, process: Process | None) -> WorkerInfo:
    order = record.order
    return WorkerInfo(order.worker_id, order.job_id, order.server_id, order.slots, state, process)
