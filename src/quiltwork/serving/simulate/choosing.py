"""Gathers what ``policy.dispatch`` needs to know of every agent, and asks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quiltwork.serving.policy.admission import Coming, Spot, admit
from quiltwork.serving.policy.cost import Link, SegmentProfile, joined
from quiltwork.serving.policy.dispatch import Candidate, Option, choose, weigh
from quiltwork.serving.policy.kv import KVChoice, KVState
from quiltwork.serving.policy.queueing import Instance
from quiltwork.serving.simulate.agent import Agent
from quiltwork.serving.simulate.books import Books
from quiltwork.serving.simulate.network import Network
from quiltwork.serving.simulate.request import Running
from quiltwork.serving.simulate.world import App, Piece, Settings

TOKEN_BYTES = 4
"""Of a token's number, which is all that enters a chain."""


@dataclass(frozen=True)
class Choice:
    """Where a request's next segment runs, how its keys and values get there, and what has to be loaded for it."""

    agent: str
    kv: KVChoice
    load: tuple[Piece, ...] = ()
    drop: tuple[Instance, ...] = ()


class Chooser:
    """Dispatch by cost over the agents of a world; keeps joined profiles, nothing else."""

    def __init__(self, agents: Mapping[str, Agent], network: Network, settings: Settings, books: Books) -> None:
        self._agents, self._network, self._settings, self._books = agents, network, settings, books
        self._joined: dict[tuple[str, int, int], SegmentProfile] = {}
        self._runs: dict[tuple[str, int, int], tuple[SegmentProfile, float, Sequence[Agent]]] = {}
        self._version = -1
        self._turn = 0

    def could_ever(self, seq: Running) -> bool:
        """Whether every segment with all the request's keys and values fits some agent, and may come to stand there."""
        tokens = seq.arrival.prompt_tokens + seq.arrival.output_tokens + self._settings.page_tokens
        for piece in seq.app.route:
            need = piece.profile.weight_bytes + tokens * piece.profile.kv_bytes
            if not any(
                a.capacity >= need and (self._settings.swap or piece.instance in a.resident)
                for a in self._agents.values()
            ):
                return False
        return True

    def choose(self, seq: Running, source: str | None, now: float) -> Choice | None:
        """The choice for a request's next segment; None where none is possible now."""
        owner = seq.owners[seq.hop]
        if owner is not None:
            return self._with_owner(seq, self._agents[owner], source, now)
        return self._anew(seq, source, now)

    def profile(self, app: App, start: int, end: int) -> SegmentProfile:
        """Of a run of an app's segments."""
        key = (app.name, start, end)
        found = self._joined.get(key)
        if found is None:
            found = self._joined[key] = joined([piece.profile for piece in app.route[start:end]])
        return found

    # --- somebody holds its keys and values -----------------------------------------------------------------------

    def _with_owner(self, seq: Running, owner: Agent, source: str | None, now: float) -> Choice:
        stay = Choice(owner.name, KVChoice.OWNER)
        settings, tokens = self._settings, seq.computed
        if settings.kv == "owner" or not tokens:
            return stay
        end = seq.run_end(seq.hop)
        run, best_row_s, holders = self._run(seq.app, seq.hop, end)
        exec_s = run.rows.at(seq.rows)
        net_s = self._net_s(seq, source, owner.name)
        queue_s = owner.queue_s_for(seq)
        cost = queue_s + net_s + exec_s
        # Whoever's queue and quickest way to the keys and values cost more than this is not worth a closer look.
        bound = cost * (1 - settings.hysteresis) - exec_s
        if settings.kv == "best":
            bound -= min(tokens * run.kv_bytes / self._network.fastest, tokens * best_row_s)
        need = max(seq.pages[seq.hop : end]) * settings.page_tokens * run.kv_bytes
        options = [
            Option(
                agent.name,
                queue_s=agent.queue_s,
                net_s=self._net_s(seq, source, agent.name),
                exec_s=exec_s,
                state=self.kv_state(seq, run, owner.name, agent, now),
            )
            for agent in holders
            if agent.queue_s < bound and agent is not owner and agent.free - agent.promised_bytes >= need
        ]
        if not options:
            return stay
        options.append(Option(owner.name, queue_s, net_s, exec_s, self.kv_state(seq, run, owner.name, owner, now)))
        best = choose(weigh(options, owner.name, settings.kv), hysteresis=settings.hysteresis)
        return stay if best is None else Choice(best.agent, best.kv)

    def _run(self, app: App, start: int, end: int) -> tuple[SegmentProfile, float, Sequence[Agent]]:
        """A run of an app's segments: its profile, its seconds per row at best, and who has all of it ready."""
        version = sum(agent.version for agent in self._agents.values())
        if version != self._version:
            self._version = version
            self._runs.clear()
        found = self._runs.get((app.name, start, end))
        if found is None:
            pieces, profile = app.route[start:end], self.profile(app, start, end)
            rows = profile.rows
            best = min(s / a for a, s in zip(rows.amounts, rows.seconds, strict=True) if a)
            holders = [
                agent
                for agent in self._agents.values()
                if all(agent.has(piece) and piece.instance not in agent.ready_at for piece in pieces)
            ]
            found = self._runs[app.name, start, end] = (profile, best, holders)
        return found

    def kv_state(self, seq: Running, run: SegmentProfile, owner: str, agent: Agent, now: float) -> KVState:
        """What is known of a request's keys and values, for an agent that does not hold them.

        A segment's inputs are kept where they came from: token ids at the chain's start, hidden states at its cuts.
        """
        hop = seq.hop
        before = seq.owners[hop - 1] if hop else None
        return KVState(
            tokens=seq.computed,
            profile=run,
            from_owner=self._network.link_now(owner, agent.name, now),
            input_bytes=run.hidden_bytes if hop else TOKEN_BYTES,
            from_inputs=self._network.link(before or owner, agent.name),
            delayed=len(agent.waiting),
        )

    # --- nobody does ----------------------------------------------------------------------------------------------

    def _anew(self, seq: Running, source: str | None, now: float) -> Choice | None:
        rest = self.profile(seq.app, seq.hop, len(seq.app.route))
        exec_s = rest.rows.at(seq.rows)
        piece = seq.app.route[seq.hop]
        candidates: list[Candidate] = []
        roomy: list[Candidate] = []
        for agent in self._agents.values():
            if not agent.has(piece):
                continue
            ready = max((t for i, t in agent.ready_at.items() if i == piece.instance), default=now)
            onward, here = self._onward_s(seq, agent)
            candidate = Candidate(
                agent.name,
                queue_s=agent.queue_s,
                load_s=max(ready - now, 0.0),
                net_s=self._net_s(seq, source, agent.name) + onward,
                exec_s=exec_s,
                kv=KVChoice.NONE,
            )
            candidates.append(candidate)
            if agent.free - agent.promised_bytes >= here * seq.known:
                roomy.append(candidate)
        # Who has no pages to spare is asked only where nobody has.
        candidates = roomy or candidates
        loads: dict[str, Choice] = {}
        if self._settings.swap and not roomy:
            for agent in self._agents.values():
                loaded = self._loading(seq, agent, source, now, exec_s)
                if loaded is not None:
                    candidates = [c for c in candidates if c.agent != agent.name]
                    candidates.append(loaded[0])
                    loads[agent.name] = loaded[1]
        if not candidates:
            return None
        if not self._settings.by_cost:
            self._turn += 1
            best: Candidate | None = candidates[self._turn % len(candidates)]
        else:
            best = self._cheapest(seq, candidates)
        if best is None:
            return None
        return loads.get(best.agent) or Choice(best.agent, best.kv)

    def _cheapest(self, seq: Running, candidates: Sequence[Candidate]) -> Candidate | None:
        if self._settings.admission == "moment":
            return choose(candidates, hysteresis=self._settings.hysteresis)
        expected = self._books.output_tokens(self._settings.output_tokens) - seq.generated
        coming = Coming(
            [(p.instance, p.profile) for p in seq.app.route[seq.hop :]],
            rows=seq.pending,
            tokens=max(expected, 1.0),
            chunk=self._settings.prefill_chunk,
        )
        spots = [
            Spot(c.agent, self._agents[c.agent].use(), self._agents[c.agent].sequences, c.net_s, c.load_s)
            for c in candidates
        ]
        spot = admit(spots, coming, power=self._settings.power)
        return None if spot is None else next(c for c in candidates if c.agent == spot.agent)

    def _onward_s(self, seq: Running, agent: Agent) -> tuple[float, int]:
        """Seconds to get from an agent to the rest of the chain where it has only a part, and its bytes per token."""
        route, end, kv_bytes = seq.app.route, seq.hop, 0
        while end < len(route) and agent.has(route[end]):
            kv_bytes += route[end].profile.kv_bytes
            end += 1
        if end == len(route):
            return 0.0, kv_bytes
        nbytes = seq.rows * route[end].profile.hidden_bytes
        others = [
            self._network.link(agent.name, a.name).seconds(nbytes) + self._settings.hop_s + a.queue_s
            for a in self._agents.values()
            if a is not agent and a.has(route[end])
        ]
        # Where the rest is nowhere yet it will have to be loaded, wherever the request is.
        return min(others, default=route[end].profile.load_s), kv_bytes

    def _loading(
        self, seq: Running, agent: Agent, source: str | None, now: float, exec_s: float
    ) -> tuple[Candidate, Choice] | None:
        """Loading the rest of the chain on an agent, if it can make room for it."""
        missing = tuple(p for p in seq.app.route[seq.hop :] if not agent.has(p))
        if not missing or any(p.instance in agent.draining for p in missing):
            return None
        load_s = sum(p.profile.load_s for p in missing)
        rest = self.profile(seq.app, seq.hop, len(seq.app.route))
        need = sum(p.profile.weight_bytes for p in missing) + seq.known * rest.kv_bytes
        drop = agent.droppable(need, self._books.rates(now))
        if drop is None or any(p.instance in drop for p in seq.app.route):
            return None
        candidate = Candidate(
            agent.name,
            queue_s=agent.queue_s,
            load_s=max(agent.load_free_at - now, 0.0) + load_s,
            net_s=self._net_s(seq, source, agent.name),
            exec_s=exec_s,
            kv=KVChoice.NONE,
        )
        return candidate, Choice(agent.name, KVChoice.NONE, missing, drop)

    def _net_s(self, seq: Running, source: str | None, target: str) -> float:
        if source is None or source == target:
            return 0.0
        link: Link = self._network.link(source, target)
        nbytes = seq.rows * (seq.app.route[seq.hop].profile.hidden_bytes if seq.hop else TOKEN_BYTES)
        return link.seconds(nbytes) + self._settings.hop_s
