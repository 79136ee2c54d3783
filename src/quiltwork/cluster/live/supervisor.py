"""A server of this machine: the process that its workers live and die with.

It outlives the controller, which speaks to it through a socket in the server's folder. What it promised is in that
folder too: the fence is a file's name, orders and ends are a ``Ledger``. When it is killed, however that came about,
the keepers kill its workers.
"""

from __future__ import annotations

import fcntl
import json
import os
import selectors
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quiltwork.cluster.live.keeper import CHUNK, Lines, become_subreaper
from quiltwork.cluster.live.ledger import order_of
from quiltwork.cluster.live.local_server import LocalServer, read_server
from quiltwork.cluster.live.local_workers import LocalWorker, LocalWorkers
from quiltwork.cluster.live.wire import bind, error_document, is_fenced, line
from quiltwork.core.errors import BadInputError, ConflictError, QuiltworkError

MOST_UNSENT = 1 << 22
"""Bytes that wait for a controller that does not read them, before it is let go of."""


@dataclass(eq=False)
class _Caller:
    """The controller that is connected."""

    socket: socket.socket
    lines: Lines = field(default_factory=Lines)
    unsent: bytes = b""


class Supervisor:
    """folder : the server's. beat_s : how often it says that it is there."""

    def __init__(self, folder: Path, server: LocalServer, beat_s: float) -> None:
        self._folder, self._server, self._beat_s = folder, server, beat_s
        self._selector = selectors.DefaultSelector()
        self._events: list[dict[str, Any]] = []
        """Those that no controller has dealt with."""
        self._count = 0
        self._ending = False
        self._caller: _Caller | None = None
        self._workers = LocalWorkers(folder, server, self._tell)

    def answer(self, asked: dict[str, Any]) -> Any:
        """Do what the controller asks. Raises QuiltworkError where that cannot be done."""
        match asked["do"]:
            case "start":
                self._start(asked["order"])
            case "stop":
                self._workers.stop(asked["worker"], asked["grace_s"])
            case "workers":
                return [
                    {"id": worker.id, "state": worker.state, "process": worker.record.process}
                    for worker in self._workers.here.values()
                ]
            case "ack":
                self._deal_with(asked["upto"])
            case "shutdown":
                self._ending = True
                for id in list(self._workers.here):
                    self._workers.stop(id, asked["grace_s"])
            case _:
                raise _other_version(asked["do"])
        return None

    def _start(self, order: dict[str, Any]) -> None:
        if self._workers.known(order["worker_id"]):
            return
        where = f"server {self._server.id}"
        if self._ending:
            raise ConflictError("the server is shutting down", where=where)
        if is_fenced(self._folder):
            raise ConflictError("the server is fenced", where=where)
        try:
            found = order_of(order)
        except (TypeError, KeyError) as error:
            raise _other_version("this order") from error
        worker = self._workers.start(found)
        if worker.kept is not None:
            self._selector.register(worker.kept.output, selectors.EVENT_READ, worker)

    def _tell(self, event: dict[str, Any]) -> None:
        self._count += 1
        event = {"at": time.monotonic(), **event, "number": self._count}
        self._events.append(event)
        self._send({"event": event})

    def _deal_with(self, upto: int) -> None:
        done = [event for event in self._events if event["number"] <= upto]
        self._events = self._events[len(done) :]
        self._workers.deal_with({event["worker"] for event in done if event["kind"] == "exited"})

    def serve(self, listener: socket.socket) -> None:
        """Until it was told to end, and no worker is left."""
        self._selector.register(listener, selectors.EVENT_READ, None)
        beat_at = time.monotonic()
        while not (self._ending and not self._workers.here):
            for key, ready in self._selector.select(max(beat_at - time.monotonic(), 0.0)):
                if key.data is None:
                    self._accept(listener)
                elif isinstance(key.data, LocalWorker):
                    self._heard(key.data)
                elif isinstance(key.data, _Caller) and key.data is self._caller:
                    self._flush() if ready & selectors.EVENT_WRITE else self._hear(key.data)
            if time.monotonic() >= beat_at:
                beat_at = time.monotonic() + self._beat_s
                self._workers.look()
                if self._caller is not None and not self._caller.unsent:
                    self._send({"beat": self._count})

    def _heard(self, worker: LocalWorker) -> None:
        assert worker.kept is not None
        output = worker.kept.output
        self._workers.heard(worker)
        if worker.kept is None:
            self._selector.unregister(output)

    def _accept(self, listener: socket.socket) -> None:
        """A controller: the last that came is the one that is told things, first those that none has dealt with."""
        connected, _ = listener.accept()
        if (last := self._caller) is not None:
            self._hear(last)  # what it has sent counts still
        self._hang_up()
        connected.setblocking(False)
        self._caller = _Caller(connected)
        self._selector.register(connected, selectors.EVENT_READ, self._caller)
        for event in self._events:
            self._send({"event": event})

    def _hear(self, caller: _Caller) -> None:
        data = b""
        with suppress(BlockingIOError, ConnectionError):
            while more := caller.socket.recv(CHUNK):
                data += more
            self._hang_up()
        for text in caller.lines.feed(data):
            asked = json.loads(text)
            try:
                answer = {"result": self.answer(asked)}
            except QuiltworkError as error:
                answer = {"error": error_document(error)}
            if "id" in asked:
                self._send({"id": asked["id"], **answer})

    def _send(self, message: dict[str, Any]) -> None:
        if self._caller is not None:
            self._caller.unsent += line(message)
            self._flush()

    def _flush(self) -> None:
        caller = self._caller
        if caller is None:
            return
        try:
            while caller.unsent:
                caller.unsent = caller.unsent[caller.socket.send(caller.unsent) :]
        except BlockingIOError:
            if len(caller.unsent) > MOST_UNSENT:
                self._hang_up()
                return
        except OSError:
            self._hang_up()
            return
        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if caller.unsent else 0)
        self._selector.modify(caller.socket, wanted, caller)

    def _hang_up(self) -> None:
        if self._caller is not None:
            self._selector.unregister(self._caller.socket)
            self._caller.socket.close()
            self._caller = None


def _other_version(what: str) -> BadInputError:
    """A controller may be newer than the supervisors that it finds; that must not end them."""
    return BadInputError(
        f"the server's supervisor does not know {what}", hint="it is of another version: shut the cluster down once"
    )


def main() -> None:
    """``python -m quiltwork.cluster.live.supervisor FOLDER BEAT_S``: says one line when it listens."""
    folder, beat_s = Path(sys.argv[1]), float(sys.argv[2])
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    become_subreaper()
    supervisor = Supervisor(folder, read_server(folder), beat_s)
    with socket.socket(socket.AF_UNIX) as listener:
        bind(listener, folder)
        listener.listen(4)
        listener.setblocking(False)
        os.write(sys.stdout.fileno(), b"ready\n")
        nobody = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nobody, sys.stdout.fileno())  # whoever reads the line reads to its end
        supervisor.serve(listener)


if __name__ == "__main__":
    main()
