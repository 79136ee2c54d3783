"""A cluster on this machine, or on Ray, put together and taken apart."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from quiltwork.cluster.elastic.link import Link
from quiltwork.cluster.live.backend import Backend
from quiltwork.cluster.live.controller import Controller
from quiltwork.cluster.live.desk import Desk
from quiltwork.cluster.live.gateway_lender import GatewayLender
from quiltwork.cluster.live.lending import Lender
from quiltwork.cluster.live.link_crews import LinkCrews, Programs
from quiltwork.cluster.live.local import LocalBackend
from quiltwork.cluster.live.local_server import LocalServer, gpus_here
from quiltwork.cluster.live.orders import OrderBook
from quiltwork.cluster.live.settings import Settings
from quiltwork.cluster.live.store import Store
from quiltwork.cluster.live.store_memory import StoreMemory
from quiltwork.cluster.server import Pool, Server
from quiltwork.core.errors import CorruptionError


@dataclass(frozen=True)
class Host:
    """state : the folder of everything that is kept. servers : as they are declared. gateway : the URL of whose load
    says what inference needs. ray : the address of a Ray cluster whose nodes are the servers; those of the last GPU
    type of several are inference's."""

    state: Path
    servers: Sequence[Server]
    settings: Settings
    gateway: str | None = None
    ray: str | None = None
    requests_per_server: float = 4.0


@contextmanager
def open_host(host: Host, *, lender: Lender | None = None) -> Iterator[tuple[Controller, Desk]]:
    """A controller and its desk, with everything that they need; workers run on when it ends. lender : inference's
    side, where that is not a gateway.

    Raises what ``Store``, ``LocalBackend`` (or ``RayBackend``), ``StoreMemory`` and ``Link`` raise.
    """
    host = replace(host, state=host.state.absolute())
    host.state.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        store = Store(host.state / "cluster.db")
        stack.callback(store.close)
        memory = StoreMemory(store)
        if host.ray is None:
            # Before anything is started for it: whether it is this cluster at all.
            memory.recall(host.servers)
        backend = _backend(host)
        stack.callback(backend.close)
        servers = host.servers if host.ray is None else _nodes(backend, host.settings.gpu_types)
        link = stack.enter_context(_link(host.state))
        lendable = sum(server.pool is not Pool.TRAIN for server in servers)
        if host.gateway is not None and lendable:
            lender = stack.enter_context(
                GatewayLender(host.gateway, lendable, requests_per_server=host.requests_per_server)
            )
        known = [job.id for job in store.jobs() if job.ended is None]
        controller = Controller(
            servers,
            memory,
            backend,
            LinkCrews(link, known),
            OrderBook(host.state / "logs", Programs(host.state / "jobs", link, threads=_threads(host))),
            host.settings,
            clock=time.time,
            lender=lender,
        )
        yield controller, Desk(controller)


def _backend(host: Host) -> Backend:
    if host.ray is not None:
        from quiltwork.cluster.live.ray_backend import RayBackend

        return RayBackend(host.state / "ray", host.ray, clock=time.time)
    devices = gpus_here()
    servers = []
    dealt = 0
    for server in host.servers:
        mine = tuple(range(dealt, min(dealt + server.gpus, devices))) if devices else None
        dealt += server.gpus
        servers.append(LocalServer(server.id, server.gpu_type, server.gpus, mine))
    return LocalBackend(host.state / "local", servers, clock=time.time)


def _threads(host: Host) -> int | None:
    """Where slots are only cores: so many that all workers at once have each a share."""
    if host.ray is not None or gpus_here():
        return None
    return max(1, (os.cpu_count() or 1) // sum(server.gpus for server in host.servers))


def _nodes(backend: Backend, gpu_types: Sequence[str]) -> list[Server]:
    lent = gpu_types[-1] if len(gpu_types) > 1 else None
    return [
        Server(node.id, node.gpu_type, node.gpus, Pool.INFER if node.gpu_type == lent else Pool.TRAIN)
        for node in backend.servers()
    ]


def _link(state: Path) -> Link:
    """The link where the one before was, so that workers which outlived that come back."""
    path = state / "link.json"
    try:
        kept = json.loads(path.read_text())
        return Link(port=int(kept["port"]), token=str(kept["token"]), clock=time.monotonic)
    except FileNotFoundError:
        link = Link(token=secrets.token_urlsafe(24), clock=time.monotonic)
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptionError("does not say where workers report to", where=str(path)) from error
    written = path.with_suffix(".new")
    written.touch(mode=0o600)
    written.write_text(json.dumps({"port": int(link.address.rpartition(":")[2]), "token": link.token}))
    written.replace(path)
    return link
