"""Serving a stream of timed requests: to one system that hosts all models, or to one model each, loaded on demand."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from quiltwork.core.errors import QuiltworkError

PATIENCE = 1.0
"""Seconds a request may wait for an idle model to make room before the least recently used busy one is drained."""


@dataclass(frozen=True)
class Request:
    """One request of a trace."""

    id: str
    app: str
    arrival: float
    """Seconds after the replay's start."""
    prompt: list[int]
    new_tokens: int


@dataclass(frozen=True)
class Reply:
    """How a request went."""

    tokens: list[int]
    latency: float
    """Seconds from its arrival in the trace, queueing and loading included, to its last token."""


@dataclass(frozen=True)
class Replayed:
    """What a replay came to."""

    replies: Mapping[str, Reply]
    seconds: float
    """From the first arrival to the last token."""
    loads: int = 0
    """Models loaded on demand."""

    @property
    def throughput(self) -> float:
        """Requests finished per second."""
        return len(self.replies) / self.seconds

    def latency(self, quantile: float) -> float:
        """A quantile (nearest rank) of the latencies, in seconds."""
        ordered = sorted(reply.latency for reply in self.replies.values())
        return ordered[min(int(quantile * len(ordered)), len(ordered) - 1)]


Answer = Callable[[Request], Awaitable[list[int]]]
"""Serve a request and return its tokens."""


async def replay(requests: Sequence[Request], answer: Answer) -> Replayed:
    """Send each request at its arrival time and wait for all replies. Raises what any of them raised."""
    replies: dict[str, Reply] = {}
    start = time.perf_counter()

    async def one(request: Request) -> None:
        tokens = await answer(request)
        replies[request.id] = Reply(tokens, time.perf_counter() - start - request.arrival)

    async with asyncio.TaskGroup() as group:
        for request in sorted(requests, key=lambda r: r.arrival):
            await asyncio.sleep(max(request.arrival - (time.perf_counter() - start), 0))
            group.create_task(one(request))
    return Replayed(replies, time.perf_counter() - start)


class ModelServer(Protocol):
    """One model in memory, ready to answer."""

    async def answer(self, request: Request) -> list[int]:
        """Serve a request."""
        ...

    def close(self) -> None:
        """Free its memory."""
        ...


@dataclass(eq=False)
class _Resident:
    server: ModelServer | None = None
    """None while it loads."""
    running: int = 0
    draining: bool = False


class OnDemand:
    """Keeps up to ``capacity`` model servers, unloading the least recently used idle one to make room.

    Requests of a model that is loaded go to it at once. Where no loaded model is idle and a request has waited
    PATIENCE seconds, the least recently used model takes no more requests until it has made room.

    at_once : how many models may compute at a time, None for all. Where others wait for their turn, a computing model
        takes no more requests, so that the turn passes on; whoever has waited longest is next.
    """

    def __init__(self, load: Callable[[str], ModelServer], capacity: int, at_once: int | None = None) -> None:
        self._load, self._capacity, self._at_once = load, capacity, at_once or capacity
        self._resident: OrderedDict[str, _Resident] = OrderedDict()
        self._waiting: dict[str, deque[tuple[Request, asyncio.Future[list[int]], float]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.loads = 0

    async def answer(self, request: Request) -> list[int]:
        """Serve a request, loading its model first if need be."""
        future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(request.app, deque()).append((request, future, time.perf_counter()))
        self._dispatch()
        return await future

    def close(self) -> None:
        """Unload everything."""
        for resident in self._resident.values():
            if resident.server is not None:
                resident.server.close()
        self._resident.clear()

    def _dispatch(self) -> None:
        waiting = sorted((a for a, queue in self._waiting.items() if queue), key=lambda a: self._waiting[a][0][2])
        computing = sum(resident.running > 0 for resident in self._resident.values())
        if all(app in self._resident for app in waiting):
            for resident in self._resident.values():
                resident.draining = False  # whoever wanted the room has found it elsewhere
        for app in waiting:
            resident = self._resident.get(app)
            if resident is None:
                self._make_room(app)
            elif resident.server is not None and not resident.draining:
                if computing >= self._at_once and (resident.running == 0 or len(waiting) > 1):
                    continue
                computing += resident.running == 0
                self._resident.move_to_end(app)
                while self._waiting[app]:
                    request, future, _ = self._waiting[app].popleft()
                    resident.running += 1
                    self._spawn(self._serve(resident, request, future))

    def _make_room(self, app: str) -> None:
        if len(self._resident) < self._capacity:
            self._resident[app] = _Resident()
            self._spawn(self._swap(None, app))
            return
        ready = [(name, r) for name, r in self._resident.items() if r.server is not None]
        waited = time.perf_counter() - self._waiting[app][0][2]
        if ready and waited > PATIENCE and not any(r.draining for r in self._resident.values()):
            ready[0][1].draining = True
        for name, resident in ready:
            if resident.running == 0 and (resident.draining or not self._waiting.get(name)):
                del self._resident[name]
                self._resident[app] = _Resident()
                self._spawn(self._swap(resident.server, app))
                return

    async def _swap(self, victim: ModelServer | None, app: str) -> None:
        def work() -> ModelServer:
            if victim is not None:
                victim.close()
            return self._load(app)

        self._resident[app].server = await asyncio.to_thread(work)
        self.loads += 1
        self._dispatch()

    async def _serve(self, resident: _Resident, request: Request, future: asyncio.Future[list[int]]) -> None:
        assert resident.server is not None
        try:
            future.set_result(await resident.server.answer(request))
        finally:
            resident.running -= 1
        self._dispatch()

    def _spawn(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        error = task.exception()
        for queue in self._waiting.values():
            while queue:
                _, future, _ = queue.popleft()
                if not future.done():
                    future.set_exception(QuiltworkError(f"loading or serving failed: {error!r}", where="replay"))


def warm(app: str) -> Request:
    """A request that loads an application and runs it once."""
    return Request(f"warm/{app}", app, 0.0, list(range(3, 35)), 4)
