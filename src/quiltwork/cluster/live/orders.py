"""What a worker is started with."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from quiltwork.cluster.live.backend import Gang, WorkerOrder
from quiltwork.cluster.live.entries import Entry
from quiltwork.cluster.live.reconcile import Start

Program = Callable[[Entry, str], tuple[tuple[str, ...], dict[str, str]]]
"""An elastic job and the name of a worker -> what is run, and its variables."""


def free_port() -> int:
    """A port that nobody has just now."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port


class OrderBook:
    """Makes orders. logs : the folder of workers' output, one folder for each job."""

    def __init__(self, logs: Path, program: Program, *, port: Callable[[], int] = free_port) -> None:
        self._logs, self._program, self._port = logs, program, port

    def log_of(self, job: str, worker: str) -> Path:
        """Where a worker's output goes."""
        return self._logs / job / f"{worker}.log"

    def logs(self, job: str) -> dict[str, Path]:
        """All output of a job's workers that there is, by worker."""
        return {path.stem: path for path in sorted((self._logs / job).glob("*.log"))}

    def orders(self, entry: Entry, gang: Sequence[Start], *, flexible: bool) -> list[WorkerOrder]:
        """Orders for workers that start together; ``entry`` counts them. Ranks are theirs among each other: those of an
        elastic job are told by its crew, and change."""
        first = entry.ordered
        entry.ordered += len(gang)
        servers = tuple(start.server for start in gang)
        name = f"{entry.id}.{'flex' if flexible else 'base'}{entry.runs}.{first}"
        port = self._port()
        on_server: Counter[str] = Counter()
        orders = []
        for rank, start in enumerate(gang):
            worker = f"{entry.id}.{first + rank}"
            if entry.elastic:
                argv, env = self._program(entry, worker)
            else:
                argv, env = entry.spec.command, {}
            log = self.log_of(entry.id, worker)
            log.parent.mkdir(parents=True, exist_ok=True)
            orders.append(
                WorkerOrder(
                    worker,
                    entry.id,
                    start.server,
                    start.slots,
                    argv,
                    str(log),
                    env={**entry.spec.env, **env},
                    workdir=entry.spec.workdir,
                    grace_s=entry.spec.grace_s,
                    rank=rank,
                    world_size=len(gang),
                    local_rank=on_server[start.server],
                    master_port=port,
                    gang=Gang(name, servers, rank),
                )
            )
            on_server[start.server] += 1
        return orders
