"""Dispatch by what has been heard: every place asks the live agents' own dispatcher, under virtual time."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from quiltwork.serving.agents.dispatching import Dispatcher, Newcomer
from quiltwork.serving.agents.layout import Cut
from quiltwork.serving.agents.message import Run, Standings
from quiltwork.serving.agents.settings import AgentSettings
from quiltwork.serving.agents.timing import Handlings, Timing
from quiltwork.serving.policy.kv import KVChoice
from quiltwork.serving.policy.queueing import Instance, queue_seconds
from quiltwork.serving.simulate.agent import Agent
from quiltwork.serving.simulate.books import Books
from quiltwork.serving.simulate.choosing import Choice
from quiltwork.serving.simulate.network import Network
from quiltwork.serving.simulate.request import Running
from quiltwork.serving.simulate.world import FRONT, Front, Piece, Settings


class Hearsay:
    """What the front and each agent know of the others.

    pieces : all segments of the world. front : the settings' own. books : tell how long answers are.
    clock : virtual seconds.
    """

    def __init__(
        self,
        agents: Mapping[str, Agent],
        pieces: Mapping[Instance, Piece],
        network: Network,
        settings: Settings,
        front: Front,
        books: Books,
        clock: Callable[[], float],
    ) -> None:
        self._agents, self._network, self._settings, self._front, self._clock = agents, network, settings, front, clock
        self._profiles = {instance: piece.profile for instance, piece in pieces.items()}
        places = (FRONT, *agents)
        decide = AgentSettings(
            limits=settings.limits,
            hysteresis=settings.hysteresis,
            horizon=front.horizon,
            admission=settings.admission,
            power=settings.power,
            kv_policy=settings.kv,
            links={(a, b): network.link(a, b) for a in places for b in places if a != b},
            profiles=self._profiles,
        )
        self._rows: dict[int, torch.Tensor] = {}
        """Stand for what would be sent: only how many there are matters."""
        self._books = books
        self._handlings = {name: Handlings() for name in agents}
        self._dispatchers = {place: Dispatcher(place, decide, Timing(self._profiles), clock) for place in places}

    def beat(self) -> None:
        """Everybody tells everybody how it stands, and what they sent before counts no longer."""
        left = {name: agent.left_over for name, agent in self._agents.items()}
        costs = {name: handlings.now(self._clock()) for name, handlings in self._handlings.items()}
        standings = Standings(
            queue_s={name: self._queue_s(seqs) for name, seqs in left.items()},
            waiting={name: len(seqs) for name, seqs in left.items()},
            handling={name: (cost.fixed_s, cost.byte_s) for name, cost in costs.items()},
        )
        for dispatcher in self._dispatchers.values():
            dispatcher.standings = standings

    def _queue_s(self, seqs: list[Running]) -> float:
        rows: dict[Instance, int] = {}
        for seq in seqs:
            if seq.work is not None:
                rows[seq.work.instance] = rows.get(seq.work.instance, 0) + seq.work.rows
        return queue_seconds(rows, self._profiles, self._settings.limits.rows)

    def moved(self, owner: str, agent: str, nbytes: float, seconds: float) -> None:
        """Keys and values have come to an agent ``seconds`` after it asked for them; it learns what moves cost it."""
        beyond = seconds - self._network.link(owner, agent).seconds(nbytes)
        self._handlings[agent].learn(int(nbytes), beyond, self._clock())

    def back(self, seq: Running) -> None:
        """The front has a request's work back."""
        self._dispatchers[FRONT].back(seq.arrival.id)

    def choose(self, seq: Running, source: str) -> Choice | None:
        """Where ``source`` sends a request's next segment; None where nobody has it."""
        route = seq.app.route
        cut = Cut(
            keys=tuple(piece.instance for piece in route),
            holders=tuple(self._holders(piece, owner) for piece, owner in zip(route, seq.owners, strict=True)),
            kv_bytes=tuple(piece.profile.kv_bytes for piece in route),
            hidden_bytes=route[0].profile.hidden_bytes,
        )
        run = Run(
            request=seq.arrival.id,
            epoch=0,
            layout=0,
            segment=seq.hop,
            start=seq.computed,
            settled=seq.computed,
            rows=self._rows.setdefault(seq.rows, torch.empty(seq.rows)),
            wants=0,
            work_class=int(seq.work_class),
            first=0,
            prompt_len=seq.arrival.prompt_tokens,
            visited=tuple(seq.owners),
            steps=min(seq.arrival.output_tokens - seq.generated, self._front.horizon),
        )
        found = self._dispatchers[source].next(cut, run, True, self._newcomer(seq))
        return None if found is None else Choice(found.agent, KVChoice(found.kv))

    def _newcomer(self, seq: Running) -> Newcomer | None:
        """What decides where a request is to live; None where that is settled, or decided by the moment."""
        if self._settings.admission == "moment" or seq.computed or any(seq.owners):
            return None
        return Newcomer(
            rows=seq.pending,
            tokens=max(self._books.output_tokens(self._settings.output_tokens) - seq.generated, 1.0),
            chunk=self._settings.prefill_chunk,
            use={name: agent.use() for name, agent in self._agents.items()},
            others={name: agent.sequences for name, agent in self._agents.items()},
        )

    def _holders(self, piece: Piece, owner: str | None) -> tuple[str, ...]:
        return tuple(
            name
            for name, agent in self._agents.items()
            if name == owner or (agent.has(piece) and piece.instance not in agent.ready_at)
        )
