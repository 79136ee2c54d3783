"""Where work goes next, from what is known here: fills in the plain numbers that the policy decides by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from quiltwork.serving.agents.layout import Cut
from quiltwork.serving.agents.message import FRONT, Run, Standings
from quiltwork.serving.agents.settings import AgentSettings
from quiltwork.serving.agents.timing import Timing
from quiltwork.serving.policy.admission import Coming, InUse, Spot, admit
from quiltwork.serving.policy.cost import Handling, Link, SegmentProfile, joined
from quiltwork.serving.policy.dispatch import Candidate, Option, choose, weigh
from quiltwork.serving.policy.kv import KVChoice, KVState, move_seconds
from quiltwork.serving.policy.queueing import Instance, queue_seconds

TOKEN_BYTES = 8
"""Of a token's number, which is all that enters a chain."""
USUAL_S = 2.0
"""Seconds over which an agent's queue is averaged into what it usually is."""


@dataclass(frozen=True)
class _Sent:
    """Work that was sent to an agent since the last word from there."""

    agent: str
    rows: int
    segments: Mapping[Instance, SegmentProfile]


@dataclass(frozen=True)
class Newcomer:
    """A request that lives nowhere yet, and who lives on the agents, as ``policy.admission`` asks for it."""

    rows: int
    """Tokens that have to be computed before it decodes."""
    tokens: float
    """That it will generate, as far as can be told."""
    chunk: int
    """Rows of prompts in a step."""
    use: Mapping[str, Mapping[Instance, InUse]]
    """By agent; who runs nothing may be absent."""
    others: Mapping[str, int]
    """Sequences by agent."""


class Dispatcher:
    """One place's view of the others."""

    def __init__(self, name: str, settings: AgentSettings, timing: Timing, clock: Callable[[], float]) -> None:
        self._name, self._settings, self._timing, self._clock = name, settings, timing, clock
        self._sending_until: dict[tuple[str, str], float] = {}
        """When the pages that work sent from here had moved will have arrived, by link."""
        self._standings = Standings({}, {})
        self._sent: dict[int, _Sent] = {}
        """By request."""
        self._heard = clock()
        self._usual: dict[str, float] = {}

    @property
    def standings(self) -> Standings:
        """How everybody stood when last heard of."""
        return self._standings

    @standings.setter
    def standings(self, standings: Standings) -> None:
        now = self._clock()
        weight = 1 - math.exp(-(now - self._heard) / USUAL_S)
        for agent, queue_s in standings.queue_s.items():
            before = self._usual.get(agent, queue_s)
            self._usual[agent] = before + weight * (queue_s - before)
        self._standings, self._heard = standings, now
        if self._name != FRONT:
            self._sent.clear()  # what was sent before is in these figures

    def back(self, request: int) -> None:
        """What was sent for a request is no longer under way."""
        self._sent.pop(request, None)

    def _queue_s(self, agent: str) -> float:
        """Seconds of work before an agent: what it said, less what it has done since, or what was sent there since."""
        waiting: dict[Instance, int] = {}
        profiles: dict[Instance, SegmentProfile] = {}
        for sent in self._sent.values():
            if sent.agent == agent:
                for key, profile in sent.segments.items():
                    waiting[key] = waiting.get(key, 0) + sent.rows
                    profiles[key] = profile
        said = self._standings.queue_s.get(agent, 0.0) - (self._clock() - self._heard)
        return max(said, queue_seconds(waiting, profiles, self._settings.limits.rows))

    def next(self, cut: Cut, run: Run, inputs_kept: bool, newcomer: Newcomer | None = None) -> Candidate | None:
        """Who should run ``run.segment``; None where nobody can, so that the sequence has to start afresh.

        run : its rows are those that just left here. inputs_kept : whether all rows before them are still here too.
        newcomer : given where it is to be decided where the request lives, by all its steps to come.
        """
        segment = run.segment
        gone = self.standings.gone
        owner = run.visited[segment]
        keeps = cut.kv_bytes[segment] > 0
        tokens = run.settled - run.first if keeps else 0
        end = run.start + run.rows.shape[0]
        rows = end - run.settled
        row_bytes = cut.hidden_bytes if segment else TOKEN_BYTES
        options: list[Option] = []
        for agent in cut.holders[segment]:
            if agent in gone:
                continue
            span = range(segment, self.span(cut, segment, agent, owner, run.visited))
            profile = joined([self._timing.of(cut, i) for i in span])
            link = self._settings.link(self._name, agent)
            waiting = self.standings.waiting.get(agent, 0)
            state = KVState(
                tokens=tokens,
                profile=profile,
                from_owner=self._link(owner, agent) if owner is not None and owner not in gone else None,
                input_bytes=row_bytes,
                from_inputs=link if inputs_kept else None,
                delayed=waiting,
                handling=Handling(*self.standings.handling.get(agent, (0.0, 0.0))),
            )
            exec_s = profile.batch_s(rows)
            queue_s = self._queue_s(agent) if agent != self._name else 0.0
            usual_s = None  # who holds nothing yet begins where it is served soonest now, and may leave later
            if owner is not None and tokens:
                # An owner's usual queue has this sequence in it, which does not wait for itself.
                usual_s = max(self._usual.get(agent, queue_s) - (exec_s if agent == owner else 0.0), 0.0)
            options.append(
                Option(
                    agent,
                    queue_s=queue_s,
                    net_s=link.seconds(rows * row_bytes) if agent != self._name else 0.0,
                    exec_s=exec_s,
                    state=state,
                    steps=run.steps,
                    usual_s=usual_s,
                )
            )
        candidates = weigh(options, owner, self._settings.kv_policy)
        chosen = None if newcomer is None else self._admitted(cut, candidates, newcomer)
        if chosen is None:
            chosen = choose(candidates, hysteresis=self._settings.hysteresis)
        if chosen is not None:
            span = range(segment, self.span(cut, segment, chosen.agent, owner, run.visited))
            again = tokens if chosen.kv is KVChoice.RECOMPUTE else 0
            segments = {cut.keys[i]: self._timing.of(cut, i) for i in span}
            self._sent[run.request] = _Sent(chosen.agent, rows + again, segments)
            if chosen.kv is KVChoice.MOVE and owner is not None:
                state = next(option.state for option in options if option.agent == chosen.agent)
                self._sending_until[owner, chosen.agent] = self._clock() + move_seconds(state)
        return chosen

    def _admitted(self, cut: Cut, candidates: Sequence[Candidate], newcomer: Newcomer) -> Candidate | None:
        """Where a request had best live; None where what its segments cost is not known yet."""
        route: list[tuple[Instance, SegmentProfile]] = []
        for segment, key in enumerate(cut.keys):
            profile = self._timing.known(cut, segment)
            if profile is None:
                return None
            route.append((key, profile))
        coming = Coming(route, newcomer.rows, newcomer.tokens, newcomer.chunk)
        by_agent = {candidate.agent: candidate for candidate in candidates}
        spots = [
            Spot(agent, newcomer.use.get(agent, {}), newcomer.others.get(agent, 0), self._token_s(cut, agent))
            for agent in by_agent
        ]
        spot = admit(spots, coming, power=self._settings.power)
        return None if spot is None else by_agent[spot.agent]

    def _token_s(self, cut: Cut, agent: str) -> float:
        """Seconds that a token is on its way to an agent, and from there to the first segment that it has not."""
        to = self._settings.link(self._name, agent).seconds(TOKEN_BYTES)
        end = next((i for i, holders in enumerate(cut.holders) if agent not in holders), None)
        if end is None:
            return to
        onward = [self._settings.link(agent, other) for other in cut.holders[end] if other not in self.standings.gone]
        return to + min((link.seconds(cut.hidden_bytes) for link in onward), default=0.0)

    def _link(self, a: str, b: str) -> Link:
        """The way between two agents, with what is known here to be on it."""
        until = self._sending_until.get((a, b), 0.0)
        return replace(self._settings.link(a, b), busy_s=max(until - self._clock(), 0.0))

    @staticmethod
    def span(cut: Cut, segment: int, agent: str, owner: str | None, visited: tuple[str | None, ...]) -> int:
        """Index behind the segments that ``agent`` would take over together: those after it with the same owner."""
        stop = segment + 1
        while stop < len(cut.holders) and agent in cut.holders[stop] and visited[stop] == owner:
            stop += 1
        return stop
