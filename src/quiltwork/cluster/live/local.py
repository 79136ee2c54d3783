"""This machine's processes as a cluster: each server is a supervisor process, and the workers that it looks after."""

from __future__ import annotations

import fcntl
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from quiltwork.cluster.live.backend import (
    Event,
    ServerBack,
    ServerInfo,
    ServerLost,
    WorkerExited,
    WorkerInfo,
    WorkerOrder,
    WorkerState,
    check_grace,
    check_order,
)
from quiltwork.cluster.live.ledger import Record, disk_errors, document_of, ended_ids, read_records
from quiltwork.cluster.live.link import Link
from quiltwork.cluster.live.local_server import LocalServer, read_server, write_server
from quiltwork.cluster.live.local_workers import SERVER_LOST
from quiltwork.cluster.live.process import Process, remains
from quiltwork.cluster.live.wire import is_fenced, make_gate, move_gate
from quiltwork.core.errors import CapacityError, ConflictError, NotFoundError, QuiltworkError, UnsupportedError

START_SECONDS = 60.0
"""How long a supervisor may take until it listens."""
END_SECONDS = 10.0
"""How much longer than their grace workers may take to be gone when all is shut down."""


@dataclass(frozen=True)
class LocalSettings:
    """beat_s : how often a supervisor says that it is there. lost_s : after how much silence its server is lost.
    answer_s : how long it may take to answer."""

    beat_s: float = 1.0
    lost_s: float = 5.0
    answer_s: float = 10.0


@dataclass(eq=False)
class _Place:
    """A server as the controller sees it. link : None where its supervisor is not reached."""

    server: LocalServer
    folder: Path
    link: Link | None = None
    child: subprocess.Popen[bytes] | None = None
    heard: float = 0.0
    lost: bool = False


class LocalBackend:
    """See ``Backend``.

    folder : where servers keep their sockets, fences and ledgers; servers that it knows already are there too.
    clock : seconds.

    Raises ConflictError where another controller has the folder, or it knows a server otherwise than it is declared;
    UnsupportedError where this is not Linux; CapacityError where a server cannot be started.
    """

    def __init__(
        self,
        folder: str | Path,
        servers: Sequence[LocalServer] = (),
        *,
        clock: Callable[[], float],
        settings: LocalSettings | None = None,
    ) -> None:
        if not sys.platform.startswith("linux"):
            raise UnsupportedError("workers are told apart and ended by what only Linux has", where="local")
        self._folder, self._clock, self._settings = Path(folder).absolute(), clock, settings or LocalSettings()
        with disk_errors(self._folder):
            (self._folder / "servers").mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(self._folder / "controller.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise ConflictError("another controller has this folder", where=str(self._folder)) from error
        self._found: list[Event] = []
        self._exited: set[str] = set()
        """Workers whose end was told though no supervisor could tell it."""
        self._places: dict[str, _Place] = {}
        self._looked = time.monotonic()
        self._closed = False
        try:
            for path in sorted((self._folder / "servers").iterdir()):
                known = read_server(path)
                self._places[known.id] = _Place(known, path)
            for server in servers:
                self._declare(server)
            self._home = {id: place for place in self._places.values() for id in _ids(place.folder)}
            """The server of every worker that was ever ordered."""
            self._unsure: set[str] = set()
            """Those of whose order nobody knows whether the server has it."""
            for id in self._places:
                self.start_server(id)
        except BaseException:
            self.close()
            raise

    def _declare(self, server: LocalServer) -> None:
        place = self._places.get(server.id)
        if place is None:
            folder = self._folder / "servers" / server.id
            with disk_errors(folder):
                folder.mkdir(mode=0o700, exist_ok=True)
                write_server(server, folder)
            self._places[server.id] = _Place(server, folder)
        elif place.server != server:
            old = place.server
            raise ConflictError(
                f"is known with {old.gpus} {old.gpu_type}, not {server.gpus} {server.gpu_type}"
                if (old.gpus, old.gpu_type) != (server.gpus, server.gpu_type)
                else f"is known with the GPUs {old.devices}, not {server.devices}",
                where=f"server {server.id}", hint="give it another name, or another folder to the cluster",
            )  # fmt: skip

    def start_server(self, server_id: str) -> None:
        """Start the supervisor of a server, where there is none. Raises NotFoundError, CapacityError."""
        place = self._place(server_id)
        if place.link is None and not self._reach(place):
            self._launch(place)
            if not self._reach(place):
                raise CapacityError("its supervisor is not reached", where=f"server {server_id}")

    def _launch(self, place: _Place) -> None:
        make_gate(place.folder)
        command = [sys.executable, "-m", "quiltwork.cluster.live.supervisor"]
        with disk_errors(place.folder), open(place.folder / "supervisor.log", "ab") as errors:
            place.child = subprocess.Popen(
                [*command, str(place.folder), str(self._settings.beat_s)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True,
            )  # fmt: skip
        assert place.child.stdout is not None
        with place.child.stdout as said:
            ready = select.select([said], [], [], START_SECONDS)[0] and said.readline()
        if not ready:
            place.child.kill()
            place.child.wait()
            raise CapacityError(
                "its supervisor does not start", where=f"server {place.server.id}",
                hint=f"see {place.folder / 'supervisor.log'}",
            )  # fmt: skip

    def _reach(self, place: _Place) -> bool:
        """Connect to a server's supervisor, if there is one. A lost one is back when something is heard of it."""
        place.link = Link.to(place.folder)
        if place.link is None:
            return False
        place.heard = self._clock()
        return True

    def _place(self, server_id: str) -> _Place:
        place = self._places.get(server_id)
        if place is None:
            raise NotFoundError("there is no such server", where=f"server {server_id}")
        return place

    def servers(self) -> list[ServerInfo]:
        self._drain()
        now = self._clock()
        return [
            ServerInfo(
                place.server.id, place.server.gpu_type, place.server.gpus, alive=not place.lost,
                silent_s=max(now - place.heard, 0.0), fenced=is_fenced(place.folder),
            )
            for _, place in sorted(self._places.items())
        ]  # fmt: skip

    def start_worker(self, order: WorkerOrder) -> None:
        place = self._place(order.server_id)
        check_order(order, place.server.gpus)
        id = order.worker_id
        home = self._home.get(id)
        if home is not None and id not in self._unsure:
            return
        if home not in (None, place):
            raise ConflictError("was ordered from another server, which has not answered", where=f"worker {id}")
        if place.lost:
            raise _lost(place)
        self._home[id] = place
        self._unsure.add(id)
        try:
            self._ask(place, do="start", order=document_of(order))
        except QuiltworkError:
            if not place.lost:  # then this is its answer
                self._unsure.discard(id)
                del self._home[id]
            raise
        self._unsure.discard(id)

    def stop_worker(self, worker_id: str, grace_s: float | None = None) -> None:
        check_grace(grace_s)
        place = self._home.get(worker_id)
        # Workers of a server without a supervisor are being killed.
        if place is not None and place.link is not None and not place.link.tell(
            do="stop", worker=worker_id, grace_s=grace_s
        ):  # fmt: skip
            self._lose(place)

    def fence(self, server_id: str) -> None:
        move_gate(self._place(server_id).folder, fenced=True)

    def unfence(self, server_id: str) -> None:
        move_gate(self._place(server_id).folder, fenced=False)

    def _ask(self, place: _Place, **asked: object) -> object:
        """Raises what the supervisor does, and ConflictError where there is none or it does not answer."""
        if place.link is not None and not place.lost:
            try:
                return place.link.ask(self._settings.answer_s, **asked)
            except (EOFError, TimeoutError):
                self._lose(place)
        raise _lost(place)

    def _lose(self, place: _Place, *, hang_up: bool = True) -> None:
        """hang_up : where nobody is at the other end, or what was asked there must not be answered any more."""
        if hang_up and place.link is not None:
            place.link.close()
            place.link = None
        if not place.lost:
            place.lost = True
            self._found.append(ServerLost(place.server.id, self._clock()))

    def events(self, timeout_s: float = 0.0) -> list[Event]:
        for place in self._places.values():
            if place.link is not None and not place.link.deal_with():
                self._lose(place)
        until = time.monotonic() + timeout_s
        while True:
            self._drain()
            left = until - time.monotonic()
            if self._found or left <= 0:
                break
            select.select(self._links(), [], [], min(left, self._settings.beat_s))
        found, self._found = self._found, []
        for place in self._places.values():
            if place.link is not None:
                place.link.given = place.link.read
        return found

    def _drain(self) -> None:
        """Take what supervisors have said, and notice those that say nothing."""
        beat = time.monotonic() >= self._looked + self._settings.beat_s
        for place in self._places.values():
            if place.link is None and beat:
                self._reach(place)
            if place.link is not None:
                self._listen(place)
            if place.link is None and beat:
                self._verify(place)
            if place.child is not None:
                place.child.poll()
        if beat:
            self._looked = time.monotonic()

    def _listen(self, place: _Place) -> None:
        assert place.link is not None
        now = self._clock()
        there = place.link.drain()
        for event in place.link.events(now):
            if not (isinstance(event, WorkerExited) and event.worker_id in self._exited):
                self._found.append(event)
        if not there:
            self._lose(place)
        elif place.link.heard:
            place.link.heard = False
            place.heard = now
            if place.lost:
                self._be_back(place)
        elif now - place.heard > self._settings.lost_s:
            self._lose(place, hang_up=False)

    def _be_back(self, place: _Place) -> None:
        place.lost = False
        self._found.append(ServerBack(place.server.id, self._clock()))
        # What was sent before is in its ledger by now, or will never be.
        ids = _ids(place.folder)
        for id in [id for id in self._unsure if self._home[id] is place]:
            self._unsure.discard(id)
            if id not in ids:
                del self._home[id]

    def _verify(self, place: _Place) -> None:
        """Tell the ends of workers whose server is lost."""
        for id, record in read_records(place.folder).items():
            if id in self._exited or (record.exit is None and remains(record.mark, record.process)):
                continue
            exit, now = record.exit, self._clock()
            self._exited.add(id)
            if exit is None:
                self._found.append(WorkerExited(id, None, None, now, SERVER_LOST))
            else:
                ago = max(time.monotonic() - exit.at, 0.0)
                self._found.append(WorkerExited(id, exit.code, exit.signal, now - ago, exit.why))

    def workers(self) -> list[WorkerInfo]:
        found = [worker for place in self._places.values() for worker in self._workers_of(place)]
        return sorted(found, key=lambda worker: worker.worker_id)

    def _workers_of(self, place: _Place) -> list[WorkerInfo]:
        told: dict[str, tuple[WorkerState, Process | None]] | None = None
        if not place.lost:
            with suppress(ConflictError):
                answer = self._ask(place, do="workers")
                assert isinstance(answer, list)
                told = {
                    one["id"]: (WorkerState(one["state"]), one["process"] and Process(*one["process"]))
                    for one in answer
                }
        records = read_records(place.folder)
        if told is None:
            told = {
                id: (WorkerState.LOST, record.process)
                for id, record in records.items()
                if record.exit is None and remains(record.mark, record.process)
            }
        return [_info(records[id], *state) for id, state in told.items() if id in records]

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            for place in self._places.values():
                if place.link is not None:
                    place.link.close()
                    place.link = None
            os.close(self._lock)

    def shutdown(self, grace_s: float) -> None:
        check_grace(grace_s)
        for place in self._places.values():
            if place.link is not None:
                place.link.tell(do="shutdown", grace_s=grace_s)
        until = time.monotonic() + grace_s + END_SECONDS
        while (links := self._links()) and time.monotonic() < until:
            select.select(links, [], [], until - time.monotonic())
            for place in self._places.values():
                if place.link is not None and not place.link.drain():
                    self._lose(place)
        for place in self._places.values():
            if place.child is not None and place.link is None:
                with suppress(subprocess.TimeoutExpired):
                    place.child.wait(END_SECONDS)
        places = self._places.values()
        staying = sorted(p.server.id for p in places if p.link is not None or (p.lost and self._workers_of(p)))
        self.close()
        if staying:
            raise QuiltworkError("is not empty yet", where=f"server {', '.join(staying)}")

    def _links(self) -> list[Link]:
        return [place.link for place in self._places.values() if place.link is not None]


def _lost(place: _Place) -> ConflictError:
    return ConflictError(
        "the server is lost", where=f"server {place.server.id}", hint="an order is safe to send again when it is back"
    )


def _ids(folder: Path) -> set[str]:
    """All that a server was ever ordered."""
    return ended_ids(folder) | read_records(folder).keys()


def _info(record: Record, state: WorkerState, process: Process | None) -> WorkerInfo:
    order = record.order
    return WorkerInfo(order.worker_id, order.job_id, order.server_id, order.slots, state, process)
