"""A controller's connection to the supervisor of one of this machine's servers."""

from __future__ import annotations

import json
import select
import socket
import struct
import time
from pathlib import Path
from typing import Any

from quiltwork.cluster.live.backend import WorkerExited, WorkerStarted, WorkerTrouble
from quiltwork.cluster.live.keeper import CHUNK, Lines
from quiltwork.cluster.live.process import Process
from quiltwork.cluster.live.wire import connect, error_of, line

SEND_SECONDS = 5
"""How long a message may wait until there is room for it."""


class Link:
    """Questions go out and answers come back in their order; what the supervisor says by itself is kept meanwhile."""

    def __init__(self, connected: socket.socket) -> None:
        # Who does not read for so long is lost; to wait for it would be to be lost with it.
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", SEND_SECONDS, 0))
        self._socket = connected
        self._lines = Lines()
        self._asked = 0
        self._answers: dict[int, dict[str, Any]] = {}
        self._events: list[dict[str, Any]] = []
        self.heard = False
        """Whether anything has come since this was last set to False."""
        self.read = 0
        """Number of the last event that ``events`` gave."""
        self.given = 0
        """Number of the last event that the controller was given."""
        self._dealt_with = 0

    @staticmethod
    def to(folder: Path) -> Link | None:
        """None where nobody is reached."""
        connected = connect(folder)
        return None if connected is None else Link(connected)

    def fileno(self) -> int:
        return self._socket.fileno()

    def tell(self, **message: Any) -> bool:
        """Have something done, and do not wait for it. False where nobody is there."""
        try:
            self._socket.sendall(line(message))
        except OSError:
            return False
        return True

    def ask(self, within_s: float, **message: Any) -> Any:
        """Raises the QuiltworkError that came as an answer, EOFError where nobody is there, TimeoutError."""
        self._asked += 1
        id = self._asked
        if not self.tell(id=id, **message):
            raise EOFError
        until = time.monotonic() + within_s
        while id not in self._answers:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            if select.select([self._socket], [], [], left)[0] and not self.drain():
                raise EOFError
        answer = self._answers.pop(id)
        if "error" in answer:
            raise error_of(answer["error"])
        return answer["result"]

    def drain(self) -> bool:
        """Take in what has come. False where nobody is there any more."""
        while True:
            try:
                data = self._socket.recv(CHUNK, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return True
            except OSError:
                return False
            if not data:
                return False
            self.heard = True
            for text in self._lines.feed(data):
                message = json.loads(text)
                if "event" in message:
                    self._events.append(message["event"])
                elif "id" in message:
                    self._answers[message["id"]] = message

    def events(self, now: float) -> list[WorkerStarted | WorkerExited | WorkerTrouble]:
        """What has happened to workers since the last call. now : of the clock that their times are to be in."""
        told, self._events = self._events, []
        found = [_event(event, now) for event in told]
        if told:
            self.read = told[-1]["number"]
        return found

    def deal_with(self) -> bool:
        """Say that the controller has dealt with what it was given. False where nobody is there."""
        if self.given == self._dealt_with:
            return True
        self._dealt_with = self.given
        return self.tell(do="ack", upto=self.given)

    def close(self) -> None:
        self._socket.close()


def _event(event: dict[str, Any], now: float) -> WorkerStarted | WorkerExited | WorkerTrouble:
    # Both ends are on one machine, whose monotonic clock is one for all of its processes.
    at = now - max(time.monotonic() - event["at"], 0.0)
    match event["kind"]:
        case "started":
            return WorkerStarted(event["worker"], Process(*event["process"]), at)
        case "trouble":
            return WorkerTrouble(event["worker"], event["what"], at)
        case _:
            return WorkerExited(event["worker"], event["code"], event["signal"], at, event["why"])
