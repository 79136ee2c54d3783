"""Servers of a Ray cluster: nodes that carry a resource ``srv_NAME`` and one that is their GPU type, as in
``ray start --resources '{"srv_a": 1, "V100": 8}'``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from quiltwork.cluster.live.ray_groups import PIN

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
