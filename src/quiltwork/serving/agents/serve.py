"""An agent at work: messages in, batches run, messages out, a sign of life now and then."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from quiltwork.core.errors import QuiltworkError
from quiltwork.serving.agents.agent import Agent
from quiltwork.serving.agents.message import FRONT, Message, Standings

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


def serve(
    agent: Agent,
    mailbox: Mailbox,
    clock: Callable[[], float],
    *,
    beat_s: float = BEAT_S,
    orphaned: Callable[[], bool] = lambda: False,
) -> None:
    """Work until told to stop, or until ``orphaned`` says that nobody is left to work for."""
    next_beat = clock()
    while not agent.stopping:
        now = clock()
        if now >= next_beat:
            if orphaned():
                return
            batches = agent.batches()
            if batches is not None:
                mailbox.send(FRONT, batches)  # before the beat, so that whoever hears it has had these
            mailbox.send(FRONT, agent.beat())
            next_beat = now + beat_s
        for message in mailbox.receive(0.0 if agent.has_work else max(next_beat - now, 0.0)):
            if isinstance(message, Standings):
                mailbox.learn(message.born)
            try:
                agent.handle(message)
            except QuiltworkError as error:
                # A message that makes no sense must not end the work for all the others.
                agent.complain(error)
        if agent.has_work:
            agent.step()
        while agent.outbox:
            mailbox.send(*agent.outbox.popleft())
