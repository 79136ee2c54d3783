"""Where workers report and are told what to do: a server in the process of whoever controls them.

    link = Link(clock=time.monotonic)
    job = link.job("bert-3")
    job.want(["w0", "w1"])             # these two shall compute; start their processes with link.address and link.token
    report = link.reports.get()        # what happened since, to any job
    job.want(["w0", "w1", "w2"])       # another one joins at the next possible step boundary
    job.warn()                         # a stop is coming: write a checkpoint
    job.want([])                       # stop

It listens on this machine alone unless told otherwise. Who does not know the token is not listened to; what is sent is
not encrypted.
"""

from __future__ import annotations

import contextlib
import hmac
import queue
import secrets
import socket
import struct
import threading
import typing
from collections.abc import Callable, Sequence

from quiltwork.cluster.elastic import message as m
from quiltwork.cluster.elastic.coordinator import Coordinator
from quiltwork.cluster.elastic.lines import LONGEST, from_worker, to_line
from quiltwork.core.errors import BadInputError, CapacityError, QuiltworkError

_HELLO_S = 10.0
"""How long a connection may take to say who it is."""
_SEND_S = 5.0
"""How long a line may wait for a worker that does not read."""
_REPORTED = typing.get_args(m.Told)


class _Connection:
    """One worker's socket. Lines are sent whole; a worker that does not read is cut off."""

    def __init__(self, sock: socket.socket, now: float) -> None:
        self._socket = sock
        self.heard_at = now
        self.parted = False
        """Whether the worker has said that it ends."""
        whole = int(_SEND_S)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", whole, int((_SEND_S - whole) * 1e6)))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, message: m.ToWorker) -> None:
        try:
            self._socket.sendall(to_line(message))
        except OSError:
            self.close()  # its reader finds the end, and says that the worker is lost

    def close(self) -> None:
        # One that the other side has ended cannot be shut down any more.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class JobLink:
    """One job's workers. Every method may be called from any thread."""

    def __init__(self, job: str, clock: Callable[[], float], reports: queue.SimpleQueue[m.Report]) -> None:
        self.job = job
        self._clock, self._reports = clock, reports
        self._lock = threading.RLock()
        self._coordinator = Coordinator()
        self._connections: dict[str, _Connection] = {}
        self._missing_since: float | None = None
        self._forgotten = False

    def want(self, members: Sequence[str]) -> None:
        """Who shall compute from the next possible step boundary on, by rank; nobody stops the job.

        Those named need not have started yet. Who is no longer named ends at the boundary (``Left``). Names are of one
        process each: a worker that is started anew gets a new one.
        """
        with self._lock:
            self._coordinator.want(members)
            self._follow()

    def warn(self) -> None:
        """Have a checkpoint written at the next step boundary, since a stop is coming."""
        with self._lock:
            self._coordinator.warn()
            self._follow()

    @property
    def members(self) -> tuple[str, ...]:
        """Who computes now, by rank; nobody before the job's start and while its group is made anew."""
        with self._lock:
            return self._coordinator.members

    def silence(self) -> dict[str, float]:
        """For each connected worker the seconds since it was last heard of."""
        now = self._clock()
        with self._lock:
            return {name: now - connection.heard_at for name, connection in self._connections.items()}

    def _joined(self, worker: str, connection: _Connection, welcome: m.Welcome) -> None:
        """Whoever has heard the welcome is in."""
        with self._lock:
            if self._forgotten:
                # Since it was asked who this is.
                connection.close()
                return
            connection.send(welcome)
            if (old := self._connections.get(worker)) is not None:
                old.close()
                self._coordinator.lost(worker)
            self._connections[worker] = connection
            self._coordinator.connected(worker)
            self._follow()

    def _heard(self, worker: str, connection: _Connection, said: m.FromWorker) -> None:
        with self._lock:
            if self._connections.get(worker) is not connection:
                return
            connection.heard_at = self._clock()
            self._coordinator.heard(worker, said)
            connection.parted |= isinstance(said, m.Left | m.Failed)
            # Whoever reads a report finds that what follows from it was ordered.
            self._send_orders()
            if isinstance(said, _REPORTED):
                self._report(worker, typing.cast(m.Told, said))
            self._tell_news()

    def _ended(self, worker: str, connection: _Connection, what: str) -> None:
        with self._lock:
            if self._connections.get(worker) is not connection:
                return
            del self._connections[worker]
            if not connection.parted:
                self._report(worker, m.Lost(what))
            self._coordinator.lost(worker)
            self._follow()

    def _sweep(self, silence_s: float) -> None:
        """Take for lost who has been silent for so long, or has not come back."""
        now = self._clock()
        with self._lock:
            for worker, connection in list(self._connections.items()):
                if now - connection.heard_at > silence_s:
                    connection.close()
                    self._ended(worker, connection, f"was not heard of for {silence_s:g} seconds")
            missing = self._coordinator.missing
            if not missing:
                self._missing_since = None
            elif self._missing_since is None:
                self._missing_since = now
            elif now - self._missing_since > silence_s:
                for worker in sorted(missing):
                    self._report(worker, m.Lost(f"did not come back within {silence_s:g} seconds"))
                    self._coordinator.lost(worker)
                self._follow()

    def _report(self, worker: str, what: m.Told) -> None:
        self._reports.put(m.Report(self.job, worker, self._clock(), what))

    def _follow(self) -> None:
        self._send_orders()
        self._tell_news()

    def _tell_news(self) -> None:
        for news in self._coordinator.take_news():
            self._report("", news)

    def _send_orders(self) -> None:
        for worker, order in self._coordinator.take_orders():
            if worker in self._connections:
                self._connections[worker].send(order)

    def _close(self) -> None:
        with self._lock:
            self._forgotten = True
            connections, self._connections = self._connections, {}
        for connection in connections.values():
            connection.close()


class Link:
    """The server for the workers of any number of jobs.

    Parameters
    ----------
    port : 0 for any that is free. With the port and ``token`` of a link that is no more, its workers come back to this
        one and go on where they are.
    silence_s : a worker that says nothing for so long is taken for lost; workers send a heartbeat four times as often.
    clock : seconds that only grow.

    Raises CapacityError where the port is taken.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        clock: Callable[[], float],
        token: str | None = None,
        silence_s: float = 20.0,
    ) -> None:
        self.token = token or secrets.token_urlsafe(24)
        self.reports: queue.SimpleQueue[m.Report] = queue.SimpleQueue()
        """What happened to any job, each job's in order. Somebody has to take them out."""
        self._clock, self._silence_s = clock, silence_s
        self._jobs: dict[str, JobLink] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        try:
            self._server = socket.create_server((host, port))
        except OSError as error:
            raise CapacityError(f"cannot listen: {error.strerror}", where=f"{host}:{port}") from error
        self.address = f"{host}:{self._server.getsockname()[1]}"
        for task in (self._accept, self._watch):
            threading.Thread(target=task, name="elastic-link", daemon=True).start()

    def job(self, job: str) -> JobLink:
        """The workers of a job of this name; the same object every time."""
        with self._lock:
            if job not in self._jobs:
                self._jobs[job] = JobLink(job, self._clock, self.reports)
            return self._jobs[job]

    def forget(self, job: str) -> None:
        """Have no more to do with a job; workers of it that are still connected are cut off."""
        with self._lock:
            found = self._jobs.pop(job, None)
        if found is not None:
            found._close()

    def close(self) -> None:
        """Stop listening, and cut all connections. Workers go on for a while, in case somebody takes this place."""
        self._closed.set()
        # A thread that waits in accept does not notice that its socket is closed.
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            job._close()

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def sweep(self) -> None:
        """Look for workers that have been silent for too long. Done by itself now and then."""
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            job._sweep(self._silence_s)

    def _watch(self) -> None:
        while not self._closed.wait(self._silence_s / 4):
            self.sweep()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                sock, _ = self._server.accept()
            except OSError:
                if self._closed.is_set():
                    return
                # Out of descriptors, perhaps: whoever connects has to wait until there are some.
                self._closed.wait(0.1)
                continue
            threading.Thread(target=self._serve, args=(sock,), name="elastic-link", daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        """One connection, to its end."""
        with sock:
            sock.settimeout(_HELLO_S)
            lines = sock.makefile("rb")
            connection = _Connection(sock, self._clock())
            try:
                hello = from_worker(lines.readline(LONGEST))
                job = self._known(hello)
                assert isinstance(hello, m.Hello)
            except (QuiltworkError, OSError) as error:
                connection.send(m.Refused(str(error)))
                return
            sock.settimeout(None)
            connection = _Connection(sock, self._clock())
            job._joined(hello.worker, connection, m.Welcome(self._silence_s / 4))
            job._ended(hello.worker, connection, self._listen(job, hello.worker, connection, lines))

    def _known(self, hello: m.FromWorker) -> JobLink:
        """The job of one that has said hello. Raises BadInputError."""
        if not isinstance(hello, m.Hello) or not hmac.compare_digest(hello.token.encode(), self.token.encode()):
            raise BadInputError("is not one of this link's workers", where="hello")
        with self._lock:
            if hello.job not in self._jobs:
                raise BadInputError(f"there is no job {hello.job!r}", where="hello")
            return self._jobs[hello.job]

    def _listen(self, job: JobLink, worker: str, connection: _Connection, lines: object) -> str:
        """Hear a worker out; returns why that ended."""
        try:
            while line := lines.readline(LONGEST):  # type: ignore[attr-defined]
                job._heard(worker, connection, from_worker(line))
        except BadInputError as error:
            connection.close()
            return f"was cut off: {error}"
        except OSError as error:
            return f"its connection failed: {error.strerror}"
        return "its connection ended"
