"""Servers of a Ray cluster: nodes that carry a resource ``srv_NAME`` and one that is their GPU type, as in
``ray start --resources '{"srv_a": 1, "V100": 8}'``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quiltwork.cluster.live.backend import ServerBack, ServerInfo, ServerLost
from quiltwork.cluster.live.controller_folder import ControllerFolder
from quiltwork.cluster.live.local_server import LocalServer, read_server
from quiltwork.cluster.live.ray_groups import PIN
from quiltwork.cluster.live.wire import is_fenced
from quiltwork.core.errors import NotFoundError

_RAYS_OWN = ("CPU", "GPU", "memory", "object_store_memory")
_ACCELERATOR = "accelerator_type:"


@dataclass(frozen=True)
class Node:
    """resource : what its GPUs are to Ray. real : whether Ray knows them as GPUs."""

    id: str
    server: str
    gpu_type: str
    gpus: int
    resource: str
    real: bool


def nodes_of(told: Iterable[Mapping[str, Any]]) -> dict[str, Node]:
    """The servers among ``ray.nodes()`` that are alive, by name. A node that says two names or no GPU type is none."""
    found: dict[str, Node] = {}
    for node in sorted(told, key=lambda node: str(node["NodeID"])):
        resources = node["Resources"]
        names = [name.removeprefix(PIN) for name in resources if name.startswith(PIN)]
        if not node["Alive"] or len(names) != 1 or names[0] in found:
            continue
        if (made := _node(str(node["NodeID"]), names[0], resources)) is not None:
            found[names[0]] = made
    return found


def _node(id: str, server: str, resources: Mapping[str, float]) -> Node | None:
    real = resources.get("GPU", 0) >= 1
    types = [name for name in resources if name not in _RAYS_OWN and not name.startswith((PIN, "node:", _ACCELERATOR))]
    if len(types) == 1 and resources[types[0]] >= 1:
        return Node(id, server, types[0], int(resources[types[0]]), types[0], real)
    accelerators = [name.removeprefix(_ACCELERATOR) for name in resources if name.startswith(_ACCELERATOR)]
    if not types and real and len(accelerators) == 1:
        return Node(id, server, accelerators[0], int(resources["GPU"]), "GPU", real)
    return None


@dataclass(eq=False)
class Place:
    """A server. node : None while it is lost. seen : when it was last there."""

    server: LocalServer
    folder: Path
    node: Node | None
    seen: float


class RayServers:
    """The servers of a cluster, those that a former controller knew too.

    nodes : what Ray says of its nodes. clock : seconds.
    """

    def __init__(
        self, folder: ControllerFolder, nodes: Callable[[], Iterable[Mapping[str, Any]]], clock: Callable[[], float]
    ) -> None:
        self._folder, self._nodes, self._clock = folder, nodes, clock
        self.places: dict[str, Place] = {}
        for path in folder.servers():
            server = read_server(path)
            self.places[server.id] = Place(server, path, None, clock())

    def look(self) -> list[ServerLost | ServerBack]:
        """What has changed since the last look. A server whose node is another than before was lost meanwhile."""
        now = self._clock()
        nodes = nodes_of(self._nodes())
        found: list[ServerLost | ServerBack] = []
        for id, place in self.places.items():
            node = nodes.get(id)
            if place.node is not None and node != place.node:
                place.node = None
                found.append(ServerLost(id, now))
            if node is not None:
                if place.node is None:
                    place.node = node
                    found.append(ServerBack(id, now))
                place.seen = now
        for id in sorted(nodes.keys() - self.places.keys()):
            node = nodes[id]
            devices = tuple(range(node.gpus)) if node.real else None
            server = LocalServer(id, node.gpu_type, node.gpus, devices)
            self.places[id] = Place(server, self._folder.add(server), node, now)
            found.append(ServerBack(id, now))
        return found

    def place(self, id: str) -> Place:
        """Raises NotFoundError."""
        if id not in self.places:
            raise NotFoundError("there is no such server", where=f"server {id}")
        return self.places[id]

    def alive(self) -> set[str]:
        """Those that are there."""
        return {id for id, place in self.places.items() if place.node is not None}

    def resource(self, id: str) -> str:
        """What the GPUs of one that is there are to Ray."""
        node = self.place(id).node
        assert node is not None
        return node.resource

    def infos(self) -> list[ServerInfo]:
        """As a backend tells them."""
        now = self._clock()
        return [
            ServerInfo(
                id, place.server.gpu_type, place.server.gpus, alive=place.node is not None,
                silent_s=max(now - place.seen, 0.0), fenced=is_fenced(place.folder),
            )
            for id, place in sorted(self.places.items())
        ]  # fmt: skip
