"""What a controller may ask of machines, whatever these are: six calls, and the plain records that go with them.

A backend starts and stops processes on servers and says what there is. It decides nothing, and of what its caller
believes it believes nothing: a GPU slot is free when no process of the worker that had it is left, not before.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from quiltwork.cluster.live.process import Process
from quiltwork.core.errors import BadInputError
from quiltwork.core.names import check_name

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
LEAST_LOG_BYTES = 4096


@dataclass(frozen=True)
class Gang:
    """Workers that are given their GPUs together: a job's base workers, or one batch of flexible ones."""

    id: str
    servers: tuple[str, ...]
    """Where each is to run."""
    index: int
    """Which of them this worker is."""


@dataclass(frozen=True)
class WorkerOrder:
    """One worker to be started: a program on some GPU slots of a server.

    worker_id : never used again for another; it is what makes an order that is sent twice start one worker.
    slots : numbers of the server's GPUs, from 0. log : file that takes standard output and error; ``log_bytes`` is the
    most that it may take. workdir : None is the server's own. Paths are whole ones of the server's machine.
    grace_s : from SIGTERM to SIGKILL, where whoever stops it says nothing else. gang : None is a gang of its own.
    """

    worker_id: str
    job_id: str
    server_id: str
    slots: tuple[int, ...]
    argv: tuple[str, ...]
    log: str
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str | None = None
    grace_s: float = 30.0
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    master_addr: str = "127.0.0.1"
    master_port: int = 29500
    log_bytes: int = 1 << 26
    gang: Gang | None = None


@dataclass(frozen=True)
class ServerInfo:
    """A server as it is now. silent_s : since it was last heard of. fenced : nothing may start there."""

    id: str
    gpu_type: str
    gpus: int
    alive: bool
    silent_s: float
    fenced: bool = False


class WorkerState(StrEnum):
    """``lost`` : its server is, but processes of it are there, or nobody can tell that they are not."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    LOST = "lost"


@dataclass(frozen=True)
class WorkerInfo:
    """A worker of which something is left, so that its slots are taken. process : its program; None before there is
    one."""

    worker_id: str
    job_id: str
    server_id: str
    slots: tuple[int, ...]
    state: WorkerState
    process: Process | None = None


@dataclass(frozen=True)
class WorkerStarted:
    worker_id: str
    process: Process
    time: float


@dataclass(frozen=True)
class WorkerExited:
    """Nothing of the worker is left.

    code : of its program, which 127 and 126 say could not be started; signal : what ended it instead; both None where
    nobody can say, as when its server was lost. why : in words, where there are any.
    """

    worker_id: str
    code: int | None
    signal: int | None
    time: float
    why: str = ""


@dataclass(frozen=True)
class WorkerTrouble:
    """What somebody should know of a worker that runs on: its log cannot be written, it survives SIGKILL, ..."""

    worker_id: str
    what: str
    time: float


@dataclass(frozen=True)
class ServerLost:
    """Nothing is heard of the server. Its workers' ends follow, each when it is certain."""

    server_id: str
    time: float


@dataclass(frozen=True)
class ServerBack:
    server_id: str
    time: float


Event = WorkerStarted | WorkerExited | WorkerTrouble | ServerLost | ServerBack


class Backend(Protocol):
    """Machines that run workers. For one thread.

    Workers live on when the controller does not: a backend made anew with the same folder (and cluster) finds them,
    the fences, and the events that the former did not deal with. Times are in the clock that is handed in.
    """

    def servers(self) -> list[ServerInfo]:
        """All that there are, lost ones too, by name."""
        ...

    def start_worker(self, order: WorkerOrder) -> None:
        """Have a worker started; ``events`` tells how that went. An id that was ordered before starts nothing.

        Raises BadInputError for an order that makes no sense, NotFoundError for a server that there is not,
        ConflictError where one of its slots is not verified to be free, or its server is fenced or lost, CapacityError
        where the order cannot be written down. Then nothing was started.
        """
        ...

    def stop_worker(self, worker_id: str, grace_s: float | None = None) -> None:
        """SIGTERM to its process group, SIGKILL to all that is left ``grace_s`` later (the order's where None). Returns
        at once. Asked again, the sooner end counts; who is unknown is gone already."""
        ...

    def fence(self, server_id: str) -> None:
        """Have nothing start there from now on; what runs there runs on, and is listed until it is gone. Raises
        NotFoundError."""
        ...

    def unfence(self, server_id: str) -> None:
        """Raises NotFoundError."""
        ...

    def events(self, timeout_s: float = 0.0) -> list[Event]:
        """What has happened since the last call, oldest first; waits up to ``timeout_s`` for the first.

        What a call gave counts as dealt with when the next is made: a controller that was killed in between is told
        again. So an event may come twice, and means nothing the second time.
        """
        ...

    def workers(self) -> list[WorkerInfo]:
        """All of which something is left now, as the machines see it, by name."""
        ...

    def close(self) -> None:
        """Let go of the machines; workers run on."""
        ...

    def shutdown(self, grace_s: float) -> None:
        """Stop all workers, wait until they are gone, and close. Raises QuiltworkError naming those that stay."""
        ...


def check_id(id: str, where: str) -> str:
    """``id`` if it is a name without slashes. Raises BadInputError."""
    check_name(id, where=where)
    if "/" in id:
        raise BadInputError(f"{id!r} is not the name of a server", where=where, hint="no '/' in it")
    return id


def check_order(order: WorkerOrder, gpus: int) -> None:
    """Raises BadInputError naming the field, for an order that a server with ``gpus`` GPUs can never carry out."""
    check_name(order.worker_id, where="worker_id")
    where = f"worker {order.worker_id}"
    check_name(order.job_id, where=f"{where}: job_id")
    if not order.slots or len(set(order.slots)) < len(order.slots):
        raise BadInputError("slots must be named, each once", where=f"{where}: slots")
    for slot in order.slots:
        if isinstance(slot, bool) or not isinstance(slot, int) or not 0 <= slot < gpus:
            raise BadInputError(f"server {order.server_id} has no slot {slot}", where=f"{where}: slots",
                                hint=f"it has 0 to {gpus - 1}")  # fmt: skip
    if not order.argv or not order.argv[0]:
        raise BadInputError("there is no program", where=f"{where}: argv")
    for text in (*order.argv, *order.env.values(), order.workdir or "", order.log, order.master_addr):
        if not isinstance(text, str) or "\0" in text:
            raise BadInputError("must be text without NUL", where=f"{where}: argv, env, workdir, log or master_addr")
    for name, path in (("log", order.log), ("workdir", order.workdir)):
        if path is not None and not os.path.isabs(path):
            raise BadInputError(f"{path[:80]!r} is not a whole path", where=f"{where}: {name}")
    for name in order.env:
        if _VARIABLE.fullmatch(name) is None:
            raise BadInputError(f"{name[:40]!r} is not the name of a variable", where=f"{where}: env")
    if not 0 <= order.grace_s < math.inf:
        raise BadInputError(f"{order.grace_s} is not a number of seconds", where=f"{where}: grace_s")
    if not 0 <= order.rank < order.world_size or not 0 <= order.local_rank < order.world_size:
        raise BadInputError(
            f"rank {order.rank} (local {order.local_rank}) of {order.world_size} workers", where=f"{where}: rank"
        )
    if not 0 < order.master_port < 1 << 16:
        raise BadInputError(f"{order.master_port} is not a port", where=f"{where}: master_port")
    if order.log_bytes < LEAST_LOG_BYTES:
        raise BadInputError(f"a log takes at least {LEAST_LOG_BYTES} bytes", where=f"{where}: log_bytes")
    if (gang := order.gang) is not None:
        check_name(gang.id, where=f"{where}: gang")
        if not 0 <= gang.index < len(gang.servers) or gang.servers[gang.index] != order.server_id:
            raise BadInputError("the gang has this worker elsewhere", where=f"{where}: gang")


def check_grace(grace_s: float | None) -> None:
    """Raises BadInputError for what is not a number of seconds."""
    if grace_s is not None and not 0 <= grace_s < math.inf:
        raise BadInputError(f"{grace_s} is not a number of seconds", where="grace_s")


def environment(order: WorkerOrder, devices: tuple[int, ...] | None) -> dict[str, str]:
    """What a worker finds among its variables beside its server's own: the order's, and over them who it is.

    devices : numbers of the GPUs behind its slots; None where the server has none that could be hidden from it.
    """
    ours = {
        "RANK": str(order.rank),
        "WORLD_SIZE": str(order.world_size),
        "LOCAL_RANK": str(order.local_rank),
        "MASTER_ADDR": order.master_addr,
        "MASTER_PORT": str(order.master_port),
        "QUILTWORK_JOB": order.job_id,
        "QUILTWORK_WORKER": order.worker_id,
        "QUILTWORK_SLOTS": ",".join(map(str, order.slots)),
    }
    if devices is not None:
        ours["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, devices))
    return {**order.env, **ours}
