"""Serving a stream of timed requests: to one system that hosts all models, or to one model each, loaded on demand."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
    stream: bool = False
    """Whether whoever asks wants each token as it comes."""


@dataclass(frozen=True)
class Reply:
    """How a request went."""

    tokens: list[int]
    latency: float
    """Seconds from its arrival in the trace, queueing and loading included, to its last token."""
    first: float | None = None
    """Seconds from its arrival to its first token; None where it was not streamed."""

    @property
    def between(self) -> float:
        """Mean seconds from one token to the next; 0 for a single one. Raises QuiltworkError where not streamed."""
        if self.first is None:
            raise QuiltworkError("there is no time of the first token", where="a reply that was not streamed")
        return (self.latency - self.first) / (len(self.tokens) - 1) if len(self.tokens) > 1 else 0.0


@dataclass(frozen=True)
class Limits:
    """What a user still calls fast."""

    first: float
    """Seconds to the first token."""
    between: float
    """Mean seconds from one token to the next."""

    def met_by(self, reply: Reply) -> bool:
        """Whether a streamed reply was fast enough in both."""
        return reply.first is not None and reply.first <= self.first and reply.between <= self.between


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
        return nearest_rank([reply.latency for reply in self.replies.values()], quantile)

    def first(self, quantile: float) -> float:
        """A quantile of the times to the first token of streamed replies, in seconds."""
        return nearest_rank([reply.first for reply in self.replies.values() if reply.first is not None], quantile)

    def between(self, quantile: float) -> float:
        """A quantile of the mean times between two tokens of streamed replies of several tokens, in seconds."""
        return nearest_rank([reply.between for reply in self.replies.values() if len(reply.tokens) > 1], quantile)

    def goodput(self, limits: Limits) -> float:
        """Requests per second that were served within the limits."""
        return sum(map(limits.met_by, self.replies.values())) / self.seconds


def nearest_rank(values: Sequence[float], quantile: float) -> float:
    """A quantile of measured values that is one of them. Raises QuiltworkError where there are none."""
    if not values:
        raise QuiltworkError("there is nothing to take a quantile of", where="replay")
    return sorted(values)[min(int(quantile * len(values)), len(values) - 1)]


First = Callable[[], None]
"""To be called, from any thread, when a request's first token is there; whoever does not stream need not."""
Answer = Callable[[Request, First], Awaitable[list[int]]]
"""Serve a request and return its tokens."""


async def replay(requests: Sequence[Request], answer: Answer) -> Replayed:
    """Send each request at its arrival time and wait for all replies. Raises what any of them raised."""
    replies: dict[str, Reply] = {}
    start = time.perf_counter()

    async def one(request: Request) -> None:
        first: list[float] = []
        tokens = await answer(request, lambda: first.append(time.perf_counter()))
        ended = time.perf_counter() - start - request.arrival
        if request.stream and not first:
            raise QuiltworkError("no first token was told of", where=request.id)
        replies[request.id] = Reply(tokens, ended, first[0] - start - request.arrival if request.stream else None)

    async with asyncio.TaskGroup() as group:
        for request in sorted(requests, key=lambda r: r.arrival):
            await asyncio.sleep(max(request.arrival - (time.perf_counter() - start), 0))
            group.create_task(one(request))
    return Replayed(replies, time.perf_counter() - start)


async def one_by_one(requests: Sequence[Request], answer: Answer) -> Replayed:
    """Send each request when the one before has been answered: what each takes on an unloaded machine."""
    done: dict[str, Reply] = {}
    start = time.perf_counter()
    for request in requests:
        done |= (await replay([replace(request, arrival=0.0)], answer)).replies
    return Replayed(done, time.perf_counter() - start)


class ModelServer(Protocol):
    """One model in memory, ready to answer."""

    async def answer(self, request: Request, first: First) -> list[int]:
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
        self._waiting: dict[str, deque[tuple[Request, First, asyncio.Future[list[int]], float]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.loads = 0

    async def answer(self, request: Request, first: First) -> list[int]:
        """Serve a request, loading its model first if need be."""
        future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(request.app, deque()).append((request, first, future, time.perf_counter()))
        self._dispatch()
        return await future

    def close(self) -> None:
        """Unload everything."""
        for resident in self._resident.values():
            if resident.server is not None:
                resident.server.close()
        self._resident.clear()

    def _dispatch(self) -> None:
        waiting = sorted((a for a, queue in self._waiting.items() if queue), key=lambda a: self._waiting[a][0][3])
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
                    request, first, future, _ = self._waiting[app].popleft()
                    resident.running += 1
                    self._spawn(self._serve(resident, request, first, future))

    def _make_room(self, app: str) -> None:
        if len(self._resident) < self._capacity:
            self._resident[app] = _Resident()
            self._spawn(self._swap(None, app))
            return
        ready = [(name, r) for name, r in self._resident.items() if r.server is not None]
        waited = time.perf_counter() - self._waiting[app][0][3]
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

    async def _serve(
        self, resident: _Resident, request: Request, first: First, future: asyncio.Future[list[int]]
    ) -> None:
        assert resident.server is not None
        try:
            future.set_result(await resident.server.answer(request, first))
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
                _, _, future, _ = queue.popleft()
                if not future.done():
                    future.set_exception(QuiltworkError(f"loading or serving failed: {error!r}", where="replay"))


def warm(app: str) -> Request:
    """A request that loads an application and runs it once."""
    return Request(f"warm/{app}", app, 0.0, list(range(3, 35)), 4)
