"""Our engine as one process per application: what sharing is worth to the same engine.

All processes are started with their imports done, which no request waits for; an application's weights are loaded into
its process on demand, and the least recently used application is unloaded to make room.
"""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from socket import socketpair
from typing import Any

from quiltwork.core.bench import tree_pss_bytes
from quiltwork.core.errors import QuiltworkError
from work.ours import OurModels
from work.replay import First, OnDemand, Replayed, Request, replay, warm
from work.side import BENCHMARKS, child_environment


@dataclass
class _Pending:
    tell: Callable[[object], None]
    """Given the answer, or the error."""
    first: First


class ModelProcess:
    """The near end of one application's process."""

    def __init__(self, app: str, zoo: Path, threads: int, settings: Mapping[str, Any]) -> None:
        here, there = socketpair()
        fd = there.fileno()
        self._app = app
        self._process = subprocess.Popen(
            [sys.executable, "-m", "work.apart", str(fd)],
            env=child_environment(threads),
            cwd=BENCHMARKS,
            pass_fds=(fd,),
        )
        there.close()
        self._connection = Connection(here.detach())
        self._pending: dict[str, _Pending] = {}
        self._sending = threading.Lock()
        self._connection.send((app, zoo, dict(settings)))
        self._listener = threading.Thread(target=self._listen, daemon=True)

    def ready(self) -> int:
        """Wait until its imports are done; what they take, in bytes."""
        floor: int = self._connection.recv()
        self._listener.start()
        return floor

    def load(self) -> ModelProcess:
        """Bring the application into memory."""
        self._ask("load")
        return self

    def close(self) -> None:
        """Take the application out of memory again; the process stays."""
        self._ask("unload")

    async def answer(self, request: Request, first: First) -> list[int]:
        """Serve one request."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[int]] = loop.create_future()

        def tell(value: Any) -> None:
            settle = future.set_exception if isinstance(value, Exception) else future.set_result
            loop.call_soon_threadsafe(settle, value)

        self._send(request.id, request, _Pending(tell, first))
        return await future

    def end(self) -> None:
        """End the process."""
        with suppress(OSError):
            self._connection.send(("end", "end"))
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._connection.close()

    def _ask(self, what: str) -> None:
        done = threading.Event()
        found: list[object] = []
        self._send(what, what, _Pending(lambda value: (found.append(value), done.set())[0], lambda: None))
        done.wait()
        if isinstance(found[0], Exception):
            raise found[0]

    def _send(self, key: str, message: object, pending: _Pending) -> None:
        with self._sending:
            self._pending[key] = pending
            self._connection.send((key, message))

    def _listen(self) -> None:
        while True:
            try:
                key, kind, value = self._connection.recv()
            except (EOFError, OSError):
                for pending in self._pending.values():
                    pending.tell(QuiltworkError("its process ended", where=self._app))
                return
            if kind == "first":
                self._pending[key].first()
            else:
                self._pending.pop(key).tell(QuiltworkError(value, where=self._app) if kind == "failed" else value)


class OurModelsApart:
    """One process per application, at most ``resident`` of them with their weights in memory.

    Parameters
    ----------
    threads : compute threads of each process.
    settings : of each engine.
    """

    def __init__(self, zoo: Path, models: Sequence[str], resident: int, threads: int = 1, **settings: Any) -> None:
        self._resident = resident
        self._processes = {app: ModelProcess(app, zoo, threads, settings) for app in models}
        self._floor = sum(process.ready() for process in self._processes.values())

    def floor(self) -> int:
        """What the imports of all processes take, in bytes."""
        return self._floor

    def replay(self, requests: Sequence[Request]) -> Replayed:
        """Serve timed requests, starting with the last ``resident`` applications loaded."""
        return asyncio.run(self._replay(requests))

    async def _replay(self, requests: Sequence[Request]) -> Replayed:
        fleet = OnDemand(lambda app: self._processes[app].load(), self._resident)
        try:
            await replay([warm(app) for app in list(self._processes)[-self._resident :]], fleet.answer)
            before = fleet.loads
            done = await replay(requests, fleet.answer)
            return Replayed(done.replies, done.seconds, fleet.loads - before)
        finally:
            fleet.close()

    def close(self) -> None:
        """End all processes."""
        for process in self._processes.values():
            process.end()


async def _serve(connection: Connection) -> None:
    """The far end: load, unload and answer until told to end or the other end has gone."""
    loop = asyncio.get_running_loop()
    app, zoo, settings = connection.recv()
    gc.collect()
    connection.send(tree_pss_bytes())
    models: OurModels | None = None
    running: set[asyncio.Task[None]] = set()

    async def answer(key: str, request: Request) -> None:
        first: First = (lambda: connection.send((key, "first", None))) if request.stream else (lambda: None)
        try:
            assert models is not None, "a request came before its model"
            connection.send((key, "done", await models.answer(request, first)))
        except Exception as error:  # noqa: BLE001  (whatever it is, it is the other end's to report)
            connection.send((key, "failed", repr(error)))

    while True:
        try:
            key, message = await loop.run_in_executor(None, connection.recv)
        except (EOFError, OSError):
            break
        if isinstance(message, Request):
            task = loop.create_task(answer(key, message))
            running.add(task)
            task.add_done_callback(running.discard)
            continue
        if models is not None:
            models.close()
            models = None
            gc.collect()  # an engine's objects know each other: only this frees its weights at once
        if message == "end":
            break
        if message == "load":
            models = OurModels(zoo, [app], **settings)
        connection.send((key, "done", None))


if __name__ == "__main__":
    asyncio.run(_serve(Connection(int(sys.argv[1]))))
