"""A Ray cluster's nodes as servers, and an actor beside each worker.

Decisions never come from Ray: which slots are free, what is fenced and which ids were used is in our own ledger, in the
controller's folder. Actors and placement groups are detached and named, so that the next controller finds them.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quiltwork.cluster.live.backend import (
    Event,
    ServerBack,
    ServerInfo,
    ServerLost,
    WorkerExited,
    WorkerInfo,
    WorkerOrder,
    WorkerStarted,
    WorkerState,
    WorkerTrouble,
    check_grace,
    check_id,
    check_order,
)
from quiltwork.cluster.live.ledger import Exit, Ledger, Record, disk_errors, document_of
from quiltwork.cluster.live.local_server import LocalServer, read_server, write_server
from quiltwork.cluster.live.local_workers import SERVER_LOST
from quiltwork.cluster.live.process import Process
from quiltwork.cluster.live.ray_groups import PIN, PINCH, Groups
from quiltwork.cluster.live.ray_nodes import Node, nodes_of
from quiltwork.cluster.live.ray_worker import Prober, WorkerActor
from quiltwork.cluster.live.wire import is_fenced, make_gate, move_gate
from quiltwork.core.errors import CapacityError, ConflictError, NotFoundError, QuiltworkError, UnsupportedError

END_SECONDS = 30.0
"""How much longer than their grace workers may take to be gone when all is shut down."""


@dataclass(eq=False)
class _Place:
    """A server. node : None while it is lost."""

    server: LocalServer
    folder: Path
    node: Node | None
    seen: float


@dataclass(eq=False)
class _Actor:
    """A worker of which something may be left. asked : the question that waits for its news, or for the prober's
    answer; None where it is to be asked again."""

    handle: Any
    state: WorkerState = WorkerState.STARTING
    asked: Any = None
    news: int = 0
    """How many were heard."""
    prober: Any = None


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
        self._folder, self._name, self._clock, self._look_s = Path(folder).absolute(), name, clock, look_s
        check_id(name, "Ray namespace")
        self._closed = False
        with disk_errors(self._folder):
            (self._folder / "servers").mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(self._folder / "controller.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._ours = False
        try:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConflictError("another controller has this folder", where=str(self._folder)) from error
            self._ledger = Ledger(self._folder)
            self._ray = self._connected(address)
            self._me = secrets.token_hex(8)
            self._cluster = f"{self._ray.get_runtime_context().gcs_address}/{name}"
            self._worker_kind, self._prober_kind = _actor_kinds(self._ray)
            self._groups = Groups(self._ray, self._resource)
            self._found: list[Event] = []
            self._given: list[str] = []
            """Workers whose ends were given to the controller, and not dealt with yet."""
            self._actors: dict[str, _Actor] = {}
            self._places: dict[str, _Place] = {}
            self._take_over()
        except BaseException:
            self.close()
            raise

    def _connected(self, address: str) -> Any:
        try:
            import ray
        except ImportError as error:
            raise UnsupportedError(
                "Ray is not installed", where="--ray", hint="pip install 'quiltwork[ray]'"
            ) from error
        if ray.is_initialized():
            if ray.get_runtime_context().namespace != self._name:
                raise ConflictError("Ray is open in this process under another namespace", where=self._name)
            return ray
        try:
            ray.init(
                address=None if address == "local" else address, namespace=self._name, log_to_driver=False,
                configure_logging=False, include_dashboard=False if address == "local" else None,
            )  # fmt: skip
        except (ConnectionError, ValueError) as error:
            raise CapacityError(f"no Ray cluster there: {error}", where=f"--ray {address}") from error
        self._ours = True
        return ray

    def _take_over(self) -> None:
        """Find the servers, and the workers that a former controller ordered."""
        for path in (self._folder / "servers").iterdir():
            known = read_server(path)
            self._places[known.id] = _Place(known, path, None, self._clock())
        self._look_at_nodes()
        self._found.clear()
        self._found += [ServerLost(p.server.id, self._clock()) for p in self._places.values() if p.node is None]
        for id, record in self._ledger.records.items():
            if record.exit is not None:
                self._tell_exit(record)
                continue
            self._groups.find(record.order)
            try:
                handle = self._ray.get_actor(id, namespace=self._name)
            except ValueError:
                handle = None
            actor = self._actors[id] = _Actor(handle)
            if handle is not None:
                self._ask(actor)

    def servers(self) -> list[ServerInfo]:
        self._look_at_nodes()
        now = self._clock()
        return [
            ServerInfo(id, place.server.gpu_type, place.server.gpus, place.node is not None,
                       max(now - place.seen, 0.0), is_fenced(place.folder))
            for id, place in sorted(self._places.items())
        ]  # fmt: skip

    def start_worker(self, order: WorkerOrder) -> None:
        place = self._place(order.server_id)
        check_order(order, place.server.gpus)
        if self._ledger.known(order.worker_id):
            return
        where = f"server {order.server_id}"
        if is_fenced(place.folder):
            raise ConflictError("the server is fenced", where=where)
        if place.node is None:
            raise ConflictError("the server is lost", where=where, hint="order it again when it is back")
        for id in self._actors:
            other = self._ledger.records[id].order
            if other.server_id == order.server_id and (both := set(order.slots) & set(other.slots)):
                raise ConflictError(
                    f"slot {min(both)} is taken by worker {id}", where=where,
                    hint="until nothing of that worker is left",
                )  # fmt: skip
        record = Record(order, secrets.token_hex(16))
        self._ledger.put(record)
        try:
            handle = self._create(record, place.server.devices_of(order.slots))
        except (self._ray.exceptions.RayError, ValueError) as error:
            self._groups.leave(order.worker_id)
            self._ledger.withdraw(order.worker_id)
            raise CapacityError(f"Ray starts no actor: {error}", where=where) from error
        self._actors[order.worker_id] = actor = _Actor(handle)
        self._ask(actor)

    def _create(self, record: Record, devices: tuple[int, ...] | None) -> Any:
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        order = record.order
        alive = {id for id, place in self._places.items() if place.node is not None}
        group, bundle = self._groups.join(order, alive)
        strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
        return self._worker_kind.options(
            name=order.worker_id, namespace=self._name, lifetime="detached", max_restarts=0, num_cpus=0,
            resources={PIN + order.server_id: PINCH}, scheduling_strategy=strategy,
        ).remote(document_of(order), record.mark, devices, self._cluster)  # fmt: skip

    def stop_worker(self, worker_id: str, grace_s: float | None = None) -> None:
        check_grace(grace_s)
        actor = self._actors.get(worker_id)
        if actor is None or actor.handle is None:
            return
        if actor.news:
            actor.handle.stop.remote(grace_s)
        elif actor.state is not WorkerState.STOPPING:
            self._ray.kill(actor.handle)  # it may wait for ever to begin
        actor.state = WorkerState.STOPPING

    def fence(self, server_id: str) -> None:
        move_gate(self._place(server_id).folder, fenced=True)

    def unfence(self, server_id: str) -> None:
        move_gate(self._place(server_id).folder, fenced=False)

    def events(self, timeout_s: float = 0.0) -> list[Event]:
        self._ledger.deal_with(self._given)
        self._gather(timeout_s)
        found, self._found = self._found, []
        self._given = [event.worker_id for event in found if isinstance(event, WorkerExited)]
        return found

    def _gather(self, timeout_s: float) -> None:
        """Take in what happens; waits for the first that the controller is to be told."""
        until = time.monotonic() + timeout_s
        looked = 0.0
        while True:
            if time.monotonic() - looked >= self._look_s:
                looked = time.monotonic()
                self._look_at_nodes()
                self._ledger.catch_up()
                for id in list(self._actors):
                    self._see_to(id)
            self._hear(0.0)
            left = until - time.monotonic()
            if self._found or left <= 0:
                return
            self._hear(min(left, self._look_s))

    def workers(self) -> list[WorkerInfo]:
        self._hear(0.0)
        found = []
        for id, actor in sorted(self._actors.items()):
            record = self._ledger.records[id]
            order = record.order
            lost = self._places[order.server_id].node is None
            state = WorkerState.LOST if lost else actor.state
            found.append(WorkerInfo(id, order.job_id, order.server_id, order.slots, state, record.process))
        return found

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            if self._ours:
                self._ray.shutdown()
            os.close(self._lock)

    def shutdown(self, grace_s: float) -> None:
        check_grace(grace_s)
        for id in self._actors:
            self.stop_worker(id, grace_s)
        until = time.monotonic() + grace_s + END_SECONDS
        while self._actors and time.monotonic() < until:
            # What was found stays: the next controller is told.
            self._gather(0.0)
            self._hear(min(self._look_s, max(until - time.monotonic(), 0.0)))
        staying = sorted(self._actors)
        self.close()
        if staying:
            raise QuiltworkError("are still there", where=f"workers {', '.join(staying)}")

    def _place(self, server_id: str) -> _Place:
        place = self._places.get(server_id)
        if place is None:
            raise NotFoundError("there is no such server", where=f"server {server_id}")
        return place

    def _resource(self, server_id: str) -> str:
        node = self._places[server_id].node
        assert node is not None
        return node.resource

    def _look_at_nodes(self) -> None:
        """See which servers are there, lost and back."""
        now = self._clock()
        nodes = nodes_of(self._ray.nodes())
        for id, place in self._places.items():
            node = nodes.get(id)
            if place.node is not None and node != place.node:
                place.node = None
                self._found.append(ServerLost(id, now))
                for worker in [w for w in self._actors if self._ledger.records[w].order.server_id == id]:
                    self._lose(worker)
            if node is not None:
                if place.node is None:
                    place.node = node
                    self._found.append(ServerBack(id, now))
                place.seen = now
        for id in nodes.keys() - self._places.keys():
            self._declare(nodes[id], now)

    def _declare(self, node: Node, now: float) -> None:
        """Know a server for the first time."""
        folder = self._folder / "servers" / check_id(node.server, "server")
        server = LocalServer(node.server, node.gpu_type, node.gpus, tuple(range(node.gpus)) if node.real else None)
        with disk_errors(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            write_server(server, folder)
        make_gate(folder)
        self._places[node.server] = _Place(server, folder, node, now)
        self._found.append(ServerBack(node.server, now))

    def _ask(self, actor: _Actor) -> None:
        actor.asked = actor.handle.news.remote(actor.news, self._me)

    def _hear(self, timeout_s: float) -> None:
        """Take the answers that there are; waits for the first."""
        asked = {actor.asked: id for id, actor in self._actors.items() if actor.asked is not None}
        if not asked:
            time.sleep(timeout_s)
            return
        ready, _ = self._ray.wait(list(asked), num_returns=1, timeout=timeout_s)
        if ready:
            ready, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=0)
        for answer in ready:
            self._heard(asked[answer], answer)

    def _heard(self, id: str, answer: Any) -> None:
        actor = self._actors[id]
        actor.asked = None
        try:
            told = self._ray.get(answer)
        except self._ray.exceptions.ActorUnavailableError:
            return  # it is asked again at the next look
        except self._ray.exceptions.RayError:
            self._lose(id)
            return
        if actor.prober is not None:
            if told == 0:
                self._gone(id, None, None, self._why(actor), 0.0)
            return
        for one in told:
            self._take(id, actor, one)
        if id in self._actors:
            self._ask(actor)

    def _take(self, id: str, actor: _Actor, one: dict[str, Any]) -> None:
        """One piece of news."""
        actor.news += 1
        at = self._clock() - one["ago"]
        match one["kind"]:
            case "started":
                process = Process(*one["process"])
                if actor.state is WorkerState.STARTING:
                    actor.state = WorkerState.RUNNING
                self._keep(replace(self._ledger.records[id], process=process))
                self._found.append(WorkerStarted(id, process, at))
            case "trouble":
                self._found.append(WorkerTrouble(id, one["what"], at))
            case "exited":
                self._gone(id, one["code"], one["signal"], one["why"], one["ago"])

    def _lose(self, id: str) -> None:
        """A worker's actor, or the prober that looked for what was left of it, is gone."""
        actor = self._actors[id]
        for handle in (actor.handle, actor.prober):
            if handle is not None:
                self._ray.kill(handle)
        actor.handle = actor.prober = actor.asked = None
        self._see_to(id)

    def _see_to(self, id: str) -> None:
        """Go on with a worker that is not asked anything."""
        actor = self._actors[id]
        if actor.asked is not None:
            return
        if actor.handle is not None:
            self._ask(actor)
            return
        record = self._ledger.records[id]
        if self._places[record.order.server_id].node is None:
            # Nobody is there to look. Should the node come back with something of it left, that holds its slots' locks.
            self._gone(id, None, None, SERVER_LOST, 0.0)
            return
        if actor.prober is None:
            pin = {PIN + record.order.server_id: PINCH}
            actor.prober = self._prober_kind.options(num_cpus=0, resources=pin, namespace=self._name).remote()
        actor.asked = actor.prober.clear.remote(record.mark, record.process)

    def _why(self, actor: _Actor) -> str:
        stopped = actor.state is WorkerState.STOPPING and not actor.news
        return "stopped before it began" if stopped else "its actor was lost"

    def _gone(self, id: str, code: int | None, signal: int | None, why: str, ago: float) -> None:
        """Nothing of a worker is left."""
        actor = self._actors.pop(id)
        record = replace(self._ledger.records[id], exit=Exit(code, signal, why, time.monotonic() - ago))
        self._keep(record)
        # Its end is written down; what Ray has of it goes before anybody is told that its GPUs are free.
        for handle in (actor.handle, actor.prober):
            if handle is not None:
                self._ray.kill(handle)
        self._groups.leave(id)
        self._tell_exit(record)

    def _tell_exit(self, record: Record) -> None:
        exit = record.exit
        assert exit is not None
        at = self._clock() - max(time.monotonic() - exit.at, 0.0)
        self._found.append(WorkerExited(record.order.worker_id, exit.code, exit.signal, at, exit.why))

    def _keep(self, record: Record) -> None:
        if (error := self._ledger.keep(record)) is not None:
            what = f"what became of it cannot be written down yet: {error}"
            self._found.append(WorkerTrouble(record.order.worker_id, what, self._clock()))


def _actor_kinds(ray: Any) -> tuple[Any, Any]:
    """The actor classes: what a controller that was killed still waits for is in nobody's way."""
    members = {"news": ray.method(concurrency_group="news")(WorkerActor.news)}
    worker = type("WorkerActor", (WorkerActor,), {**members, "__module__": WorkerActor.__module__})
    return ray.remote(concurrency_groups={"news": 4})(worker), ray.remote(Prober)
