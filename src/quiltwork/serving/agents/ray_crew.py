"""The same agents as Ray actors: on several machines, or wherever Ray puts them."""

from __future__ import annotations

import contextlib
import pickle
import queue
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quiltwork.core.errors import CapacityError, QuiltworkError, UnsupportedError
from quiltwork.serving.agents.message import FRONT, Message, from_bytes, to_bytes
from quiltwork.serving.agents.process import AgentTask, run_agent
from quiltwork.serving.agents.settings import AgentSettings
from quiltwork.serving.config import EngineConfig

START_SECONDS = 60.0
"""How long Ray may take to start an actor."""


class _Inbox:
    """Letters of one actor, and handles to the others."""

    def __init__(self) -> None:
        self.letters: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self.peers: dict[str, Any] = {}

    def send(self, to: str, message: Message) -> None:
        """Send without waiting; to an actor that is gone it is lost."""
        peer = self.peers.get(to)
        if peer is not None:
            peer.put.remote(to_bytes(message))

    def receive(self, timeout: float) -> list[Message]:
        """What has arrived; waits for the first."""
        found: list[bytes] = []
        with contextlib.suppress(queue.Empty):
            found.append(self.letters.get(timeout=timeout) if timeout > 0 else self.letters.get_nowait())
            while True:
                found.append(self.letters.get_nowait())
        return [from_bytes(data) for data in found if data]

    def wake(self) -> None:
        """Let ``receive`` return."""
        self.letters.put(b"")

    def learn(self, born: Mapping[str, int]) -> None:
        """Handles to agents started anew come by ``meet``."""


class AgentActor:
    """An agent in a Ray actor: its letters come by method calls, which Ray delivers in order."""

    def __init__(self, task: bytes) -> None:
        self._inbox = _Inbox()
        self._ended = threading.Event()
        self._task: AgentTask = pickle.loads(task)
        self._thread: threading.Thread | None = None

    def meet(self, peers: Mapping[str, Any]) -> None:
        """Know the others; with the first meeting work begins."""
        self._inbox.peers = dict(peers)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()

    def _work(self) -> None:
        try:
            run_agent(self._task, self._inbox, self._ended.is_set)
        finally:
            self._ended.set()

    def put(self, data: bytes) -> None:
        """A letter."""
        self._inbox.letters.put(data)

    def pid(self) -> int:
        """The actor's process."""
        import os

        return os.getpid()

    def until_end(self) -> None:
        """Returns when the agent has ended."""
        self._ended.wait()


class PostBox:
    """Where agents leave letters for the front, which is no actor itself."""

    def __init__(self) -> None:
        self._letters: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def put(self, data: bytes) -> None:
        """A letter."""
        self._letters.put(data)

    def take(self, timeout: float) -> list[bytes]:
        """What has arrived; waits for the first."""
        found: list[bytes] = []
        with contextlib.suppress(queue.Empty):
            found.append(self._letters.get(timeout=timeout))
            while True:
                found.append(self._letters.get_nowait())
        return found


class _FrontMailbox:
    """The front's letters."""

    def __init__(self, ray: Any, box: Any) -> None:
        self._ray, self._box = ray, box
        self.peers: dict[str, Any] = {}

    def send(self, to: str, message: Message) -> None:
        """Send without waiting; to an actor that is gone it is lost."""
        peer = self.peers.get(to)
        if peer is not None:
            peer.put.remote(to_bytes(message))

    def receive(self, timeout: float) -> list[Message]:
        """What has arrived; waits for the first."""
        return [from_bytes(data) for data in self._ray.get(self._box.take.remote(timeout)) if data]

    def wake(self) -> None:
        """Let ``receive`` return."""
        self._box.put.remote(b"")

    def learn(self, born: Mapping[str, int]) -> None:
        """The crew hands in the handles."""


@dataclass(eq=False)
class RayCrew:
    """Agents as actors of a Ray cluster.

    address : of the cluster (``auto`` finds the one of this machine; ``local`` starts one here). count : agents.
    zoo : a folder that every machine of the cluster reaches under this path. config : of each agent. threads : compute
    threads, and Ray CPUs, of each.

    Raises UnsupportedError where Ray is not installed, CapacityError where the cluster has no room for the agents.
    """

    address: str
    count: int
    zoo: str
    config: EngineConfig
    settings: AgentSettings = field(default_factory=AgentSettings)
    threads: int = 1
    paced: bool = False

    def __post_init__(self) -> None:
        try:
            import ray
        except ImportError as error:
            raise UnsupportedError(
                "Ray is not installed", where="--ray", hint="pip install 'quiltwork[ray]'"
            ) from error
        self._ray: Any = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            try:
                ray.init(
                    address=None if self.address == "local" else self.address,
                    log_to_driver=False,
                    configure_logging=False,
                    include_dashboard=False if self.address == "local" else None,
                )
            except (ConnectionError, ValueError) as error:
                raise CapacityError(f"no Ray cluster there: {error}", where=f"--ray {self.address}") from error
        self.names: list[str] = [f"agent{i}" for i in range(self.count)]
        self.born = dict.fromkeys([FRONT, *self.names], 1)
        box = ray.remote(concurrency_groups={"in": 1, "out": 1})(_grouped(PostBox, {"put": "in", "take": "out"}))
        self._box = box.options(num_cpus=0).remote()
        self.mailbox = _FrontMailbox(ray, self._box)
        self._actors: dict[str, Any] = {}
        self._ends: dict[str, Any] = {}
        self._told: set[str] = set()
        self._lock = threading.Lock()
        """Starting and ending agents, one at a time."""
        self._closed = False
        try:
            for name in self.names:
                self._start(name)
            self._meet()
        except BaseException:
            self.close()
            raise

    def _start(self, name: str) -> None:
        task = AgentTask(name, self.zoo, self.config, self.settings, self.threads, self.paced)
        kind = self._ray.remote(concurrency_groups={"in": 1, "end": 1})(
            _grouped(AgentActor, {"put": "in", "meet": "in", "until_end": "end"})
        )
        actor = kind.options(num_cpus=self.threads, max_restarts=0, scheduling_strategy="SPREAD").remote(
            pickle.dumps(task)
        )
        try:
            self._ray.get(actor.pid.remote(), timeout=START_SECONDS)
        except (self._ray.exceptions.GetTimeoutError, self._ray.exceptions.RayActorError) as error:
            self._ray.kill(actor)
            raise CapacityError(
                f"the cluster starts no agent with {self.threads} CPUs", where=f"--ray {self.address}",
                hint="fewer --agents, or a larger cluster",
            ) from error  # fmt: skip
        self._actors[name] = actor
        self._ends[name] = actor.until_end.remote()
        self._told.discard(name)

    def _meet(self) -> None:
        """Let everybody know everybody."""
        self.mailbox.peers = dict(self._actors)
        for name, actor in self._actors.items():
            peers = {other: handle for other, handle in self._actors.items() if other != name}
            actor.meet.remote({**peers, FRONT: self._box})

    def pid(self, name: str) -> int:
        """The process of an agent (on its own machine)."""
        pid: int = self._ray.get(self._actors[name].pid.remote())
        return pid

    def dead(self) -> Sequence[str]:
        """Agents whose actor has ended, each told once."""
        waiting = {end: name for name, end in self._ends.items() if name not in self._told}
        if not waiting:
            return []
        ended, _ = self._ray.wait(list(waiting), num_returns=len(waiting), timeout=0)
        found = [waiting[end] for end in ended]
        self._told.update(found)
        return found

    def restart(self, name: str) -> None:
        """Start an agent anew, with nothing loaded. Raises QuiltworkError after the end."""
        with self._lock:
            if self._closed:
                raise QuiltworkError("the agents have ended", where=name)
            self._ray.kill(self._actors[name])
            self.born[name] += 1
            self._start(name)
            self._meet()

    def close(self) -> None:
        """End all agents; the cluster stays as it was."""
        with self._lock:
            self._closed = True
        for actor in [*self._actors.values(), self._box]:
            self._ray.kill(actor)
        if self._ours:
            self._ray.shutdown()


def _grouped(kind: type[Any], groups: Mapping[str, str]) -> type[Any]:
    """A class whose methods belong to concurrency groups: one call at a time in each, in the order they came."""
    import ray

    members = {name: ray.method(concurrency_group=group)(getattr(kind, name)) for name, group in groups.items()}
    return type(kind.__name__, (kind,), {**members, "__module__": kind.__module__})
