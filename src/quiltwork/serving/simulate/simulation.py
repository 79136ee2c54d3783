"""The simulated run: arrivals, steps of agents, messages, loads; every decision is asked of ``serving/policy``."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from quiltwork.core.errors import BadInputError
from quiltwork.serving.policy.kv import KVChoice
from quiltwork.serving.policy.queueing import Instance, Waiting, WorkClass, next_batch, ration
from quiltwork.serving.simulate.agent import Agent
from quiltwork.serving.simulate.assembling import chosen_app
from quiltwork.serving.simulate.books import Books
from quiltwork.serving.simulate.choosing import Choice, Chooser
from quiltwork.serving.simulate.network import Network
from quiltwork.serving.simulate.outcome import Outcome
from quiltwork.serving.simulate.request import Batch, Running
from quiltwork.serving.simulate.scaling import BATCH, changes
from quiltwork.serving.simulate.world import FRONT, App, Arrival, Cluster, Piece, Placed, Settings

if TYPE_CHECKING:
    from quiltwork.serving.simulate.hearsay import Hearsay

TOKEN_BYTES = 4
"""Of a token's number, which is all that enters a chain."""


def simulate(
    cluster: Cluster, apps: Sequence[App], arrivals: Sequence[Arrival], settings: Settings, placed: Placed
) -> Outcome:
    """Serve ``arrivals`` to the end.

    Parameters
    ----------
    placed : per agent, the segments in its memory at the start (see ``provision``).

    Deterministic: nothing is drawn. Raises BadInputError where a request names no app, or ``placed`` no agent or no
    segment.
    """
    return Simulation(cluster, apps, arrivals, settings, placed).run()


class Simulation:
    """One run of a world under virtual time."""

    def __init__(
        self, cluster: Cluster, apps: Sequence[App], arrivals: Sequence[Arrival], settings: Settings, placed: Placed
    ) -> None:
        self.settings = settings
        self.apps = {app.name: app for app in apps}
        self.pieces = {piece.instance: piece for app in apps for piece in app.route}
        self.agents = {
            d.agent: Agent(d, settings.reserve_share, settings.limits.rows)
            for d in sorted(cluster.devices, key=lambda d: d.agent)
        }
        self.network = Network(cluster, settings.front.link if settings.front is not None else None)
        self.books = Books()
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._open: dict[int, Running] = {}
        self._backlog: dict[int, Running] = {}
        self._best_row_s = {
            instance: min(s / a for a, s in zip(p.profile.rows.amounts, p.profile.rows.seconds, strict=True) if a)
            for instance, p in self.pieces.items()
        }
        for app in apps:
            for name in app.stand_ins:
                if name not in self.apps:
                    raise BadInputError(f"{name!r} is not served and cannot stand in", where=app.name)
        self._chooser = Chooser(self.agents, self.network, settings, self.books)
        self._front_free_at = 0.0
        self._hearsay: Hearsay | None = None
        if settings.front is not None:
            # Not at the top: torch comes with the live agents' dispatcher, and not every world has a front.
            from quiltwork.serving.simulate.hearsay import Hearsay

            self._hearsay = Hearsay(
                self.agents, self.pieces, self.network, settings, settings.front, self.books, lambda: self.now
            )
        for agent, instances in placed.items():
            for instance in instances:
                if agent not in self.agents or instance not in self.pieces:
                    raise BadInputError(f"places {instance} on {agent}, and one of them is unknown", where="placed")
                self.agents[agent].put(self.pieces[instance])
        self._arrivals = sorted(arrivals, key=lambda a: (a.at, a.id))
        if len({a.id for a in arrivals}) < len(arrivals):
            raise BadInputError("two requests of one id", where="arrivals")
        for arrival in self._arrivals:
            if arrival.app not in self.apps:
                raise BadInputError(f"asks for {arrival.app!r}, which is not served", where=f"request {arrival.id}")
            self._at(arrival.at, partial(self._arrive, arrival))

    def run(self) -> Outcome:
        """To the last answer."""
        if self._arrivals and self.settings.replicate:
            self._at(self._arrivals[0].at + self.settings.period_s, self._tick)
        if self._arrivals and self.settings.front is not None:
            self._at(self._arrivals[0].at, self._beat)
        self._to_come, self._idle_looks, self._stepped = len(self._arrivals), 0, False
        while self._events or self._open:
            if not self._events:
                self._yield_one()
                continue
            self.now, _, act = heapq.heappop(self._events)
            act()
        start = self._arrivals[0].at if self._arrivals else 0.0
        return self.books.outcome(list(self.agents.values()), self.network, start)

    def _at(self, time: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time, next(self._order), act))

    # --- requests -----------------------------------------------------------------------------------------------

    def _arrive(self, arrival: Arrival) -> None:
        self._to_come -= 1
        seq = Running.of(arrival, self._assembled(arrival))
        self.books.asked(seq.app, self.now)
        if not self._chooser.could_ever(seq):
            self.books.refuse(seq)
            return
        self._open[arrival.id] = seq
        self._from_front(partial(self._dispatch, seq, None))

    def _from_front(self, act: Callable[[], None]) -> None:
        """Do something at the front when it has done with what came before; at once where there is none."""
        front = self.settings.front
        if front is None:
            act()
            return
        self._front_free_at = max(self._front_free_at, self.now) + front.token_s
        self._at(self._front_free_at, act)

    def _beat(self) -> None:
        """A sign of life of everybody."""
        assert self._hearsay is not None
        assert self.settings.front is not None
        self._hearsay.beat()
        if self._events:
            self._at(self.now + self.settings.front.beat_s, self._beat)

    def _choose(self, seq: Running, source: str | None) -> Choice | None:
        if self._hearsay is not None:
            found = self._hearsay.choose(seq, source or FRONT)
            if found is not None:
                return found
        return self._chooser.choose(seq, source, self.now)

    def _assembled(self, arrival: Arrival) -> App:
        """Whose chain answers a request, from its first token to its last."""
        asked = self.apps[arrival.app]
        if not (self.settings.assemble and asked.stand_ins):
            return asked
        others = [self.apps[name] for name in asked.stand_ins]
        others = [app for app in others if self._chooser.could_ever(Running.of(arrival, app))]
        app = chosen_app(asked, others, arrival, self.agents, self.network, self.settings, self.now)
        self.books.assembled += app is not asked
        return app

    def _dispatch(self, seq: Running, source: str | None) -> None:
        """Send a request to whoever runs its next segment, or put it aside where nobody can now.

        source : the agent that it leaves; None where it comes from the front, or has just arrived.
        """
        if not seq.hop:
            seq.rows = min(seq.pending, self.settings.prefill_chunk)
        seq.again = 0
        at_once = self.settings.kv == "owner" and self.settings.front is None
        if source is not None and at_once and seq.owners[seq.hop] == source and seq.pages[seq.hop]:
            self.books.kv[KVChoice.OWNER] += 1
            self._enqueue(seq, self.agents[source])
            return
        choice = self._choose(seq, source)
        if choice is None:
            self._backlog[seq.arrival.id] = seq
            return
        agent, hop = self.agents[choice.agent], seq.hop
        owner = seq.owners[hop]
        self.books.kv[choice.kv] += 1
        self._load(agent, choice)
        arrives = self.now
        if source is not None and source != choice.agent:
            nbytes = seq.rows * (seq.app.route[hop].profile.hidden_bytes if hop else TOKEN_BYTES)
            arrives = self.network.send(source, choice.agent, nbytes, self.now) + self.settings.hop_s
            self.books.hops += 1
        elif source is None and self._hearsay is not None:
            arrives = self.network.send(FRONT, choice.agent, seq.rows * TOKEN_BYTES, self.now)
        enters = partial(self._enqueue, seq, agent)
        if owner is not None and owner != choice.agent:
            inputs_at = source or (owner if self._hearsay is None else FRONT)
            arrives = max(arrives, self._rehome(seq, owner, choice, inputs_at, arrives, enters))
        self._claim(seq, agent)
        if not seq.pages[hop]:
            agent.promise(seq.arrival.id, self._page_bytes(seq, agent))
        if self.now < arrives < float("inf"):
            self._at(arrives, enters)
        elif arrives <= self.now:
            enters()

    def _rehome(
        self, seq: Running, owner: str, choice: Choice, source: str, arrives: float, enters: Callable[[], None]
    ) -> float:
        """Another agent takes a request's run of segments over; returns when their keys and values are there.

        Infinite where that hangs on when the agents come to read each other's letters: then ``enters`` is done when
        they are. arrives : when the request is there itself.
        """
        old, new = self.agents[owner], self.agents[choice.agent]
        end, last = seq.hop + 1, seq.run_end(seq.hop)
        while end < last and new.has(seq.app.route[end]):
            end += 1
        arrived = self.now
        held = 0.0
        for hop in range(seq.hop, end):
            held += seq.pages[hop] * self._page_size(seq.app.route[hop])
            self._part(seq, hop)
        if choice.kv is KVChoice.MOVE and held:
            nbytes = seq.computed * sum(p.profile.kv_bytes for p in seq.app.route[seq.hop : end])
            for hop in range(seq.hop, end):
                seq.owners[hop] = choice.agent
            # Until all has arrived both have it.
            new.hold(seq.arrival.id, held)
            self._enter(seq, new, range(seq.hop, end))
            gone = partial(self._give_back, old, seq.arrival.id, held)
            if self._hearsay is None:
                arrived = self.network.send(owner, choice.agent, nbytes, self.now)
                self._at(arrived, gone)
                return arrived

            moved = partial(self._hearsay.moved, owner, choice.agent, nbytes)

            def give(asked: float) -> None:
                there = self.network.send(owner, choice.agent, nbytes, self.now)
                self._at(there, gone)
                self._at(there, partial(moved, there - asked))
                self._at(there, enters)

            def ask() -> None:
                self._at(self.network.send(choice.agent, owner, TOKEN_BYTES, self.now), partial(give, self.now))

            self._at(arrives, partial(self._read, new, ask))
            return float("inf")
        elif held:
            old.release(seq.arrival.id, held)
            for hop in range(seq.hop, end):
                seq.pages[hop] = 0
            seq.again = seq.computed
            nbytes = seq.computed * (seq.app.route[seq.hop].profile.hidden_bytes if seq.hop else TOKEN_BYTES)
            arrived = self.network.send(source, choice.agent, nbytes, self.now)
        return arrived

    def _read(self, agent: Agent, letter: Callable[[], None]) -> None:
        """An agent acts on a letter: now, or after the step that it is in."""
        if agent.busy:
            agent.letters.append(letter)
        else:
            letter()

    def _give_back(self, agent: Agent, id: int, nbytes: float) -> None:
        agent.release(id, nbytes)
        self._start(agent)

    def _claim(self, seq: Running, agent: Agent) -> None:
        """The agent keeps the keys and values of this segment and of those after it that stand there too."""
        hops = []
        for hop in range(seq.hop, len(seq.owners)):
            if seq.owners[hop] is None and agent.has(seq.app.route[hop]):
                seq.owners[hop] = agent.name
                hops.append(hop)
            elif seq.owners[hop] != agent.name:
                break
        self._enter(seq, agent, hops)

    def _enter(self, seq: Running, agent: Agent, hops: Sequence[int] | range) -> None:
        if seq.weight == 0:
            seq.weight = max(seq.pending, 1)
            seq.context = seq.known
        for hop in hops:
            instance = seq.app.route[hop].instance
            agent.users[instance] += 1
            agent.count(instance, seq.weight, seq.context)

    def _part(self, seq: Running, hop: int) -> None:
        """A request no longer runs through a segment at its owner."""
        name = seq.owners[hop]
        if name is None:
            return
        agent, instance = self.agents[name], seq.app.route[hop].instance
        agent.users[instance] -= 1
        agent.count(instance, -seq.weight, -seq.context)
        seq.owners[hop] = None
        if instance in agent.draining and not agent.users[instance]:
            agent.drop(instance)

    def _reweigh(self, seq: Running) -> None:
        weight = max(seq.pending, 1)
        if weight == seq.weight:
            return
        for hop, name in enumerate(seq.owners):
            if name is not None:
                self.agents[name].count(seq.app.route[hop].instance, weight - seq.weight)
        seq.weight = weight

    # --- agents -------------------------------------------------------------------------------------------------

    def _page_size(self, piece: Piece) -> int:
        return piece.profile.kv_bytes * self.settings.page_tokens

    def _page_bytes(self, seq: Running, agent: Agent) -> float:
        """Bytes of pages that the request still needs for its known tokens on an agent, from its segment on."""
        pages = -(-seq.known // self.settings.page_tokens)
        total = 0
        for hop in range(seq.hop, len(seq.owners)):
            if seq.owners[hop] != agent.name:
                break
            total += (pages - seq.pages[hop]) * self._page_size(seq.app.route[hop])
        return total

    def _enqueue(self, seq: Running, agent: Agent) -> None:
        seq.end = seq.run_end(seq.hop)
        need = 0 if seq.pages[seq.hop] * self.settings.page_tokens >= seq.known else self._page_bytes(seq, agent)
        seq.work = Waiting(
            seq.arrival.id,
            seq.app.route[seq.hop].instance,
            seq.work_class if self.settings.priorities else WorkClass.DECODE,
            seq.rows + seq.again,
            self.now,
            int(need),
        )
        seq.waiting_at = agent.name
        agent.waiting[seq.arrival.id] = seq
        if not agent.busy:
            self._start_soon(agent)

    def _start_soon(self, agent: Agent) -> None:
        """Begin a step after all that happens at this moment, so that what arrives together is run together."""
        if not agent.due:
            agent.due = True
            self._at(self.now, partial(self._start, agent))

    def _start(self, agent: Agent) -> None:
        """Begin a step if there is something to do."""
        agent.due = False
        if agent.busy or not agent.waiting:
            return
        seqs = agent.waiting.values()
        if agent.ready_at:
            seqs = [s for s in seqs if not self._loading(s, agent)]  # type: ignore[assignment]
        works = [s.work for s in seqs if s.work is not None]
        if self.settings.slack < float("inf") and any(w.work_class is WorkClass.PREFILL for w in works):
            works = self._rationed(works, agent)
        ids = next_batch(works, self.settings.limits, self.now, free_kv_bytes=agent.free)
        if not ids:
            if works:
                self._unblock(agent)
            return
        batches: dict[Instance, Batch] = {}
        riders: list[Running] = []
        for id in ids:
            seq = agent.waiting.pop(id)
            work = seq.work
            assert work is not None
            if work.kv_bytes:
                self._take_pages(seq, agent)
            seq.waiting_at = seq.work = None
            agent.waits[work.instance].append(self.now - work.since)
            riders.append(seq)
            for piece in seq.app.route[seq.hop : seq.end]:
                batch = batches.get(piece.instance)
                if batch is None:
                    best = self._best_row_s[piece.instance]
                    batch = batches[piece.instance] = Batch(piece.start, piece.profile, best)
                batch.add(seq)
        agent.busy = self._stepped = True
        self._run(agent, batches, riders)

    def _rationed(self, works: Sequence[Waiting], agent: Agent) -> list[Waiting]:
        """The same works; of prompts only as many rows as ride along cheaply."""
        found = ration(works, agent.profiles, self.settings.slack)
        # Rows that are on their way up the chain stay together.
        rations = {id: rows for id, rows in found.items() if not agent.waiting[id].hop}
        for id, rows in rations.items():
            agent.waiting[id].rows = rows
        return [replace(w, rows=rations[w.id]) if w.id in rations else w for w in works]

    def _run(self, agent: Agent, batches: Mapping[Instance, Batch], riders: Sequence[Running]) -> None:
        """Run batches one after the other, the lowest first; whoever rode in them leaves after the last."""
        own = self.settings.step_s + self.settings.piece_s * len(riders)
        at = self.now + own
        agent.began = self.now
        agent.busy_s += own
        agent.steps += 1
        agent.pieces += len(riders)
        for instance, batch in sorted(batches.items(), key=lambda item: (item[1].start, item[0])):
            rows_s = batch.profile.rows.at(batch.rows)
            seconds = batch.profile.batch_s(batch.rows, batch.context, batch.prompt_context)
            seconds += self.settings.attached_share * rows_s * batch.attached_rows / batch.rows
            if batch.start:
                seconds += self.settings.hop_s
            at += seconds
            agent.busy_s += seconds
            filled = max(batch.rows, BATCH)
            agent.work_of[instance] += seconds - rows_s + batch.profile.rows.at(filled) * batch.rows / filled
            agent.useful_s += batch.useful_rows * batch.best_row_s + batch.useful_context_s
            agent.batches += 1
            agent.rows_run += batch.rows
        self._at(at, partial(self._end_step, agent, riders))

    def _end_step(self, agent: Agent, riders: Sequence[Running]) -> None:
        self._leave(agent, riders)
        agent.busy = False
        letters, agent.letters = agent.letters, []
        for letter in letters:
            letter()
        # Last of all at this moment: whoever comes straight back rides in the next step, not in the one after.
        self._start_soon(agent)

    def _leave(self, agent: Agent, seqs: Sequence[Running]) -> None:
        for seq in seqs:
            seq.hop = seq.end
            seq.again = 0
            if seq.hop < len(seq.owners):
                self._dispatch(seq, agent.name)
            elif self._hearsay is None:
                self._advance(seq, agent.name)
            else:
                back = self.network.send(agent.name, FRONT, TOKEN_BYTES, self.now)
                self._at(back, partial(self._come_back, seq))

    def _come_back(self, seq: Running) -> None:
        """What a request's work came to is at the front."""
        assert self._hearsay is not None
        self._hearsay.back(seq)
        self._from_front(partial(self._advance, seq, None))

    def _advance(self, seq: Running, source: str | None) -> None:
        """A request's rows have been through its chain: its next token is drawn, or its next rows are sent."""
        seq.computed += seq.rows
        seq.computed_once = max(seq.computed_once, seq.computed)
        if not seq.pending:
            seq.generated += 1
            seq.known += 1
            seq.lost = False
            if seq.generated == 1:
                seq.first_token = self.now
            if seq.generated == seq.arrival.output_tokens:
                self._finish(seq)
                return
        self._reweigh(seq)
        seq.hop = 0
        self._dispatch(seq, source)

    def _finish(self, seq: Running) -> None:
        del self._open[seq.arrival.id]
        self.books.finish(seq, self.now)
        self._let_go(seq)
        self._retry()

    def _let_go(self, seq: Running) -> None:
        """Free all that a request holds anywhere."""
        for hop, name in enumerate(seq.owners):
            if name is None:
                continue
            agent = self.agents[name]
            if seq.pages[hop]:
                agent.release(seq.arrival.id, seq.pages[hop] * self._page_size(seq.app.route[hop]))
                seq.pages[hop] = 0
            agent.promise(seq.arrival.id, 0.0)
            self._part(seq, hop)
            if not agent.busy and agent.waiting:
                self._start_soon(agent)
        seq.weight = 0

    def _retry(self) -> None:
        """Somebody's going may be what those put aside have waited for."""
        for id in list(self._backlog):
            seq = self._backlog.pop(id)
            self._dispatch(seq, None)
            if id in self._backlog:
                return

    # --- memory -------------------------------------------------------------------------------------------------

    def _take_pages(self, seq: Running, agent: Agent) -> None:
        pages = -(-seq.known // self.settings.page_tokens)
        agent.promise(seq.arrival.id, 0.0)
        for hop in range(seq.hop, seq.end):
            more = (pages - seq.pages[hop]) * self._page_size(seq.app.route[hop])
            if more:
                agent.hold(seq.arrival.id, more)
            seq.pages[hop] = pages
        self.books.peak_kv = max(self.books.peak_kv, sum(a.kv_bytes for a in self.agents.values()))

    def _unblock(self, agent: Agent) -> None:
        """Nothing that waits can have its pages: the youngest gives its own back, or idle weights go."""
        holding = [s for s in agent.waiting.values() if s.arrival.id in agent.held]
        if len(agent.held) > 1 and holding:
            self._preempt(max(holding, key=lambda s: (s.arrival.at, s.arrival.id)))
            return
        if agent.held and not holding:
            return  # who holds pages is on its way through other agents, and comes back
        first = min(agent.waiting.values(), key=lambda s: (s.arrival.at, s.arrival.id))
        assert first.work is not None
        victims = agent.droppable(first.work.kv_bytes + agent.promised_bytes, self.books.rates(self.now))
        if victims:
            for instance in victims:
                agent.drop(instance)
                self.books.evictions += 1
            self._start(agent)
        else:
            self._preempt(first)

    def _preempt(self, seq: Running) -> None:
        """A waiting request gives back all it holds, and is computed again later."""
        assert seq.waiting_at is not None
        agent = self.agents[seq.waiting_at]
        del agent.waiting[seq.arrival.id]
        seq.waiting_at = seq.work = None
        self._let_go(seq)
        seq.hop = seq.computed = 0
        seq.preempted += 1
        seq.lost = True
        self.books.preemptions += 1
        if seq.preempted > MOST_PREEMPTIONS:
            del self._open[seq.arrival.id]
            self.books.refuse(seq)
        else:
            self._backlog[seq.arrival.id] = seq
            self._at(self.now, self._retry)
        self._start_soon(agent)

    def _yield_one(self) -> None:
        """Everybody waits for what another holds: the youngest gives its pages back, or is told no."""
        waiting = [s for s in self._open.values() if s.waiting_at is not None]
        if waiting:
            self._preempt(max(waiting, key=lambda s: (s.arrival.at, s.arrival.id)))
            return
        seq = max(self._backlog.values(), key=lambda s: (s.arrival.at, s.arrival.id))
        del self._backlog[seq.arrival.id], self._open[seq.arrival.id]
        self._let_go(seq)
        self.books.refuse(seq)

    def _loading(self, seq: Running, agent: Agent) -> bool:
        return any(piece.instance in agent.ready_at for piece in seq.app.route[seq.hop : seq.end])

    def _load(self, agent: Agent, choice: Choice) -> None:
        """Drop what the choice says must go, and load what it says must come."""
        for instance in choice.drop:
            agent.drop(instance)
            self.books.evictions += 1
        for piece in choice.load:
            self._bring(agent, piece)

    def _bring(self, agent: Agent, piece: Piece) -> None:
        begin = max(self.now, agent.load_free_at)
        agent.load_free_at = ready = begin + piece.profile.load_s
        agent.put(piece, ready)
        self.books.loads += 1
        self.books.loaded_bytes += piece.profile.weight_bytes
        self._at(ready, partial(self._ready, agent, piece.instance))

    def _ready(self, agent: Agent, instance: Instance) -> None:
        agent.ready(instance)
        self._start(agent)
        self._retry()

    def _tick(self) -> None:
        """Look at the replicas: who needs one more, who one less."""
        for change in changes(self.agents, self.pieces, self.apps.values(), self.settings):
            agent = self.agents[change.agent]
            if change.add:
                self.books.added += 1
                self._bring(agent, self.pieces[change.instance])
            else:
                self.books.retired += 1
                agent.drain(change.instance)
        self.books.peak_weights = max(self.books.peak_weights, sum(a.weight_bytes for a in self.agents.values()))
        self._retry()
        self._idle_looks = 0 if self._stepped or self._to_come else self._idle_looks + 1
        self._stepped = False
        if (self._open or self._to_come) and self._idle_looks < MOST_IDLE_LOOKS:
            self._at(self.now + self.settings.period_s, self._tick)


MOST_IDLE_LOOKS = 100
"""After so many looks at the replicas without a step in between nobody will ever go on by himself."""
MOST_PREEMPTIONS = 100
"""A request that was put back so often will never fit."""
