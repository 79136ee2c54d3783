"""The front's line to its agents: letters both ways, who lives, and bringing back who does not."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from quiltwork.core.errors import CapacityError, QuiltworkError
from quiltwork.serving.agents.batches import executed
from quiltwork.serving.agents.message import Batches, Beat, Laid, Lay, Message, Standings
from quiltwork.serving.agents.serve import BEAT_S, Mailbox
from quiltwork.serving.batch_log import BatchLog
from quiltwork.serving.policy.placement import gone

LOAD_SECONDS = 600.0
"""How long agents may take to load a model before that counts as a failure."""
WAIT_SECONDS = 0.05
"""How long a step waits for a letter."""
SILENT_BEATS = 40
"""Signs of life that an agent may miss: a step may be long, and a machine busy."""


class Crew(Protocol):
    """The agents of a front, as processes somewhere."""

    @property
    def names(self) -> Sequence[str]:
        """Who they are."""
        ...

    @property
    def born(self) -> Mapping[str, int]:
        """How often each place was started."""
        ...

    @property
    def mailbox(self) -> Mailbox:
        """The front's own."""
        ...

    def dead(self) -> Sequence[str]:
        """Agents whose process has ended, each told once."""
        ...

    def restart(self, name: str) -> None:
        """Start a dead agent anew, with nothing loaded."""
        ...

    def close(self) -> None:
        """End all agents."""
        ...


@dataclass(frozen=True)
class Lost:
    """A letter of the front to itself: an agent has ended or fallen silent."""

    name: str


@dataclass(frozen=True)
class Back:
    """A letter of the front to itself: an agent is back, with everything loaded that it is to hold."""

    name: str


Letter = Message | Lost | Back


class AgentLost(CapacityError):
    """An agent ended or fell silent before it had loaded what it was to."""


class Contact:
    """Letters to and from agents. Any thread may send; a thread of its own receives.

    Parameters
    ----------
    crew : the agents; closed with this.
    clock : seconds.
    reload : called (in a thread of its own) with the name of an agent that was started anew: has it load what it is to
        hold, or raises QuiltworkError.
    restart : whether agents that died are started anew.
    look : called now and then in the receiving thread.
    log : is told, in the receiving thread, what batches agents have run.
    """

    def __init__(
        self,
        crew: Crew,
        clock: Callable[[], float],
        *,
        reload: Callable[[str], None],
        restart: bool,
        look: Callable[[], None],
        log: BatchLog | None = None,
    ) -> None:
        self.names = tuple(crew.names)
        self.beats: dict[str, Beat] = {}
        """Every living agent's last sign of life."""
        self.gone: set[str] = set()
        self.complaints: deque[str] = deque(maxlen=100)
        self._crew, self._clock, self._reload, self._restart, self._look = crew, clock, reload, restart, look
        self._log = log
        self._inbox: queue.SimpleQueue[Letter | None] = queue.SimpleQueue()
        self._laid: dict[tuple[int, int, str], queue.SimpleQueue[Laid]] = {}
        self._asked = count(1)
        self._seen: dict[str, float] = {}
        self._deaths = dict.fromkeys(self.names, 0)
        self._closed = threading.Event()
        self._listener = threading.Thread(target=self._listen, name="quiltwork-front", daemon=True)

    def open(self) -> None:
        """Begin to listen."""
        self._listener.start()

    def close(self) -> None:
        """End the agents."""
        if self._log is not None:
            self._hear_out()
        self._closed.set()
        self._listener.join()
        self._crew.close()

    def _hear_out(self) -> None:
        """Wait for the next sign of life of everybody who lives: with it comes the last that there is to log."""
        before, until = dict(self.beats), self._clock() + 4 * BEAT_S
        while any(self.beats.get(name) is beat for name, beat in before.items()) and self._clock() < until:
            self._closed.wait(WAIT_SECONDS)

    def send(self, to: str, message: Message) -> None:
        """Send to one agent, without waiting."""
        self._crew.mailbox.send(to, message)

    def broadcast(self, message: Message) -> None:
        """Send to all that live."""
        for name in self.names:
            if name not in self.gone:
                self.send(name, message)

    def wake(self) -> None:
        """Let whoever waits for letters go on."""
        self._inbox.put(None)

    def letters(self) -> list[Letter]:
        """What has come that is for the engine; waits a little for the first."""
        letters: list[Letter] = []
        try:
            first = self._inbox.get(timeout=WAIT_SECONDS)
            letters += [first] if first is not None else []
            while True:
                more = self._inbox.get_nowait()
                letters += [more] if more is not None else []
        except queue.Empty:
            return letters

    def standings(self) -> Standings:
        """How everybody stands, to be told to everybody."""
        beats = dict(self.beats)
        return Standings(
            {name: beat.queue_s for name, beat in beats.items()},
            {name: beat.waiting for name, beat in beats.items()},
            tuple(sorted(self.gone)),
            dict(self._crew.born),
            {name: beat.handling for name, beat in beats.items()},
        )

    def lay(self, message: Lay, asked: Sequence[str]) -> None:
        """Have agents load their parts of a model, and wait until all have. Not in the receiving thread.

        Raises CapacityError where one cannot or does not, AgentLost where that is because it has ended.
        """
        deaths = dict(self._deaths)
        turn = next(self._asked)
        answers = {agent: self._laid.setdefault((message.layout, turn, agent), queue.SimpleQueue()) for agent in asked}
        try:
            for agent in asked:
                self.send(agent, message)
            for agent in asked:
                answer = self._answer(answers[agent], agent, deaths[agent])
                if answer.error:
                    raise CapacityError(answer.error, where=message.model)
        finally:
            for agent in asked:
                del self._laid[message.layout, turn, agent]

    def _answer(self, letters: queue.SimpleQueue[Laid], agent: str, deaths: int) -> Laid:
        until = self._clock() + LOAD_SECONDS
        while self._clock() < until:
            try:
                return letters.get(timeout=WAIT_SECONDS)
            except queue.Empty:
                if self._deaths[agent] != deaths:
                    break
        raise AgentLost(f"agent {agent} did not load it", where="agents", hint="see the agent's log")

    def wait_for_all(self) -> None:
        """Return when no agent is gone any more, or after as long as a load may take. Not in the receiving thread."""
        until = self._clock() + LOAD_SECONDS
        while self.gone and self._clock() < until and not self._closed.wait(WAIT_SECONDS):
            pass

    # --- the receiving thread -----------------------------------------------------------------------------------

    def _listen(self) -> None:
        while not self._closed.is_set():
            self._notice_gone()
            self._look()
            try:
                letters = self._crew.mailbox.receive(0.1)
            except QuiltworkError as error:
                self.complaints.append(str(error))
                continue
            for message in letters:
                self._sort(message)

    def _sort(self, message: Message) -> None:
        if isinstance(message, Beat):
            self.beats[message.agent] = message
            self._seen[message.agent] = self._clock()
        elif isinstance(message, Batches):
            if self._log is not None:
                self._log.append(executed(message))
                if message.left_out:
                    self._log.left_out(message.agent, message.left_out)
        elif isinstance(message, Laid):
            self._seen[message.agent] = self._clock()
            for (layout, _, agent), waiting in list(self._laid.items()):
                if (layout, agent) == (message.layout, message.agent):
                    waiting.put(message)
        else:
            self._inbox.put(message)

    def _notice_gone(self) -> None:
        """Agents that ended or fell silent: what they held is made again, here or by them when they are back.

        Who loads gives no sign of life until it has: it gets ``LOAD_SECONDS``.
        """
        dead = set(self._crew.dead())
        loading = {agent for _, _, agent in list(self._laid)}
        seen = {name: at for name, at in self._seen.items() if name not in loading}
        lost = (dead | gone(seen, self._clock(), BEAT_S, misses=SILENT_BEATS)) - self.gone
        self.gone |= lost
        for name in dead | lost:
            self._deaths[name] += 1
        for name in sorted(lost):
            self._seen.pop(name, None)
            self.beats.pop(name, None)
            self._inbox.put(Lost(name))
            if self._restart:
                threading.Thread(target=self._bring_back, args=(name,), daemon=True).start()

    def _bring_back(self, name: str) -> None:
        """Start a lost agent anew and have it load what it held, until that succeeds (in a thread of its own)."""
        pause = 0.5
        while not self._closed.is_set():
            deaths = self._deaths[name]
            try:
                self._crew.restart(name)
                self._reload(name)
            except QuiltworkError as error:
                self.complaints.append(f"{name} did not come back: {error}")
            else:
                if self._deaths[name] == deaths:
                    self._seen[name] = self._clock()
                    self.gone.discard(name)
                    self._inbox.put(Back(name))
                    return
            self._closed.wait(pause)
            pause = min(2 * pause, 30.0)
