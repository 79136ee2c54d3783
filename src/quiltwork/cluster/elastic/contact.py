"""A worker's end of the link: it says what it has to say, hears what it is told, and comes back when it was cut off."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Sequence
from typing import IO

from quiltwork.cluster.elastic import message as m
from quiltwork.cluster.elastic.lines import LONGEST, to_line, to_worker
from quiltwork.core.errors import BadInputError, QuiltworkError

_CONNECT_S = 5.0
_RETRY_S = 0.5


class Contact:
    """Keeps one connection to the link, in threads of its own.

    Parameters
    ----------
    address : ``host:port``.
    hear : gets every message, in a thread of this object's.
    lost : called when the connection has ended, before another is tried.
    recall : what the link has to be told first when it is there again.
    pulse : what a heartbeat says.
    """

    def __init__(
        self,
        address: str,
        hello: m.Hello,
        *,
        clock: Callable[[], float],
        hear: Callable[[m.ToWorker], None],
        lost: Callable[[], None],
        recall: Callable[[], Sequence[m.FromWorker]],
        pulse: Callable[[], m.Heartbeat],
    ) -> None:
        host, _, port = address.rpartition(":")
        if not port.isdecimal():
            raise BadInputError(f"{address!r} is not host:port", where="link")
        self._address, self._hello, self._clock = (host, int(port)), hello, clock
        self._hear, self._lost, self._recall, self._pulse = hear, lost, recall, pulse
        self._lock = threading.RLock()
        self._socket: socket.socket | None = None
        self._closed = threading.Event()
        self._lost_at: float | None = clock()
        self._heartbeat_s: float | None = None
        self._welcomed = threading.Event()
        self._ended = threading.Event()
        """Whether the last connection is over."""

    def start(self) -> None:
        """Begin; does not wait for the link."""
        for task in (self._keep, self._beat):
            threading.Thread(target=task, name="elastic-contact", daemon=True).start()

    def lost_for(self) -> float:
        """Seconds without a link, from the beginning or since it was lost; 0 with one."""
        with self._lock:
            return 0.0 if self._lost_at is None else self._clock() - self._lost_at

    def send(self, message: m.FromWorker) -> None:
        """Say something; it is not kept for later where there is no link (``recall`` says what still counts)."""
        with self._lock:
            if self._socket is not None:
                # Whoever reads finds the end of the connection as well, and sees to it.
                with contextlib.suppress(OSError):
                    self._socket.sendall(to_line(message))

    def part(self, last: m.FromWorker) -> None:
        """Say a last thing and have done with the link; returns when it has read that, or does not within a while."""
        self._welcomed.wait(_CONNECT_S)
        self.send(last)
        self._closed.set()
        self._welcomed.set()
        with self._lock:
            if self._socket is None:
                return
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)
        # The link closes its end when it comes to ours; to go earlier could lose what is under way.
        self._ended.wait(_CONNECT_S)

    def _keep(self) -> None:
        while not self._closed.is_set():
            try:
                with socket.create_connection(self._address, timeout=_CONNECT_S) as sock:
                    self._talk(sock)
            except OSError:
                # It is tried again until the worker gives up: see ``lost_for``.
                pass
            self._part()
            self._closed.wait(_RETRY_S)
        self._ended.set()

    def _talk(self, sock: socket.socket) -> None:
        """One connection, to its end. Raises OSError."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, seconds in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
            if hasattr(socket, option):
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
        sock.sendall(to_line(self._hello))
        with sock.makefile("rb") as lines:
            first = self._next(lines)
            sock.settimeout(None)
            if isinstance(first, m.Welcome):
                with self._lock:
                    self._socket, self._lost_at, self._heartbeat_s = sock, None, first.heartbeat_s
                    for message in self._recall():
                        self.send(message)
                self._welcomed.set()
            elif first is not None:
                self._closed.set()  # it does not want us, and would not the next time
                self._welcomed.set()
                self._hear(first)
                return
            while (message := self._next(lines)) is not None:
                self._hear(message)

    def _next(self, lines: IO[bytes]) -> m.ToWorker | None:
        line = lines.readline(LONGEST)
        try:
            return to_worker(line) if line else None
        except BadInputError:
            return None  # nobody who speaks like that is our link

    def _part(self) -> None:
        with self._lock:
            was, self._socket = self._socket, None
            if was is not None:
                self._lost_at = self._clock()
        if was is not None and not self._closed.is_set():
            self._lost()

    def _beat(self) -> None:
        self._welcomed.wait()
        while not self._closed.wait(self._heartbeat_s):
            self.send(self._pulse())


def hello_of(job: str, worker: str, token: str | None, host: str) -> m.Hello:
    """What this process says first. Raises QuiltworkError without a token."""
    if not token:
        raise QuiltworkError("is not set", where="the link's token", hint="whoever starts workers passes it on")
    return m.Hello(job, worker, token, os.getpid(), host)
