"""This machine's processes as a cluster: each server is a supervisor process, and the workers that it looks after."""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from quiltwork.cluster.live.backend import Event, ServerInfo, WorkerInfo, WorkerOrder, check_grace, check_order
from quiltwork.cluster.live.controller_folder import ControllerFolder
from quiltwork.cluster.live.link import Link
from quiltwork.cluster.live.local_place import LocalPlace, LocalSettings
from quiltwork.cluster.live.local_server import LocalServer, read_server
from quiltwork.cluster.live.wire import is_fenced, move_gate
from quiltwork.core.errors import ConflictError, NotFoundError, QuiltworkError, UnsupportedError

END_SECONDS = 10.0
"""How much longer than their grace workers may take to be gone when all is shut down."""


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
        self._clock, self._settings = clock, settings or LocalSettings()
        self._found: list[Event] = []
        self._places: dict[str, LocalPlace] = {}
        self._looked = time.monotonic()
        self._folder = ControllerFolder(Path(folder))
        try:
            for path in self._folder.servers():
                self._know(read_server(path), path)
            for server in servers:
                self._declare(server)
            for place in self._places.values():
                place.start()
        except BaseException:
            self.close()
            raise

    def _know(self, server: LocalServer, folder: Path) -> None:
        self._places[server.id] = LocalPlace(server, folder, self._clock, self._settings, self._found_out)

    def _found_out(self, event: Event) -> None:
        self._found.append(event)

    def _declare(self, server: LocalServer) -> None:
        place = self._places.get(server.id)
        if place is None:
            self._know(server, self._folder.add(server))
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
        self._place(server_id).start()

    def _place(self, server_id: str) -> LocalPlace:
        place = self._places.get(server_id)
        if place is None:
            raise NotFoundError("there is no such server", where=f"server {server_id}")
        return place

    def servers(self) -> list[ServerInfo]:
        self._listen()
        now = self._clock()
        return [
            ServerInfo(
                id, place.server.gpu_type, place.server.gpus, alive=not place.lost,
                silent_s=max(now - place.heard, 0.0), fenced=is_fenced(place.folder),
            )
            for id, place in sorted(self._places.items())
        ]  # fmt: skip

    def start_worker(self, order: WorkerOrder) -> None:
        place = self._place(order.server_id)
        check_order(order, place.server.gpus)
        id = order.worker_id
        if any(id in other.ordered for other in self._places.values()):
            return
        for other in self._places.values():
            if id in other.unsure and other is not place:
                raise ConflictError(
                    f"was ordered from server {other.server.id}, which has not answered", where=f"worker {id}"
                )
        place.order(order)

    def stop_worker(self, worker_id: str, grace_s: float | None = None) -> None:
        check_grace(grace_s)
        for place in self._places.values():
            if worker_id in place.ordered or worker_id in place.unsure:
                place.tell(do="stop", worker=worker_id, grace_s=grace_s)

    def fence(self, server_id: str) -> None:
        move_gate(self._place(server_id).folder, fenced=True)

    def unfence(self, server_id: str) -> None:
        move_gate(self._place(server_id).folder, fenced=False)

    def events(self, timeout_s: float = 0.0) -> list[Event]:
        for place in self._places.values():
            place.deal_with()
        until = time.monotonic() + timeout_s
        while True:
            self._listen()
            left = until - time.monotonic()
            if self._found or left <= 0:
                break
            select.select(self._links(), [], [], min(left, self._settings.beat_s))
        found = self._found.copy()
        self._found.clear()
        for place in self._places.values():
            if place.link is not None:
                place.link.given = place.link.read
        return found

    def _listen(self) -> None:
        """Take in what supervisors have said; from time to time look for those that are gone, or there again."""
        beat = time.monotonic() >= self._looked + self._settings.beat_s
        if beat:
            self._looked = time.monotonic()
        for place in self._places.values():
            if beat and place.link is None:
                place.reach()
            place.listen()
            if beat:
                place.verify()

    def workers(self) -> list[WorkerInfo]:
        found = [worker for place in self._places.values() for worker in place.workers()]
        return sorted(found, key=lambda worker: worker.worker_id)

    def close(self) -> None:
        for place in self._places.values():
            place.hang_up()
        self._folder.close()

    def shutdown(self, grace_s: float) -> None:
        check_grace(grace_s)
        places = self._places.values()
        for place in places:
            place.tell(do="shutdown", grace_s=grace_s)
        until = time.monotonic() + grace_s + END_SECONDS
        while (links := self._links()) and time.monotonic() < until:
            select.select(links, [], [], until - time.monotonic())
            for place in places:
                if place.link is not None and not place.link.drain():
                    place.lose()
        for place in places:
            place.wait(END_SECONDS)
        staying = sorted(p.server.id for p in places if p.link is not None or (p.lost and p.workers()))
        self.close()
        if staying:
            raise QuiltworkError("is not empty yet", where=f"server {', '.join(staying)}")

    def _links(self) -> list[Link]:
        return [place.link for place in self._places.values() if place.link is not None]
