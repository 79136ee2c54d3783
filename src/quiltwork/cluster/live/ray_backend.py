"""A Ray cluster's nodes as servers, and an actor beside each worker.

Decisions never come from Ray: which slots are free, what is fenced and which ids were used is in our own ledger, in the
controller's folder. Actors and placement groups are detached and named, so that the next controller finds them.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from quiltwork.cluster.live.backend import (
    Event,
    ServerInfo,
    ServerLost,
    WorkerExited,
    WorkerInfo,
    WorkerOrder,
    check_grace,
    check_id,
    check_order,
)
from quiltwork.cluster.live.controller_folder import ControllerFolder
from quiltwork.cluster.live.ledger import Ledger, Record
from quiltwork.cluster.live.ray_nodes import RayServers
from quiltwork.cluster.live.ray_workers import RayWorkers
from quiltwork.cluster.live.wire import is_fenced, move_gate
from quiltwork.core.errors import CapacityError, ConflictError, QuiltworkError, UnsupportedError

END_SECONDS = 30.0
"""How much longer than their grace workers may take to be gone when all is shut down."""


class RayBackend:
    """See ``Backend``.

    folder : of this controller: its ledger and fences. address : of the cluster (``auto`` finds the one of this
    machine, ``local`` starts one that ends with this process). name : Ray namespace of actors and groups.
    clock : seconds. look_s : how often nodes are looked at.

    Raises UnsupportedError where Ray is not installed, CapacityError where there is no cluster, ConflictError where
    another controller has the folder or this process has Ray open under another namespace.
    """

    def __init__(
        self,
        folder: str | Path,
        address: str = "auto",
        *,
        clock: Callable[[], float],
        name: str = "quiltwork",
        look_s: float = 1.0,
    ) -> None:
        self._look_s = look_s
        self._ours = False
        self._found: list[Event] = []
        self._given: list[str] = []
        """Workers whose ends were given to the controller, and not dealt with yet."""
        check_id(name, "Ray namespace")
        self._folder = ControllerFolder(Path(folder))
        try:
            self._ledger = Ledger(self._folder.path)
            self._ray = self._connected(address, name)
            self._servers = RayServers(self._folder, self._ray.nodes, clock)
            self._servers.look()
            lost = sorted(self._servers.places.keys() - self._servers.alive())
            self._found += [ServerLost(id, clock()) for id in lost]
            self._workers = RayWorkers(self._ray, name, self._servers, self._ledger, clock, self._found_out)
        except BaseException:
            self.close()
            raise

    def _connected(self, address: str, name: str) -> Any:
        try:
            import ray
        except ImportError as error:
            raise UnsupportedError(
                "Ray is not installed", where="--ray", hint="pip install 'quiltwork[ray]'"
            ) from error
        if ray.is_initialized():
            if ray.get_runtime_context().namespace != name:
                raise ConflictError("Ray is open in this process under another namespace", where=name)
            return ray
        try:
            ray.init(
                address=None if address == "local" else address, namespace=name, log_to_driver=False,
                configure_logging=False, include_dashboard=False if address == "local" else None,
            )  # fmt: skip
        except (ConnectionError, ValueError) as error:
            raise CapacityError(f"no Ray cluster there: {error}", where=f"--ray {address}") from error
        self._ours = True
        return ray

    def _found_out(self, event: Event) -> None:
        self._found.append(event)

    def servers(self) -> list[ServerInfo]:
        self._look()
        return self._servers.infos()

    def start_worker(self, order: WorkerOrder) -> None:
        place = self._servers.place(order.server_id)
        check_order(order, place.server.gpus)
        if self._ledger.known(order.worker_id):
            return
        where = f"server {order.server_id}"
        if is_fenced(place.folder):
            raise ConflictError("the server is fenced", where=where)
        if place.node is None:
            raise ConflictError("the server is lost", where=where, hint="an order may be sent again when it is back")
        for id, other in self._workers.orders().items():
            if other.server_id == order.server_id and (both := set(order.slots) & set(other.slots)):
                raise ConflictError(
                    f"slot {min(both)} is taken by worker {id}", where=where,
                    hint="until nothing of that worker is left",
                )  # fmt: skip
        record = Record(order, secrets.token_hex(16))
        self._ledger.put(record)
        try:
            self._workers.start(record, place.server.devices_of(order.slots))
        except (self._ray.exceptions.RayError, ValueError) as error:
            self._ledger.withdraw(order.worker_id)
            raise CapacityError(f"Ray starts no actor: {error}", where=where) from error

    def stop_worker(self, worker_id: str, grace_s: float | None = None) -> None:
        check_grace(grace_s)
        self._workers.stop(worker_id, grace_s)

    def fence(self, server_id: str) -> None:
        move_gate(self._servers.place(server_id).folder, fenced=True)

    def unfence(self, server_id: str) -> None:
        move_gate(self._servers.place(server_id).folder, fenced=False)

    def events(self, timeout_s: float = 0.0) -> list[Event]:
        self._ledger.deal_with(self._given)
        self._gather(timeout_s)
        found = self._found.copy()
        self._found.clear()
        self._given = [event.worker_id for event in found if isinstance(event, WorkerExited)]
        return found

    def _gather(self, timeout_s: float) -> None:
        """Take in what happens; waits for the first that the controller is to be told."""
        until = time.monotonic() + timeout_s
        looked = -self._look_s
        while True:
            if time.monotonic() - looked >= self._look_s:
                looked = time.monotonic()
                self._look()
                self._ledger.catch_up()
                for id in list(self._workers.here):
                    self._workers.see_to(id)
            self._workers.hear(0.0)
            left = until - time.monotonic()
            if self._found or left <= 0:
                return
            self._workers.hear(min(left, self._look_s))

    def _look(self) -> None:
        """See which servers are there, lost and back."""
        for event in self._servers.look():
            self._found.append(event)
            if isinstance(event, ServerLost):
                for id, order in self._workers.orders().items():
                    if order.server_id == event.server_id:
                        self._workers.lose(id)

    def workers(self) -> list[WorkerInfo]:
        self._workers.hear(0.0)
        return self._workers.infos()

    def close(self) -> None:
        if self._ours:
            self._ours = False
            self._ray.shutdown()
        self._folder.close()

    def shutdown(self, grace_s: float) -> None:
        check_grace(grace_s)
        for id in list(self._workers.here):
            self._workers.stop(id, grace_s)
        until = time.monotonic() + grace_s + END_SECONDS
        while self._workers.here and time.monotonic() < until:
            # What was found stays: the next controller is told.
            self._gather(0.0)
            self._workers.hear(min(self._look_s, max(until - time.monotonic(), 0.0)))
        staying = sorted(self._workers.here)
        self.close()
        if staying:
            raise QuiltworkError("are still there", where=f"workers {', '.join(staying)}")
