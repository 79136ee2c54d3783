"""Where work goes next, from what is known here: fills in the plain numbers that the policy decides by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from quiltwork.serving.agents.layout import Cut
from quiltwork.serving.agents.message import FRONT, Run, Standings
from quiltwork.serving.agents.settings import AgentSettings
from quiltwork.serving.agents.timing import Timing
from quiltwork.serving.policy.cost import Link, SegmentProfile, joined
from quiltwork.serving.policy.dispatch import Candidate, Option, choose, weigh
from quiltwork.serving.policy.kv import KVChoice, KVState, move_seconds
from quiltwork.serving.policy.queueing import Instance


class Dispatcher:
    """One place's view of the others."""

    def __init__(self, name: str, settings: AgentSettings, timing: Timing, clock: Callable[[], float]) -> None:
        self._name, self._settings, self._timing, self._clock = name, settings, timing, clock
        self._sending_until: dict[tuple[str, str], float] = {}
        """When the pages that work sent from here had moved will have arrived, by link."""
        self._standings = Standings({}, {})
        self._sent: dict[int, tuple[str, float]] = {}
        """Per request, where work was sent since the last word from there, and how long it takes."""
        self._joined: dict[tuple[Instance, ...], tuple[list[SegmentProfile], SegmentProfile]] = {}
        """By the segments, their profiles and what these come to together."""

    @property
    def standings(self) -> Standings:
        """How everybody stood when last heard of."""
        return self._standings

    @standings.setter
    def standings(self, standings: Standings) -> None:
        self._standings = standings
        if self._name != FRONT:
            self._sent.clear()  # what was sent before is in these figures

    def back(self, request: int) -> None:
        """What was sent for a request is no longer under way."""
        self._sent.pop(request, None)

    def _queue_s(self, agent: str) -> float:
        """Seconds of work before an agent: as it said, or what is known here to have been sent there since."""
        sent = sum(seconds for to, seconds in self._sent.values() if to == agent)
        return max(self._standings.queue_s.get(agent, 0.0), sent)

    def next(self, cut: Cut, run: Run, inputs_kept: bool) -> Candidate | None:
        """Who should run ``run.segment``; None where nobody can, so that the sequence has to start afresh.

        run : its rows are those that just left here. inputs_kept : whether all rows before them are still here too.
        """
        segment = run.segment
        gone = self.standings.gone
        owner = run.visited[segment]
        keeps = cut.kv_bytes[segment] > 0
        tokens = run.settled - run.first if keeps else 0
        end = run.start + run.rows.shape[0]
        options: list[Option] = []
        for agent in cut.holders[segment]:
            if agent in gone:
                continue
            span = range(segment, self.span(cut, segment, agent, owner, run.visited))
            profile = self._profile(cut, span)
            link = self._settings.link(self._name, agent)
            waiting = self.standings.waiting.get(agent, 0)
            state = KVState(
                tokens=tokens,
                profile=profile,
                from_owner=self._link(owner, agent) if owner is not None and owner not in gone else None,
                input_bytes=cut.hidden_bytes if segment else 8,
                from_inputs=link if inputs_kept else None,
                delayed=waiting,
            )
            rows = end - run.settled
            options.append(
                Option(
                    agent,
                    queue_s=self._queue_s(agent) if agent != self._name else 0.0,
                    net_s=link.seconds(rows * (cut.hidden_bytes if segment else 8)) if agent != self._name else 0.0,
                    exec_s=profile.batch_s(rows),
                    state=state,
                    steps=run.steps,
                )
            )
        chosen = choose(weigh(options, owner, self._settings.kv_policy), hysteresis=self._settings.hysteresis)
        if chosen is not None:
            self._sent[run.request] = (chosen.agent, chosen.exec_s)
            if chosen.kv is KVChoice.MOVE and owner is not None:
                state = next(option.state for option in options if option.agent == chosen.agent)
                self._sending_until[owner, chosen.agent] = self._clock() + move_seconds(state)
        return chosen

    def _profile(self, cut: Cut, span: range) -> SegmentProfile:
        """Of segments that follow each other."""
        keys = cut.keys[span.start : span.stop]
        parts = [self._timing.of(cut, i) for i in span]
        known = self._joined.get(keys)
        if known is None or known[0] != parts:
            known = self._joined[keys] = (parts, joined(parts))
        return known[1]

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
