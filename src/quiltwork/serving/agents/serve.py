"""An agent at work: messages in, batches run, messages out, a sign of life now and then."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from quiltwork.core.errors import QuiltworkError
from quiltwork.serving.agents.agent import Agent
from quiltwork.serving.agents.compute import Ran
from quiltwork.serving.agents.message import FRONT, AskKV, Message, Standings

BEAT_S = 0.25


class Mailbox(Protocol):
    """One place's letters: to any other place, and from all of them."""

    def send(self, to: str, message: Message) -> None:
        """Send, without waiting; to a place that is gone it is lost. Between two places order is kept."""
        ...

    def receive(self, timeout: float) -> Sequence[Message]:
        """What has arrived; waits up to ``timeout`` seconds for the first."""
        ...

    def learn(self, born: Mapping[str, int]) -> None:
        """Which places have been started anew: letters go to the new ones from now on."""
        ...

    def wake(self) -> None:
        """Let whoever waits in ``receive`` return. Any thread."""
        ...


def serve(
    agent: Agent,
    mailbox: Mailbox,
    clock: Callable[[], float],
    *,
    beat_s: float = BEAT_S,
    orphaned: Callable[[], bool] = lambda: False,
) -> None:
    """Work until told to stop, or until ``orphaned`` says that nobody is left to work for."""
    with ThreadPoolExecutor(1, thread_name_prefix="quiltwork-compute") as beside:
        desk = _Desk(agent, mailbox, clock, beat_s, beside)
        while not agent.stopping and not (desk.signs() and orphaned()):
            desk.letters(0.0 if agent.has_work or desk.put_by else desk.until_sign)
            if agent.has_work:
                agent.step(desk.run)
            desk.post()


class _Desk:
    """An agent's letters. While it computes, in a thread of its own, pages are given to whoever asks for them.

    A step may take long, and whoever fetches pages does so because this agent is busy: were they to wait for its steps,
    moving would cost most where it is needed most. Nothing else is touched meanwhile: it is put by until the step ends.
    """

    def __init__(
        self, agent: Agent, mailbox: Mailbox, clock: Callable[[], float], beat_s: float, beside: ThreadPoolExecutor
    ) -> None:
        self._agent, self._mailbox, self._clock, self._beat_s, self._beside = agent, mailbox, clock, beat_s, beside
        self._next_sign = clock()
        self.put_by: deque[Message] = deque()

    @property
    def until_sign(self) -> float:
        """Seconds until the next sign of life is due."""
        return max(self._next_sign - self._clock(), 0.0)

    def signs(self) -> bool:
        """Give a sign of life if it is time; whether it was."""
        now = self._clock()
        if now < self._next_sign:
            return False
        batches = self._agent.batches()
        if batches is not None:
            self._mailbox.send(FRONT, batches)  # before the beat, so that whoever hears it has had these
        self._mailbox.send(FRONT, self._agent.beat())
        self._next_sign = now + self._beat_s
        return True

    def letters(self, timeout: float) -> None:
        """Have the agent react to what was put by and to what comes within ``timeout`` seconds."""
        self.put_by.extend(self._mailbox.receive(timeout))
        while self.put_by:
            message = self.put_by.popleft()
            if isinstance(message, Standings):
                self._mailbox.learn(message.born)
            self._handle(message)

    def _handle(self, message: Message) -> None:
        try:
            self._agent.handle(message)
        except QuiltworkError as error:
            # A message that makes no sense must not end the work for all the others.
            self._agent.complain(error)

    def post(self) -> None:
        """Send what the agent has to say."""
        while self._agent.outbox or self._agent.give():
            self._mailbox.send(*self._agent.outbox.popleft())

    def run(self, job: Callable[[], Ran]) -> Ran:
        """The result of ``job``, done beside the letters. Raises what it raises."""
        done: Future[Ran] = self._beside.submit(job)
        done.add_done_callback(lambda _: self._mailbox.wake())
        while not done.done():
            self.signs()
            for message in self._mailbox.receive(self.until_sign):
                if isinstance(message, AskKV):
                    self._handle(message)
                else:
                    self.put_by.append(message)
            self.post()
        return done.result()
