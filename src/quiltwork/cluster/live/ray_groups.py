"""Placement groups of a Ray cluster: one for each gang, with a bundle for each of its workers.

A group cannot be resized, and is removed when the last of its workers is gone; until then the bundles of those that
went before hold GPUs that nobody uses. Which slots are free is ours to say, not Ray's. So a new group asks for only as
many GPUs of a server as its workers will use beyond what is held there already: else they would wait for GPUs that are
free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from quiltwork.cluster.live.backend import Gang, WorkerOrder

PIN = "srv_"
"""A node of the server ``a`` has a little of the resource ``srv_a``."""
PINCH = 0.001
"""How much of it a worker takes."""


class _Bundle(NamedTuple):
    """uses : GPUs of its worker. holds : GPUs that Ray keeps for it."""

    server: str
    uses: int
    holds: int


@dataclass(eq=False)
class _Group:
    handle: Any
    bundles: tuple[_Bundle, ...]
    workers: dict[str, int] = field(default_factory=dict)
    """Bundle of each worker that is there."""


def _gang_of(order: WorkerOrder) -> Gang:
    """A worker that is in no gang is one by itself."""
    return order.gang or Gang(order.worker_id, (order.server_id,), 0)


def _alone(order: WorkerOrder) -> Gang:
    # A name that no gang has: workers' ids may be gangs' too.
    return Gang(f"{order.worker_id}!", (order.server_id,), 0)


class Groups:
    """ray : the module. resource : name of the resource that a server's GPUs are."""

    def __init__(self, ray: Any, resource: Callable[[str], str]) -> None:
        self._ray, self._resource = ray, resource
        self._groups: dict[str, _Group] = {}

    def join(self, order: WorkerOrder, alive: Collection[str]) -> tuple[Any, int]:
        """The group of a worker, made where there is none, and its bundle in it. A gang of which a server is lost
        would never get its group; its workers have one each."""
        gang = _gang_of(order)
        group = self._groups.get(gang.id)
        if group is None or gang.index in group.workers.values():
            if group is not None or not set(gang.servers) <= set(alive):
                gang = _alone(order)
            group = self._groups[gang.id] = self._made(gang, len(order.slots))
        group.workers[order.worker_id] = gang.index
        return group.handle, gang.index

    def _made(self, gang: Gang, gpus: int) -> _Group:
        bundles, asked = [], []
        used, held = self._gpus()
        for server in gang.servers:
            used[server] += gpus
            more = max(used[server] - held[server], 0)
            held[server] += more
            bundles.append(_Bundle(server, gpus, more))
            asked.append({PIN + server: PINCH, **({self._resource(server): float(more)} if more else {})})
        handle = self._ray.util.placement_group(asked, "PACK", name=gang.id, lifetime="detached")
        return _Group(handle, tuple(bundles))

    def _gpus(self) -> tuple[Counter[str], Counter[str]]:
        """GPUs of each server that workers use, and that groups hold."""
        used: Counter[str] = Counter()
        held: Counter[str] = Counter()
        for group in self._groups.values():
            for i, bundle in enumerate(group.bundles):
                held[bundle.server] += bundle.holds
                used[bundle.server] += bundle.uses if i in group.workers.values() else 0
        return used, held

    def find(self, order: WorkerOrder) -> None:
        """Know the group of a worker that a former controller started."""
        for gang in (_gang_of(order), _alone(order)):
            group = self._groups.get(gang.id) or self._found(gang, len(order.slots))
            if group is not None and gang.index not in group.workers.values():
                self._groups[gang.id] = group
                group.workers[order.worker_id] = gang.index
                return

    def _found(self, gang: Gang, gpus: int) -> _Group | None:
        try:
            handle = self._ray.util.get_placement_group(gang.id)
        except ValueError:
            return None
        held = [int(sum(amount for name, amount in asked.items() if not name.startswith(PIN)))
                for asked in handle.bundle_specs]  # fmt: skip
        return _Group(handle, tuple(map(_Bundle, gang.servers, [gpus] * len(held), held)))

    def leave(self, worker_id: str) -> None:
        """A worker is gone; with the last of a group that is removed."""
        for id, group in list(self._groups.items()):
            if group.workers.pop(worker_id, None) is not None and not group.workers:
                self._ray.util.remove_placement_group(group.handle)
                del self._groups[id]
