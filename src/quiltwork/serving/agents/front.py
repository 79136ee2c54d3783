"""The front of several agents: where requests enter, tokens are drawn, and what was lost is sent again.

It stands where the one-process engine stands and is used the same way. What cannot be made again (the tokens so far,
random numbers, grammars) is here; agents hold only what can.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Protocol

import torch

from quiltwork.core.errors import BadInputError, CapacityError, NotFoundError, QuiltworkError, UnsupportedError
from quiltwork.core.names import ModelRef
from quiltwork.layers.protocol import PAGE_TOKENS
from quiltwork.serving.agents.dispatching import Dispatcher
from quiltwork.serving.agents.layout import Cut, cut_of
from quiltwork.serving.agents.message import (
    FRONT,
    Beat,
    Failed,
    Forget,
    Lack,
    Laid,
    Lay,
    Message,
    Output,
    Release,
    Run,
    Standings,
)
from quiltwork.serving.agents.placing import Plan, plan
from quiltwork.serving.agents.scaling import Lately, between, changed, changes
from quiltwork.serving.agents.serve import BEAT_S, Mailbox
from quiltwork.serving.agents.settings import AgentSettings
from quiltwork.serving.agents.timing import Timing
from quiltwork.serving.config import EngineConfig
from quiltwork.serving.engine import EngineStats
from quiltwork.serving.execute import BatchRecord, Work
from quiltwork.serving.fairness import Turns
from quiltwork.serving.kv import KVCounters
from quiltwork.serving.ledger import Ledger
from quiltwork.serving.policy.kv import KVChoice
from quiltwork.serving.policy.placement import Place, gone
from quiltwork.serving.policy.queueing import Instance, WorkClass
from quiltwork.serving.prefix import extend_hashes
from quiltwork.serving.report import report_prompt
from quiltwork.serving.roster import MAX_LEN_KEYS, placement
from quiltwork.serving.sampling import Sampled, sample
from quiltwork.serving.schedule import Job
from quiltwork.serving.sequence import Emission
from quiltwork.serving.sequence import Sequence as TokenSequence
from quiltwork.serving.trace import Trace
from quiltwork.serving.waiting import WaitingRoom
from quiltwork.serving.weights import Read
from quiltwork.zoo.types import Chain

LOAD_SECONDS = 600.0
"""How long agents may take to load a model before that counts as a failure."""
WAIT_SECONDS = 0.05
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


@dataclass(frozen=True, eq=False)
class Laying:
    """One version of a model, cut and held one way. A sequence stays with the one it started on."""

    id: int
    chain: Chain
    plan: Plan
    cut: Cut


@dataclass(eq=False)
class Placed:
    """One version of a model on the agents. Replaced, never changed, by an upgrade."""

    ref: ModelRef
    chain: Chain
    max_len: int
    virtual_tokens: int
    vocab_size: int
    weight_bytes: int
    copies_prefix: bool
    laying: Laying | None = None
    running: int = 0
    retired: bool = False

    @property
    def route(self) -> tuple[Instance, ...]:
        """Its segments."""
        return self.laying.plan.keys if self.laying is not None else ()

    @property
    def now(self) -> Laying:
        """How it is laid now; only a prepared model is."""
        assert self.laying is not None
        return self.laying


@dataclass(frozen=True)
class _Lost:
    """A letter to the front itself: an agent has ended or fallen silent."""

    name: str


@dataclass(frozen=True)
class _Back:
    """A letter to the front itself: an agent is back, with everything loaded that it is to hold."""

    name: str


Letter = Message | _Lost | _Back


@dataclass(eq=False)
class _Flight:
    """A sequence on its way through the agents."""

    seq: TokenSequence
    placed: Placed
    laying: Laying
    first: int
    epoch: int = 1
    visited: list[str | None] = field(default_factory=list)
    flying: tuple[int, int] | None = None
    """First row and the position behind the last one of what is under way."""
    stalled: bool = False
    """Whether nobody can take what is to be sent just now."""
    lacked: int = 0
    """How often in a row something was missing for what is under way."""


class AgentEngine:
    """Serves chains through agents. All methods but ``prepare`` and ``wake`` belong to one thread.

    Parameters
    ----------
    crew : the agents; closed with this.
    clock : seconds.
    restart : whether an agent that died is started anew.
    """

    def __init__(
        self,
        config: EngineConfig,
        crew: Crew,
        clock: Callable[[], float],
        settings: AgentSettings | None = None,
        *,
        restart: bool = True,
    ) -> None:
        self.config, self.clock = config, clock
        self.settings = settings or AgentSettings()
        self.placement = placement(config)
        self._width = torch.empty((), dtype=self.placement.dtype).element_size()
        self._crew, self._restart = crew, restart
        self._dispatcher = Dispatcher(FRONT, self.settings, Timing(self.settings.profiles))
        self._inbox: queue.SimpleQueue[Letter | None] = queue.SimpleQueue()
        self._place_lock = threading.Lock()
        self._models: dict[ModelRef, Placed] = {}
        self._laid: dict[tuple[int, str], queue.SimpleQueue[Laid]] = {}
        self._layings: dict[int, Laying] = {}
        self._layout_ids = count(1)
        self._flights: dict[int, _Flight] = {}
        self._waiting = WaitingRoom(self._payer)
        self._ledger = Ledger(config.entitlements)
        self._sequences: dict[int, TokenSequence] = {}
        self._placed_of: dict[int, Placed] = {}
        self._beats: dict[str, Beat] = {}
        self._seen: dict[str, float] = {}
        self._gone: set[str] = set()
        self._deaths = dict.fromkeys(crew.names, 0)
        self._told = 0.0
        self._prompt_tokens = self._generated = self._cached = self._preemptions = self._resent = 0
        self._looked: tuple[float, dict[str, Beat]] = (clock(), {})
        self._rebalancing = threading.Event()
        self.complaints: deque[str] = deque(maxlen=100)
        self._closed = threading.Event()
        self._listener = threading.Thread(target=self._listen, name="quiltwork-front", daemon=True)
        self._listener.start()

    # --- letters ------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        while not self._closed.is_set():
            self._notice_gone()
            self._look_at_loads()
            try:
                letters = self._crew.mailbox.receive(0.1)
            except QuiltworkError as error:
                self.complaints.append(str(error))
                continue
            for message in letters:
                if isinstance(message, Beat):
                    self._beats[message.agent] = message
                    self._seen[message.agent] = self.clock()
                elif isinstance(message, Laid):
                    waiting = self._laid.get((message.layout, message.agent))
                    if waiting is not None:
                        waiting.put(message)
                else:
                    self._inbox.put(message)

    def _send(self, to: str, message: Message) -> None:
        self._crew.mailbox.send(to, message)

    def wake(self) -> None:
        """Let a step that waits for letters return."""
        self._inbox.put(None)

    def close(self) -> None:
        """End the agents."""
        self._closed.set()
        self._listener.join()
        self._crew.close()

    # --- models -------------------------------------------------------------------------------------------------

    def prepare(self, chain: Chain, read: Read) -> Placed:
        """Have the agents load what a chain needs, and cut and place all models anew with it. Any thread.

        Raises CapacityError where it fits nowhere, UnsupportedError naming what cannot be executed.
        """
        placed = _describe(chain, self.config.max_model_len)
        with self._place_lock:
            known = {ref: other for ref, other in self._models.items() if ref != placed.ref}
            self._lay_all({**known, placed.ref: placed})
        return placed

    def _lay_all(self, models: Mapping[ModelRef, Placed]) -> None:
        """Cut and place models; whoever's cut or holders change is laid anew."""
        present: dict[Instance, tuple[str, ...]] = {}
        for other in self._models.values():
            present |= dict(zip(other.now.plan.keys, other.now.plan.holders, strict=True))
        plans = plan({ref: placed.chain for ref, placed in models.items()}, self._places(), present)
        self._lay_out(
            {
                placed: plans[ref]
                for ref, placed in models.items()
                if placed.laying is None or placed.laying.plan != plans[ref]
            }
        )

    def lay_out(self, ref: ModelRef, holders: tuple[tuple[str, ...], ...]) -> None:
        """Have a model's segments held by these agents, whatever placement would say. Any thread.

        Raises NotFoundError, CapacityError where an agent cannot load its part.
        """
        with self._place_lock:
            placed = self._find(ref)
            self._lay_out({placed: replace(placed.now.plan, holders=holders)})

    def _lay_out(self, changed: Mapping[Placed, Plan]) -> None:
        """Give models new layouts, loaded before they are used; sequences that run finish on the old ones."""
        ids: list[int] = []
        try:
            for placed, planned in changed.items():
                ids.append(next(self._layout_ids))
                self._lay(ids[-1], placed.chain, planned)
        except BaseException:
            for id in ids:
                self._broadcast(Forget(id))
            raise
        for id, (placed, planned) in zip(ids, changed.items(), strict=True):
            cut = cut_of(placed.chain, planned.bounds, planned.holders, self._width)
            self._layings[id] = placed.laying = Laying(id, placed.chain, planned, cut)
        self.wake()

    def _lay(self, id: int, chain: Chain, planned: Plan, *, only: str | None = None) -> None:
        """Have every holder (or ``only`` one) load its part, and wait until all have."""
        asked = sorted({agent for holders in planned.holders for agent in holders if only in (None, agent)})
        deaths = dict(self._deaths)
        answers: dict[str, queue.SimpleQueue[Laid]] = {}
        for agent in asked:
            answers[agent] = self._laid[id, agent] = queue.SimpleQueue()
        message = Lay(id, str(chain.model.ref), chain.model.version, planned.bounds, planned.holders)
        try:
            for agent in asked:
                self._send(agent, message)
            for agent in asked:
                answer = self._answer(answers[agent], agent, deaths[agent])
                if answer.error:
                    raise CapacityError(answer.error, where=str(chain.model.ref))
        finally:
            for agent in asked:
                del self._laid[id, agent]

    def _answer(self, letters: queue.SimpleQueue[Laid], agent: str, deaths: int) -> Laid:
        until = self.clock() + LOAD_SECONDS
        while self.clock() < until:
            try:
                return letters.get(timeout=WAIT_SECONDS)
            except queue.Empty:
                if self._deaths[agent] != deaths:
                    break
        raise CapacityError(f"agent {agent} did not load it", where="agents", hint="see the agent's log")

    def _look_at_loads(self) -> None:
        """Now and then: add replicas of segments that are too busy, retire those that are not needed any more."""
        since, before = self._looked
        now = self.clock()
        period = self.settings.rebalance_s
        if not period or now - since < period or self._rebalancing.is_set():
            return
        beats = dict(self._beats)
        self._looked = (now, beats)
        lately = {
            name: between(before[name], beat, now - since)
            for name, beat in beats.items()
            if name in before and beat.steps >= before[name].steps
        }
        if len(self._crew.names) > 1 and lately:
            self._rebalancing.set()
            threading.Thread(target=self._rebalance, args=(lately,), daemon=True).start()

    def _rebalance(self, lately: Mapping[str, Lately]) -> None:
        try:
            with self._place_lock:
                current = {placed: placed.now.plan for placed in self._models.values()}
                wanted = changes(
                    list(current.values()), self._nbytes(), lately, self._free_bytes(),
                    wait_limit_s=self.settings.wait_limit_s,
                )  # fmt: skip
                moved = {placed: changed(plan, wanted) for placed, plan in current.items()}
                self._lay_out(
                    {
                        placed: replace(current[placed], holders=holders)
                        for placed, holders in moved.items()
                        if holders != current[placed].holders
                    }
                )
        except QuiltworkError as error:
            self.complaints.append(f"replicas: {error}")
        finally:
            self._rebalancing.clear()

    def _nbytes(self) -> dict[Instance, float]:
        """Bytes of every segment in use, attachments of all its models included."""
        found: dict[Instance, float] = {}
        for placed in self._models.values():
            for key, a, b in zip(placed.route, placed.now.plan.bounds, placed.now.plan.bounds[1:], strict=False):
                links = placed.chain.links[a:b]
                bare = sum(part.block.nbytes for part in links)
                found[key] = max(found.get(key, 0.0), bare) + sum(x.nbytes for part in links for x in part.attachments)
        return found

    def _free_bytes(self) -> dict[str, float]:
        """Bytes of weights that an agent could still take."""
        free: dict[str, float] = {}
        for place in self._places():
            beat = self._beats.get(place.agent)
            if beat is not None:
                free[place.agent] = place.memory_bytes - beat.weight_bytes
        return free

    def _places(self) -> list[Place]:
        memory = float("inf")
        if self.config.memory_bytes is not None:
            memory = 0.9 * self.config.memory_bytes / len(self._crew.names)
        return [Place(name, memory) for name in self._crew.names if name not in self._gone]

    def _forget_layings(self) -> None:
        """Let agents forget layouts that neither a model nor a sequence uses any more."""
        with self._place_lock:
            current = {placed.laying for placed in self._placed_of.values()}
            current |= {placed.laying for placed in self._models.values()}
            current |= {flight.laying for flight in self._flights.values()}
            for id in [id for id, laying in self._layings.items() if laying not in current]:
                del self._layings[id]
                self._broadcast(Forget(id))

    def _broadcast(self, message: Message) -> None:
        for name in self._crew.names:
            if name not in self._gone:
                self._send(name, message)

    def install(self, placed: Placed) -> None:
        """Serve a prepared chain under its name from now on; running sequences of an old version finish on it."""
        with self._place_lock:
            old = self._models.get(placed.ref)
            self._models[placed.ref] = placed
        if old is not None and old is not placed:
            old.retired = True
        self._forget_layings()

    def unload(self, ref: ModelRef) -> None:
        """Take no new sequences for a model. Raises NotFoundError."""
        with self._place_lock:
            placed = self._models.pop(ref, None)
        if placed is None:
            raise NotFoundError(f"{ref} is not loaded", where="model")
        placed.retired = True
        self._forget_layings()

    def draft_with(self, model: ModelRef, draft: ModelRef | None) -> None:
        """Raises UnsupportedError for any draft: a chain that is spread over agents does not speculate."""
        if draft is not None:
            raise UnsupportedError(f"{draft} cannot draft for {model}: agents do not speculate", where="drafts")

    def _find(self, ref: ModelRef) -> Placed:
        placed = self._models.get(ref)
        if placed is None:
            raise NotFoundError(f"{ref} is not loaded", where="model")
        return placed

    def room(self, ref: ModelRef) -> int:
        """Tokens of prompt and answer that one sequence may have. Raises NotFoundError."""
        placed = self._find(ref)
        return min(placed.max_len, self._fits(placed)) - placed.virtual_tokens

    def _fits(self, placed: Placed) -> int:
        """Tokens whose keys and values fit the agents that hold a model, each having only this sequence."""
        most = 1 << 60
        for agent, per_token in self._kv_at(placed).items():
            beat = self._beats.get(agent)
            capacity = beat.kv_capacity if beat is not None else self.config.kv_bytes // len(self._crew.names)
            if per_token:
                most = min(most, capacity // (per_token * PAGE_TOKENS) * PAGE_TOKENS)
        return most

    def _kv_at(self, placed: Placed) -> dict[str, int]:
        """Bytes per token at the first holder of each segment."""
        found: dict[str, int] = {}
        for holders, nbytes in zip(placed.now.cut.holders, placed.now.cut.kv_bytes, strict=True):
            found[holders[0]] = found.get(holders[0], 0) + nbytes
        return found

    # --- sequences ----------------------------------------------------------------------------------------------

    def add(self, seq: TokenSequence) -> None:
        """Queue a sequence. Raises NotFoundError, BadInputError or CapacityError as the engine's."""
        placed = self._find(seq.model)
        if not seq.prompt:
            raise BadInputError("the prompt has no tokens", where="prompt")
        if min(seq.prompt) < 0 or max(seq.prompt) >= placed.vocab_size:
            raise BadInputError(f"token ids must be in [0, {placed.vocab_size})", where="prompt")
        total = placed.virtual_tokens + len(seq.prompt) + seq.max_tokens
        if total > placed.max_len:
            raise BadInputError(
                f"{len(seq.prompt)} prompt tokens and max_tokens {seq.max_tokens} exceed the model's {placed.max_len}",
                where="max_tokens",
            )
        if total > self._fits(placed):
            raise CapacityError(f"{total} tokens do not fit the KV memory", where="max_tokens", hint="raise --memory")
        placed.running += 1
        self._placed_of[seq.id] = placed
        seq.tokens = [-1 - i for i in range(placed.virtual_tokens)] + list(seq.prompt)
        seq.prompt_len = len(seq.tokens)
        self._prompt_tokens += len(seq.prompt)
        self._sequences[seq.id] = seq
        seq.version = placed
        if seq.explain:
            seq.trace = Trace(self.clock)
        if self._payer(seq) not in self._waiting:
            self._ledger.arrives(self._payer(seq), self._waiting.lines, self._waiting.last)
        self._waiting.append(seq)

    def _payer(self, seq: TokenSequence) -> str:
        return seq.tenant if self.config.tenant_fairness else ""

    def cancel(self, sequence_id: int) -> None:
        """Forget a sequence and free all that is held for it; harmless if it has ended."""
        placed = self._placed_of.pop(sequence_id, None)
        if placed is None:
            return
        seq = self._sequences.pop(sequence_id)
        self._dispatcher.back(sequence_id)
        flight = self._flights.pop(sequence_id, None)
        if flight is not None:
            self._broadcast(Release(sequence_id))
        else:
            self._waiting.remove(seq)
        placed.running -= 1
        if len(self._layings) > len(self._models):
            self._forget_layings()

    @property
    def has_work(self) -> bool:
        """Whether a step would do something."""
        return bool(self._placed_of)

    def step(self) -> list[Emission]:
        """Send what can be sent, wait for a letter, draw tokens from what came back."""
        self._tell()
        self._admit()
        for stalled in [flight for flight in self._flights.values() if flight.stalled]:
            self._launch(stalled, WorkClass.VERIFY)
        outputs: list[tuple[_Flight, Output]] = []
        emissions: list[Emission] = []
        for message in self._letters():
            match message:
                case Output():
                    flight = self._flights.get(message.request)
                    if flight is not None and message.epoch == flight.epoch and flight.flying is not None:
                        outputs.append((flight, message))
                case Lack():
                    self._again(message)
                case Failed():
                    emissions += self._failed(message)
                case _Lost():
                    self._tell(force=True)
                    for flight in list(self._flights.values()):
                        self._miss(flight, message.name)
                case _Back():
                    self._tell(force=True)
        with torch.inference_mode():
            emissions += self._finish(outputs)
        return emissions

    def _letters(self) -> list[Letter]:
        letters: list[Letter] = []
        try:
            first = self._inbox.get(timeout=WAIT_SECONDS)
            letters += [first] if first is not None else []
            while True:
                more = self._inbox.get_nowait()
                letters += [more] if more is not None else []
        except queue.Empty:
            return letters

    # --- starting and sending -----------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Start waiting sequences while there are seats and pages, in order."""
        held: dict[str, int] = {}
        for flight in self._flights.values():
            for agent, nbytes in self._needs(flight.placed, len(flight.seq.tokens)).items():
                held[agent] = held.get(agent, 0) + nbytes
        while len(self._waiting) and len(self._flights) < self.config.max_num_seqs:
            seq = self._next()
            placed = self._placed_of[seq.id]
            need = self._needs(placed, len(seq.tokens) + PAGE_TOKENS)
            if self._flights and any(
                held.get(agent, 0) + nbytes > self._beats[agent].kv_capacity
                for agent, nbytes in need.items()
                if agent in self._beats
            ):
                return
            for agent, nbytes in need.items():
                held[agent] = held.get(agent, 0) + nbytes
            self._waiting.remove(seq)
            if seq.trace is not None:
                seq.trace.enter("prefill")
            first = placed.virtual_tokens if placed.copies_prefix else 0
            flight = _Flight(seq, placed, placed.now, first, visited=[None] * len(placed.route))
            flight.epoch = seq.departures + 1
            seq.departures += 1
            seq.computed = first
            extend_hashes(seq)
            self._flights[seq.id] = flight
            self._send_next(flight)

    def _next(self) -> TokenSequence:
        """Who starts next: the tenant that was served least, then whoever of it came first."""
        running = [self._job(f.seq) for f in self._flights.values() if f.seq.pending > 1]
        heads = [self._job(seq) for seq in self._waiting.heads(1)]
        turns = Turns(running, heads, self._ledger.standings({}, 0))
        newcomers = {job.id for job in heads}
        while (taken := turns.take(newcomers=True)) is not None:
            if taken[0].id in newcomers:
                return self._sequences[taken[0].id]
        raise QuiltworkError("nobody waits")

    def _job(self, seq: TokenSequence) -> Job:
        return Job(seq.id, seq.pending, seq.computed, 0, self._payer(seq))

    def _needs(self, placed: Placed, tokens: int) -> dict[str, int]:
        pages = -(-tokens // PAGE_TOKENS)
        return {agent: pages * PAGE_TOKENS * nbytes for agent, nbytes in self._kv_at(placed).items()}

    def _send_next(self, flight: _Flight) -> None:
        """Send the tokens that come next: one, or a piece of the prompt."""
        seq = flight.seq
        tokens = min(seq.pending, self.config.prefill_chunk)
        if tokens < seq.pending:
            tokens = max((seq.computed + tokens) // PAGE_TOKENS * PAGE_TOKENS - seq.computed, min(tokens, PAGE_TOKENS))
        flight.flying = (seq.computed, seq.computed + tokens)
        flight.lacked = 0
        self._launch(flight, WorkClass.DECODE if tokens == 1 else WorkClass.PREFILL)

    def _launch(self, flight: _Flight, work_class: WorkClass) -> None:
        """Send what is under way to the agent where the model begins."""
        seq, laying = flight.seq, flight.laying
        assert flight.flying is not None
        start, end = flight.flying
        wants = 1 if end == len(seq.tokens) else 0
        if seq.prompt_logprobs is not None and not seq.reported:
            wants = end - start
        extend_hashes(seq)
        run = Run(
            request=seq.id,
            epoch=flight.epoch,
            layout=laying.id,
            segment=0,
            start=start,
            settled=start,
            rows=torch.tensor(seq.tokens[start:end], dtype=torch.int64),
            wants=wants,
            work_class=int(work_class),
            first=flight.first,
            prompt_len=seq.prompt_len,
            traced=seq.trace is not None,
            steps=min(max(seq.max_tokens - seq.generated, 1), self.settings.horizon),
            visited=tuple(flight.visited),
            hashes=_hashes(seq, start, end),
            hashes_from=start // PAGE_TOKENS,
            scale=seq.adapter_scale,
            options=dict(seq.state_options),
        )
        target = self._dispatcher.next(laying.cut, run, True)
        flight.stalled = target is None
        if target is None:
            return
        run = replace(run, kv=str(target.kv))
        if target.kv is KVChoice.RECOMPUTE:
            rows = torch.tensor(seq.tokens[flight.first : end], dtype=torch.int64)
            run = replace(
                run,
                start=flight.first,
                rows=rows,
                hashes=_hashes(seq, flight.first, end),
                hashes_from=flight.first // PAGE_TOKENS,
            )
        elif target.kv is KVChoice.MOVE:
            owner = flight.visited[0]
            upto = self._dispatcher.span(laying.cut, 0, target.agent, owner, run.visited)
            run = replace(run, fetch_from=owner, fetch_upto=upto)
        self._send(target.agent, run)

    # --- what comes back ----------------------------------------------------------------------------------------

    def _finish(self, outputs: list[tuple[_Flight, Output]]) -> list[Emission]:
        rows: list[torch.Tensor] = []
        asking: list[_Flight] = []
        emissions: list[Emission] = []
        for flight, output in outputs:
            seq = flight.seq
            assert flight.flying is not None
            start, end = flight.flying
            seq.computed = end
            flight.visited = list(output.visited)
            flight.flying = None
            self._dispatcher.back(seq.id)
            if seq.trace is not None:
                for hop in output.path:
                    seq.trace.visited(hop, flight.laying.cut.keys, flight.laying.chain.links)
            if end <= seq.prompt_len and end > seq.charged:
                self._ledger.prompt(seq.tenant, end - max(start, seq.charged) - output.reused, self._payer(seq))
                seq.charged = end
            if seq.generated == 0:
                seq.cached_tokens += output.reused
            if seq.prompt_logprobs is not None and not seq.reported:
                report_prompt(Work(seq, (), start, end - start, 0, None, end - start, 0), output.rows)
            if end == len(seq.tokens):
                rows.append(output.rows[-1])
                asking.append(flight)
        if asking:
            traces = [flight.seq.trace for flight in asking if flight.seq.trace is not None]
            for trace in traces:
                trace.enter("sampling")
            drawn = sample(torch.stack(rows), [flight.seq.sampler for flight in asking])
            for trace in traces:
                trace.enter("delivery")
            emissions += [self._emit(flight, token) for flight, token in zip(asking, drawn, strict=True)]
        for flight, _ in outputs:
            if flight.seq.id in self._flights:
                if flight.seq.trace is not None and flight.seq.trace.stage == "delivery":
                    flight.seq.trace.enter("decode")
                self._send_next(flight)
        return emissions

    def _emit(self, flight: _Flight, token: Sampled) -> Emission:
        seq = flight.seq
        seq.tokens.append(token.token)
        self._generated += 1
        self._ledger.generated(seq.tenant, self._payer(seq))
        reason = None
        if seq.sampler.error is not None:
            reason = "error"
        elif token.token in seq.stop_ids or seq.sampler.complete:
            reason = "stop"
        elif seq.generated >= seq.max_tokens or len(seq.tokens) >= flight.placed.max_len:
            reason = "length"
        report = None
        if not seq.reported:
            seq.reported = True
            self._cached += seq.cached_tokens
            if seq.prompt_logprobs is not None:
                report = tuple(seq.prompt_report)
        if reason is not None:
            self.cancel(seq.id)
        return Emission(seq.id, token, reason, seq.cached_tokens, report, seq.sampler.error)

    def _failed(self, message: Failed) -> list[Emission]:
        self.complaints.append(f"{message.agent}: {message.what}")
        flight = self._flights.get(message.request)
        if flight is None or flight.epoch != message.epoch:
            return []
        self.cancel(message.request)
        error = QuiltworkError(message.what, where=f"agent {message.agent}")
        return [Emission(message.request, None, "error", error=error)]

    # --- what was lost ------------------------------------------------------------------------------------------

    def _again(self, lack: Lack) -> None:
        flight = self._flights.get(lack.request)
        if flight is None or flight.epoch != lack.epoch:
            return
        flight.lacked += 1
        if lack.everything or flight.flying is None or flight.lacked > 2:
            self._start_over(flight)
            return
        flight.visited[lack.segment] = None
        self._resend(flight)

    def _resend(self, flight: _Flight) -> None:
        """The same tokens once more; what the first sending still brings is ignored."""
        flight.seq.departures += 1
        flight.epoch = flight.seq.departures
        self._resent += 1
        if flight.seq.trace is not None:
            flight.seq.trace.resent += 1
        self._launch(flight, WorkClass.VERIFY)

    def _start_over(self, flight: _Flight) -> None:
        """Give everything back and wait for room; the tokens drawn so far become part of what is computed."""
        seq = flight.seq
        del self._flights[seq.id]
        self._dispatcher.back(seq.id)
        self._broadcast(Release(seq.id))
        if not seq.reported:
            seq.cached_tokens = 0
            seq.prompt_report.clear()
        seq.computed = 0
        if seq.trace is not None:
            seq.trace.preempt()
        self._waiting.appendleft(seq)
        self._preemptions += 1

    def _notice_gone(self) -> None:
        """Agents that ended or fell silent: what they held is made again, here or by them when they are back."""
        dead = set(self._crew.dead())
        for name in dead:
            self._deaths[name] += 1
        lost = (dead | gone(self._seen, self.clock(), BEAT_S, misses=SILENT_BEATS)) - self._gone
        for name in sorted(lost):
            self._gone.add(name)
            self._seen.pop(name, None)
            self._beats.pop(name, None)
            self._inbox.put(_Lost(name))
            if self._restart:
                threading.Thread(target=self._bring_back, args=(name,), daemon=True).start()

    def _miss(self, flight: _Flight, lost: str) -> None:
        """Take a lost agent out of a sequence's way, and send again what may have been lost with it."""
        touched = any(lost in holders for holders in flight.laying.plan.holders)
        flight.visited = [None if owner == lost else owner for owner in flight.visited]
        if touched and flight.flying is not None:
            self._resend(flight)

    def _bring_back(self, name: str) -> None:
        """Start a lost agent anew and load what it held, until that succeeds (in a thread of its own)."""
        pause = 0.5
        while not self._closed.is_set():
            deaths = self._deaths[name]
            try:
                self._crew.restart(name)
                with self._place_lock:
                    for laying in list(self._layings.values()):
                        if any(name in holders for holders in laying.plan.holders):
                            self._lay(laying.id, laying.chain, laying.plan, only=name)
            except QuiltworkError as error:
                self.complaints.append(f"{name} did not come back: {error}")
            else:
                if self._deaths[name] == deaths:
                    self._seen[name] = self.clock()
                    self._gone.discard(name)
                    self._inbox.put(_Back(name))
                    return
            self._closed.wait(pause)
            pause = min(2 * pause, 30.0)

    def _tell(self, *, force: bool = False) -> None:
        """Let everybody know how everybody stands."""
        now = self.clock()
        if not force and now - self._told < BEAT_S:
            return
        self._told = now
        standings = Standings(
            {name: beat.queue_s for name, beat in self._beats.items()},
            {name: beat.waiting for name, beat in self._beats.items()},
            tuple(sorted(self._gone)),
            dict(self._crew.born),
        )
        self._dispatcher.standings = standings
        self._broadcast(standings)

    # --- how it stands ------------------------------------------------------------------------------------------

    def agents(self) -> Mapping[str, Beat | None]:
        """Every agent's last sign of life; None where it is gone."""
        return {name: self._beats.get(name) for name in self._crew.names}

    def stats(self) -> EngineStats:
        """How it stands, agents together, as they said last."""
        beats = list(self._beats.values())
        capacity = sum(beat.kv_capacity for beat in beats)
        used = capacity - sum(beat.kv_free for beat in beats)
        return EngineStats(
            running=len(self._flights),
            waiting=len(self._waiting),
            kv_used_bytes=used,
            kv_held_bytes=used,
            kv_capacity_bytes=capacity,
            weight_bytes=sum(beat.weight_bytes for beat in beats),
            steps=sum(beat.steps for beat in beats),
            prompt_tokens=self._prompt_tokens,
            generated_tokens=self._generated,
            cached_prompt_tokens=self._cached,
            prefill_token_layers=sum(beat.prefill_token_layers for beat in beats),
            hops=sum(beat.hops for beat in beats),
            preemptions=self._preemptions,
            kv=KVCounters(),
            last_batches=tuple(BatchRecord(*batch) for beat in beats for batch in beat.batches),
            routes={ref: placed.route for ref, placed in self._models.items()},
            tenants=self._ledger.stats(
                Counter(flight.seq.tenant for flight in self._flights.values()), self._waiting.counts(), {}, {}
            ),
        )


def _hashes(seq: TokenSequence, start: int, end: int) -> tuple[str, ...]:
    """Of the pages that are complete with the rows from ``start`` to ``end``."""
    return tuple(hash.hex() for hash in seq.page_hashes[start // PAGE_TOKENS : end // PAGE_TOKENS])


def _describe(chain: Chain, max_model_len: int | None) -> Placed:
    """What the front needs to know of a model. Raises UnsupportedError where it is no chain from embed to head."""
    kinds = [part.block.kind for part in chain.links]
    if not kinds or kinds[0] != "embed" or kinds[-1] != "head":
        raise UnsupportedError("a chain runs from an embed block to a head block", where=str(chain.model.ref))
    attached = [a for part in chain.links for a in part.attachments]
    limit = next((int(chain.model.config[k]) for k in MAX_LEN_KEYS if chain.model.config.get(k)), 1 << 20)
    return Placed(
        ref=chain.model.ref,
        chain=chain,
        max_len=min(limit, max_model_len or limit),
        virtual_tokens=max(
            (int(a.arch["num_virtual_tokens"]) for a in attached if "num_virtual_tokens" in a.arch), default=0
        ),
        vocab_size=int(chain.links[-1].block.arch["vocab_size"]),
        weight_bytes=sum(part.block.nbytes for part in chain.links),
        copies_prefix=any(a.kind == "prefix" for a in attached),
    )
