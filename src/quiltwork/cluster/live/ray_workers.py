"""The workers of a Ray cluster: each has an actor, and is gone when that, or one that looked after it, has said so."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from quiltwork.cluster.live.backend import (
    Event,
    WorkerExited,
    WorkerInfo,
    WorkerOrder,
    WorkerStarted,
    WorkerState,
    WorkerTrouble,
)
from quiltwork.cluster.live.ledger import Exit, Ledger, Record, document_of
from quiltwork.cluster.live.local_workers import SERVER_LOST
from quiltwork.cluster.live.process import Process
from quiltwork.cluster.live.ray_groups import PIN, PINCH, Groups
from quiltwork.cluster.live.ray_nodes import RayServers
from quiltwork.cluster.live.ray_worker import Prober, WorkerActor


@dataclass(eq=False)
class _Worker:
    """One of which something may be left. handle : of its actor; None where that is gone. prober : of the one that sees
    to what is left then. asked : the question that one of them is to answer; None where it is to be asked again."""

    handle: Any
    state: WorkerState = WorkerState.STARTING
    prober: Any = None
    asked: Any = None
    news: int = 0
    """How many pieces were heard."""


class RayWorkers:
    """ray : the module. name : Ray namespace. tell : is handed what happens.

    It begins with those that a former controller ordered: Ray finds their actors by name.
    """

    def __init__(
        self,
        ray: Any,
        name: str,
        servers: RayServers,
        ledger: Ledger,
        clock: Callable[[], float],
        tell: Callable[[Event], None],
    ) -> None:
        self._ray, self._name, self._servers, self._ledger = ray, name, servers, ledger
        self._clock, self._tell = clock, tell
        self._me = secrets.token_hex(8)
        self._cluster = f"{ray.get_runtime_context().gcs_address}/{name}"
        self._groups = Groups(ray, servers.resource)
        self._worker_kind, self._prober_kind = _actor_kinds(ray)
        self.here: dict[str, _Worker] = {}
        for id, record in ledger.records.items():
            if record.exit is None:
                self._groups.find(record.order)
                self.here[id] = self._found(id)
            else:
                self._tell_exit(record)

    def _found(self, id: str) -> _Worker:
        try:
            worker = _Worker(self._ray.get_actor(id, namespace=self._name))
        except ValueError:
            return _Worker(None)
        self._ask(worker)
        return worker

    def start(self, record: Record, devices: tuple[int, ...] | None) -> None:
        """Start an actor for a worker. Raises Ray's errors and ValueError where that cannot be; then there is none."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        order = record.order
        try:
            group, bundle = self._groups.join(order, self._servers.alive())
            strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)
            handle = self._worker_kind.options(
                name=order.worker_id, namespace=self._name, lifetime="detached", max_restarts=0, num_cpus=0,
                resources={PIN + order.server_id: PINCH}, scheduling_strategy=strategy,
            ).remote(document_of(order), record.mark, devices, self._cluster)  # fmt: skip
        except (self._ray.exceptions.RayError, ValueError):
            self._groups.leave(order.worker_id)
            raise
        self.here[order.worker_id] = worker = _Worker(handle)
        self._ask(worker)

    def stop(self, id: str, grace_s: float | None) -> None:
        """See ``Backend.stop_worker``; one whose actor is gone is being killed already."""
        worker = self.here.get(id)
        if worker is None or worker.handle is None:
            return
        if worker.news:
            worker.handle.stop.remote(grace_s)
        elif worker.state is not WorkerState.STOPPING:
            self._ray.kill(worker.handle)  # it may wait for ever to begin
        worker.state = WorkerState.STOPPING

    def orders(self) -> dict[str, WorkerOrder]:
        """Of all of which something may be left."""
        return {id: self._ledger.records[id].order for id in self.here}

    def infos(self) -> list[WorkerInfo]:
        """As a backend tells them."""
        found = []
        for id, worker in sorted(self.here.items()):
            record = self._ledger.records[id]
            order = record.order
            lost = self._servers.place(order.server_id).node is None
            state = WorkerState.LOST if lost else worker.state
            found.append(WorkerInfo(id, order.job_id, order.server_id, order.slots, state, record.process))
        return found

    def hear(self, timeout_s: float) -> None:
        """Take the answers that there are; waits for the first."""
        asked = {worker.asked: id for id, worker in self.here.items() if worker.asked is not None}
        if not asked:
            time.sleep(timeout_s)
            return
        ready, _ = self._ray.wait(list(asked), num_returns=1, timeout=timeout_s)
        if ready:
            ready, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=0)
        for answer in ready:
            self._heard(asked[answer], answer)

    def see_to(self, id: str) -> None:
        """Go on with a worker that nothing is asked about."""
        worker = self.here[id]
        if worker.asked is not None:
            return
        if worker.handle is not None:
            self._ask(worker)
            return
        record = self._ledger.records[id]
        if self._servers.place(record.order.server_id).node is None:
            # Nobody is there to look. Should the node come back with something of it left, that holds its slots' locks.
            self._gone(id, None, None, SERVER_LOST, 0.0)
            return
        if worker.prober is None:
            pin = {PIN + record.order.server_id: PINCH}
            worker.prober = self._prober_kind.options(num_cpus=0, resources=pin, namespace=self._name).remote()
        worker.asked = worker.prober.clear.remote(record.mark, record.process)

    def lose(self, id: str) -> None:
        """A worker's actor, or the prober that saw to what was left of it, is gone."""
        worker = self.here[id]
        self._let_go(worker)
        self.see_to(id)

    def _let_go(self, worker: _Worker) -> None:
        for handle in (worker.handle, worker.prober):
            if handle is not None:
                self._ray.kill(handle)
        worker.handle = worker.prober = worker.asked = None

    def _ask(self, worker: _Worker) -> None:
        worker.asked = worker.handle.news.remote(worker.news, self._me)

    def _heard(self, id: str, answer: Any) -> None:
        worker = self.here[id]
        worker.asked = None
        try:
            told = self._ray.get(answer)
        except self._ray.exceptions.ActorUnavailableError:
            return  # it is asked again at the next look
        except self._ray.exceptions.RayError:
            self.lose(id)
            return
        if worker.prober is not None:
            if told == 0:
                stopped = worker.state is WorkerState.STOPPING and not worker.news
                why = "stopped before it began" if stopped else "its actor was lost"
                self._gone(id, None, None, why, 0.0)
            return
        for one in told:
            self._take(id, worker, one)
        if id in self.here:
            self._ask(worker)

    def _take(self, id: str, worker: _Worker, one: dict[str, Any]) -> None:
        """One piece of news."""
        worker.news += 1
        at = self._clock() - one["ago"]
        match one["kind"]:
            case "started":
                process = Process(*one["process"])
                if worker.state is WorkerState.STARTING:
                    worker.state = WorkerState.RUNNING
                self._keep(replace(self._ledger.records[id], process=process))
                self._tell(WorkerStarted(id, process, at))
            case "trouble":
                self._tell(WorkerTrouble(id, one["what"], at))
            case "exited":
                self._gone(id, one["code"], one["signal"], one["why"], one["ago"])

    def _gone(self, id: str, code: int | None, signal: int | None, why: str, ago: float) -> None:
        """Nothing of a worker is left."""
        worker = self.here.pop(id)
        record = replace(self._ledger.records[id], exit=Exit(code, signal, why, time.monotonic() - ago))
        self._keep(record)
        # Its end is written down; what Ray has of it goes before anybody is told that its GPUs are free.
        self._let_go(worker)
        self._groups.leave(id)
        self._tell_exit(record)

    def _tell_exit(self, record: Record) -> None:
        exit = record.exit
        assert exit is not None
        at = self._clock() - max(time.monotonic() - exit.at, 0.0)
        self._tell(WorkerExited(record.order.worker_id, exit.code, exit.signal, at, exit.why))

    def _keep(self, record: Record) -> None:
        if (error := self._ledger.keep(record)) is not None:
            what = f"what became of it cannot be written down yet: {error}"
            self._tell(WorkerTrouble(record.order.worker_id, what, self._clock()))


def _actor_kinds(ray: Any) -> tuple[Any, Any]:
    """The actor classes: what a controller that was killed still waits for is in nobody's way."""
    members = {"news": ray.method(concurrency_group="news")(WorkerActor.news)}
    worker = type("WorkerActor", (WorkerActor,), {**members, "__module__": WorkerActor.__module__})
    return ray.remote(concurrency_groups={"news": 4})(worker), ray.remote(Prober)
