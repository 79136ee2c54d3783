"""Agents as processes of this machine, with letters through shared memory."""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from quiltwork.core.errors import QuiltworkError
from quiltwork.serving.agents.message import FRONT, Message, Pages, Stop, from_bytes, to_parts
from quiltwork.serving.agents.process import AgentTask
from quiltwork.serving.agents.ring import Ring
from quiltwork.serving.agents.settings import AgentSettings
from quiltwork.serving.config import EngineConfig
from quiltwork.serving.policy.cost import Link

RING_BYTES = 2 << 20
RETRY_S = 0.001
"""How soon a full ring is looked at again."""
STOP_SECONDS = 5.0
_LENGTH = struct.Struct("<I")
_BELL = struct.Struct("<IQ")


@dataclass(frozen=True)
class Address:
    """A place and how often it was started."""

    name: str
    born: int = 1

    def __str__(self) -> str:
        return f"{self.name}.{self.born}"


@dataclass
class _Parcel:
    """A letter's bytes, and when it may go on."""

    at: float
    parts: deque[memoryview]
    nbytes: int


class _Outgoing:
    """Letters to one place: those that wait for the link, and those that it has brought there or is bringing.

    The link carries one letter at a time, pages only where no other letter waits; the latency of one does not hold up
    the next.
    """

    def __init__(self, ring: Ring, bell: int, link: Link | None) -> None:
        self.ring, self.bell, self._link = ring, bell, link
        self._letters: deque[_Parcel] = deque()
        self._pages: deque[_Parcel] = deque()
        self._moving: deque[_Parcel] = deque()
        self._free_at = 0.0

    def put(self, message: Message, now: float) -> None:
        """Have a message go to the place, after those of its kind."""
        parts = to_parts(message)
        nbytes = sum(len(part) for part in parts)
        waiting = self._pages if isinstance(message, Pages) else self._letters
        waiting.append(_Parcel(now, deque([memoryview(_LENGTH.pack(nbytes)), *parts]), nbytes))

    def _next(self) -> tuple[float, deque[_Parcel]] | None:
        """When the link takes the next waiting letter, and which it is the head of."""
        if self._letters:
            start = max(self._free_at, self._letters[0].at)
            if not self._pages or start <= max(self._free_at, self._pages[0].at):
                return start, self._letters
        if self._pages and (self._link is not None or not self._moving):
            return max(self._free_at, self._pages[0].at), self._pages
        return None

    def due(self, now: float) -> float | None:
        """Seconds until there is something to do here; None where there is nothing to send."""
        found = self._next()
        times = [] if found is None else [found[0]]
        if self._moving:
            times.append(self._moving[0].at if self._moving[0].at > now else now + RETRY_S)
        return max(min(times) - now, 0.0) if times else None

    def flush(self, sender: int, now: float) -> None:
        """Write what fits of what has arrived by now, and ring."""
        before = self.ring.tail
        while self._depart(now) + self._write(now):
            pass
        if self.ring.tail != before:
            # A full pipe has rung already; a broken one has nobody to ring for.
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                os.write(self.bell, _BELL.pack(sender, self.ring.tail))

    def _depart(self, now: float) -> int:
        """Letters that the link has taken."""
        count = 0
        while (found := self._next()) is not None and found[0] <= now:
            start, waiting = found
            parcel = waiting.popleft()
            if self._link is not None:
                seconds = self._link.seconds(parcel.nbytes)
                parcel.at = start + seconds
                self._free_at = parcel.at - min(self._link.latency_s, seconds)
            self._moving.append(parcel)
            count += 1
        return count

    def _write(self, now: float) -> int:
        """Letters that are in the ring as a whole."""
        count = 0
        while self._moving and self._moving[0].at <= now:
            parts = self._moving[0].parts
            while parts:
                written = self.ring.write(parts[0])
                if written < len(parts[0]):
                    parts[0] = parts[0][written:]
                    return count
                parts.popleft()
            self._moving.popleft()
            count += 1
        return count


class _Incoming:
    """Letters from one place, read as they come."""

    def __init__(self, ring: Ring) -> None:
        self.ring = ring
        self._length, self._letter = bytearray(_LENGTH.size), bytearray()
        self._got = 0
        self._inside = False
        """Whether a letter has begun, so that its bytes come next, not its length."""

    def letters(self, upto: int | None) -> Iterator[Message]:
        """Those that are complete, up to the byte of that number if given. Raises CorruptionError."""
        while True:
            wanted = self._letter if self._inside else self._length
            self._got += self.ring.read(memoryview(wanted)[self._got :], upto)
            if self._got < len(wanted):
                return
            self._got = 0
            if self._inside:
                self._inside = False
                yield from_bytes(self._letter)
            else:
                self._inside, self._letter = True, bytearray(_LENGTH.unpack(self._length)[0])


class LocalMailbox:
    """One process's letters. Any thread may send, one receives.

    folder : where rings and doorbells are. me : this place. places : every place, in the same order everywhere.
    born : how often each was started. links : ways that are slower than memory: a letter waits until it would have
    arrived.
    """

    def __init__(
        self,
        folder: Path,
        me: str,
        places: Sequence[str],
        born: Mapping[str, int],
        links: Mapping[tuple[str, str], Link] | None = None,
    ) -> None:
        self._folder, self._me, self._places = folder, me, list(places)
        self._born = dict(born)
        self._links = dict(links or {})
        self._lock = threading.Lock()
        """Guards what follows."""
        self._out: dict[str, _Outgoing] = {}
        self._in: dict[str, _Incoming] = {}
        self._waits = False
        """Whether ``receive`` waits, and for how long was settled before."""
        bell = folder / f"{Address(me, self._born[me])}.bell"
        self._bell = os.open(bell, os.O_RDONLY | os.O_NONBLOCK)
        self._keep_open = os.open(bell, os.O_WRONLY | os.O_NONBLOCK)  # so that the pipe never ends
        for place in self._places:
            if place != me:
                self._attach(place)

    def _attach(self, place: str) -> None:
        mine, other = Address(self._me, self._born[self._me]), Address(place, self._born[place])
        try:
            bell = os.open(self._folder / f"{other}.bell", os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            bell = os.open(self._folder / f"{other}.bell", os.O_RDWR | os.O_NONBLOCK)  # it has not opened it yet
        self._out[place] = _Outgoing(Ring(self._folder / f"{mine}-{other}"), bell, self._links.get((self._me, place)))
        self._in[place] = _Incoming(Ring(self._folder / f"{other}-{mine}"))

    def _detach(self, place: str) -> None:
        outgoing = self._out.pop(place, None)
        if outgoing is not None:
            outgoing.ring.close()
            os.close(outgoing.bell)
        incoming = self._in.pop(place, None)
        if incoming is not None:
            incoming.ring.close()

    def learn(self, born: Mapping[str, int]) -> None:
        """Who has been started anew since; letters to the old one are lost."""
        with self._lock:
            for place, count in born.items():
                if place != self._me and self._born.get(place) != count:
                    self._detach(place)
                    self._born[place] = count
                    self._attach(place)

    def send(self, to: str, message: Message) -> None:
        """Send without waiting; to a place that nobody knows it is lost."""
        with self._lock:
            outgoing = self._out.get(to)
            if outgoing is None:
                return
            now = time.monotonic()
            outgoing.put(message, now)
            outgoing.flush(self._places.index(self._me), now)
            if self._waits and outgoing.due(now) is not None:
                self.wake()  # what has not arrived yet is brought there in ``receive``, which does not know of it

    def wake(self) -> None:
        """Let ``receive`` return; a full pipe wakes it anyway. Any thread."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._keep_open, _BELL.pack(self._places.index(self._me), 0))

    def receive(self, timeout: float) -> list[Message]:
        """What has arrived; waits up to ``timeout`` seconds for the first. Raises CorruptionError."""
        until = time.monotonic() + timeout
        while True:
            now = time.monotonic()
            wait = max(until - now, 0.0)
            with self._lock:
                for outgoing in self._out.values():
                    outgoing.flush(self._places.index(self._me), now)
                    due = outgoing.due(now)
                    wait = wait if due is None else min(wait, due)
                self._waits = True
            rung = bool(select.select([self._bell], [], [], wait)[0])
            with self._lock:
                self._waits = False
                tails = self._rung() if rung else None
                messages = self._read(tails)
            if messages or self._me in (tails or ()) or time.monotonic() >= until:
                return messages

    def _rung(self) -> dict[str, int]:
        """Who rang, and up to which byte there is something to read."""
        tails: dict[str, int] = {}
        with contextlib.suppress(BlockingIOError):
            data = os.read(self._bell, _BELL.size * 4096)
            for sender, tail in _BELL.iter_unpack(data):
                tails[self._places[sender]] = tail
        return tails

    def _read(self, tails: Mapping[str, int] | None) -> list[Message]:
        messages: list[Message] = []
        for place, incoming in self._in.items():
            if tails is None or place in tails:
                messages += incoming.letters(None if tails is None else tails[place])
        return messages

    def close(self) -> None:
        """Let go of everything."""
        for place in list(self._out):
            self._detach(place)
        os.close(self._bell)
        os.close(self._keep_open)


@dataclass(frozen=True)
class AgentSpec:
    """What an agent's process is handed through a pipe: what to be, and where its letters are."""

    task: AgentTask
    folder: Path
    places: tuple[str, ...]
    born: Mapping[str, int]


@dataclass(eq=False)
class _Child:
    process: subprocess.Popen[bytes]
    told: bool = False


@dataclass(eq=False)
class LocalCrew:
    """Agents in processes of their own on this machine.

    count : agents. zoo : its folder. config : of each agent (its memory is its own share). settings : how they decide.
    threads : compute threads of each. paced : see AgentTask.
    """

    count: int
    zoo: str
    config: EngineConfig
    settings: AgentSettings = field(default_factory=AgentSettings)
    threads: int = 1
    paced: bool = False

    def __post_init__(self) -> None:
        memory = Path("/dev/shm")
        self._lock = threading.Lock()
        """Starting and ending agents, one at a time."""
        self._closed = False
        self._folder = Path(tempfile.mkdtemp(prefix="quiltwork-agents-", dir=memory if memory.is_dir() else None))
        self.names: list[str] = [f"agent{i}" for i in range(self.count)]
        self._places = [FRONT, *self.names]
        self.born = dict.fromkeys(self._places, 1)
        self._children: dict[str, _Child] = {}
        for place in self._places:
            self._make_letterbox(place)
        self.mailbox = LocalMailbox(self._folder, FRONT, self._places, self.born, self.settings.links)
        for name in self.names:
            self._start(name)

    def _make_letterbox(self, place: str) -> None:
        """A doorbell, and rings to and from every place there is."""
        mine = Address(place, self.born[place])
        os.mkfifo(self._folder / f"{mine}.bell")
        for other in self._places:
            there = Address(other, self.born[other])
            if other == place or not (self._folder / f"{there}.bell").exists():
                continue
            Ring(self._folder / f"{mine}-{there}", RING_BYTES).close()
            Ring(self._folder / f"{there}-{mine}", RING_BYTES).close()

    def _start(self, name: str) -> None:
        task = AgentTask(name, self.zoo, self.config, self.settings, self.threads, self.paced)
        spec = AgentSpec(task, self._folder, tuple(self._places), dict(self.born))
        process = subprocess.Popen(
            [sys.executable, "-m", "quiltwork.serving.agents.process"],
            stdin=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": str(self.threads)},
        )
        assert process.stdin is not None
        data = pickle.dumps(spec)
        process.stdin.write(_LENGTH.pack(len(data)) + data)
        process.stdin.flush()
        # The pipe stays open: when it ends, the agent knows that nobody is left to work for.
        self._children[name] = _Child(process)

    def pid(self, name: str) -> int:
        """The process of an agent."""
        return self._children[name].process.pid

    def dead(self) -> Sequence[str]:
        """Agents whose process has ended, each told once."""
        found = []
        for name, child in self._children.items():
            if not child.told and child.process.poll() is not None:
                child.told = True
                found.append(name)
        return found

    def restart(self, name: str) -> None:
        """Start an agent anew, with nothing loaded. Raises QuiltworkError after the end."""
        with self._lock:
            if self._closed:
                raise QuiltworkError("the agents have ended", where=name)
            self._restart(name)

    def _restart(self, name: str) -> None:
        child = self._children[name]
        if child.process.poll() is None:
            child.process.kill()  # it fell silent
            child.process.wait()
        old = Address(name, self.born[name])
        self.born[name] += 1
        self._make_letterbox(name)
        self.mailbox.learn(self.born)
        self._start(name)
        for path in self._folder.iterdir():
            if str(old) in path.name.removesuffix(".bell").split("-"):
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """End all agents: politely, then not."""
        with self._lock:
            self._closed = True
        for name in self.names:
            self.mailbox.send(name, Stop())
        until = time.monotonic() + STOP_SECONDS
        for child in self._children.values():
            assert child.process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                child.process.stdin.close()
            try:
                child.process.wait(max(until - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        self.mailbox.close()
        shutil.rmtree(self._folder, ignore_errors=True)
