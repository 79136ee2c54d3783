"""The front of several agents: where requests enter, tokens are drawn, and what was lost is sent again.

It stands where the one-process engine stands and is used the same way. What cannot be made again (the tokens so far,
random numbers, grammars) is here; agents hold only what can.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from quiltwork.core.errors import CapacityError, QuiltworkError, UnsupportedError
from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Sample
from quiltwork.layers.protocol import PAGE_TOKENS
from quiltwork.serving.agents.contact import Back, Crew, Lost
from quiltwork.serving.agents.dispatching import Dispatcher
from quiltwork.serving.agents.figures import samples
from quiltwork.serving.agents.holdings import Holdings, Laying, Placed
from quiltwork.serving.agents.message import (
    FRONT,
    Beat,
    Failed,
    Lack,
    Output,
    Release,
    Run,
)
from quiltwork.serving.agents.serve import BEAT_S
from quiltwork.serving.agents.settings import AgentSettings
from quiltwork.serving.agents.timing import Timing
from quiltwork.serving.batch_log import BatchLog
from quiltwork.serving.config import EngineConfig
from quiltwork.serving.engine import EngineStats
from quiltwork.serving.execute import BatchRecord, Work
from quiltwork.serving.fairness import Turns
from quiltwork.serving.kv import KVCounters
from quiltwork.serving.ledger import Ledger
from quiltwork.serving.policy.kv import KVChoice
from quiltwork.serving.policy.queueing import WorkClass
from quiltwork.serving.prefix import extend_hashes
from quiltwork.serving.report import report_prompt
from quiltwork.serving.roster import placement
from quiltwork.serving.sampling import Sampled, sample
from quiltwork.serving.schedule import Job
from quiltwork.serving.sequence import Emission
from quiltwork.serving.sequence import Sequence as TokenSequence
from quiltwork.serving.trace import Trace
from quiltwork.serving.waiting import WaitingRoom
from quiltwork.serving.weights import Read
from quiltwork.zoo.types import Chain


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

    def awaits(self, output: Output) -> bool:
        """Whether this is what is under way; nothing that was sent before counts."""
        return self.flying is not None and (output.epoch, output.end) == (self.epoch, self.flying[1])


class AgentEngine:
    """Serves chains through agents. All methods but ``prepare`` and ``wake`` belong to one thread.

    Parameters
    ----------
    crew : the agents; closed with this.
    clock : seconds.
    restart : whether an agent that died is started anew.
    log : is told what every batch of every agent holds; the settings must say that agents tell of them.
    """

    def __init__(
        self,
        config: EngineConfig,
        crew: Crew,
        clock: Callable[[], float],
        settings: AgentSettings | None = None,
        *,
        restart: bool = True,
        log: BatchLog | None = None,
    ) -> None:
        self.config, self.clock = config, clock
        self.settings = settings or AgentSettings()
        self.placement = placement(config)
        self.holdings = Holdings(config, self.settings, crew, clock, restart=restart, log=log)
        self._contact = self.holdings.contact
        self._dispatcher = Dispatcher(FRONT, self.settings, Timing(self.settings.profiles), clock)
        self._flights: dict[int, _Flight] = {}
        self._waiting = WaitingRoom(self._payer)
        self._ledger = Ledger(config.entitlements)
        self._sequences: dict[int, TokenSequence] = {}
        self._placed_of: dict[int, Placed] = {}
        self._told = 0.0
        self._prompt_tokens = self._generated = self._cached = self._preemptions = self._resent = 0

    def wake(self) -> None:
        """Let a step that waits for letters return."""
        self._contact.wake()

    def close(self) -> None:
        """End the agents."""
        self._contact.close()

    # --- models -------------------------------------------------------------------------------------------------

    def prepare(self, chain: Chain, read: Read) -> Placed:
        """Have the agents load what a chain needs. Any thread. Raises as ``Holdings.prepare``."""
        return self.holdings.prepare(chain)

    def install(self, placed: Placed) -> None:
        """Serve a prepared chain under its name from now on; running sequences of an old version finish on it."""
        self.holdings.install(placed)
        self._forget_layings()

    def unload(self, ref: ModelRef) -> None:
        """Take no new sequences for a model. Raises NotFoundError."""
        self.holdings.remove(ref)
        self._forget_layings()

    def _forget_layings(self) -> None:
        """Let agents forget layouts that nothing needs any more."""
        waiting = {placed.now for placed in self._placed_of.values()}
        self.holdings.forget(waiting | {flight.laying for flight in self._flights.values()})

    def draft_with(self, model: ModelRef, draft: ModelRef | None) -> None:
        """Raises UnsupportedError for any draft: a chain that is spread over agents does not speculate."""
        if draft is not None:
            raise UnsupportedError(f"{draft} cannot draft for {model}: agents do not speculate", where="drafts")

    def room(self, ref: ModelRef) -> int:
        """Tokens of prompt and answer that one sequence may have. Raises NotFoundError."""
        placed = self.holdings.find(ref)
        return min(placed.max_len, self._fits(placed)) - placed.virtual_tokens

    def _fits(self, placed: Placed) -> int:
        """Tokens whose keys and values fit the agents that hold a model, each having only this sequence."""
        most = 1 << 60
        for agent, per_token in self._kv_at(placed).items():
            beat = self._contact.beats.get(agent)
            capacity = beat.kv_capacity if beat is not None else self.config.kv_bytes // len(self._contact.names)
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
        placed = self.holdings.find(seq.model)
        total = seq.tokens_for(placed)
        if total > self._fits(placed):
            raise CapacityError(f"{total} tokens do not fit the KV memory", where="max_tokens", hint="raise --memory")
        self._placed_of[seq.id] = placed
        seq.begin(placed)
        self._prompt_tokens += len(seq.prompt)
        self._sequences[seq.id] = seq
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
            self._contact.broadcast(Release(sequence_id))
        else:
            self._waiting.remove(seq)
        if self.holdings.surplus:
            self._forget_layings()

    @property
    def complaints(self) -> Sequence[str]:
        """What went wrong lately without ending a request."""
        return self._contact.complaints

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
        for message in self._contact.letters():
            if isinstance(message, Output):
                flight = self._flights.get(message.request)
                if flight is not None and flight.awaits(message):
                    outputs.append((flight, message))
                continue
            # What came before it is done with first: it must not be sent again for a loss it has survived.
            emissions += self._finish(outputs)
            outputs.clear()
            match message:
                case Lack():
                    self._again(message)
                case Failed():
                    emissions += self._failed(message)
                case Lost():
                    self._tell(force=True)
                    for flying in list(self._flights.values()):
                        self._miss(flying, message.name)
                case Back():
                    self._tell(force=True)
        emissions += self._finish(outputs)
        return emissions

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
            beats = self._contact.beats
            if self._flights and any(
                held.get(agent, 0) + nbytes > beats[agent].kv_capacity
                for agent, nbytes in need.items()
                if agent in beats
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
        self._contact.send(target.agent, run)

    # --- what comes back ----------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _finish(self, outputs: list[tuple[_Flight, Output]]) -> list[Emission]:
        """Draw tokens from what has come back, and send what comes next."""
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
        self._generated += 1
        self._ledger.generated(seq.tenant, self._payer(seq))
        if not seq.reported:
            self._cached += seq.cached_tokens
        emission = seq.take(token)
        if emission.finish_reason is not None:
            self.cancel(seq.id)
        return emission

    def _failed(self, message: Failed) -> list[Emission]:
        self._contact.complaints.append(f"{message.agent}: {message.what}")
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
        self._contact.broadcast(Release(seq.id))
        if not seq.reported:
            seq.cached_tokens = 0
            seq.prompt_report.clear()
        seq.computed = 0
        if seq.trace is not None:
            seq.trace.preempt()
        self._waiting.appendleft(seq)
        self._preemptions += 1

    def _miss(self, flight: _Flight, lost: str) -> None:
        """Take a lost agent out of a sequence's way, and send again what may have been lost with it."""
        touched = any(lost in holders for holders in flight.laying.plan.holders)
        flight.visited = [None if owner == lost else owner for owner in flight.visited]
        if touched and flight.flying is not None:
            self._resend(flight)

    def _tell(self, *, force: bool = False) -> None:
        """Let everybody know how everybody stands."""
        now = self.clock()
        if not force and now - self._told < BEAT_S:
            return
        self._told = now
        standings = self._contact.standings()
        self._dispatcher.standings = standings
        self._contact.broadcast(standings)

    # --- how it stands ------------------------------------------------------------------------------------------

    def agents(self) -> Mapping[str, Beat | None]:
        """Every agent's last sign of life; None where it is gone."""
        return {name: self._contact.beats.get(name) for name in self._contact.names}

    def samples(self) -> list[Sample]:
        """How the agents and their segments' queues stand, as metrics. Any thread."""
        return samples(self.agents())

    def stats(self) -> EngineStats:
        """How it stands, agents together, as they said last."""
        beats = list(self._contact.beats.values())
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
            routes={ref: placed.route for ref, placed in self.holdings.models.items()},
            tenants=self._ledger.stats(
                Counter(flight.seq.tenant for flight in self._flights.values()), self._waiting.counts(), {}, {}
            ),
        )


def _hashes(seq: TokenSequence, start: int, end: int) -> tuple[str, ...]:
    """Of the pages that are complete with the rows from ``start`` to ``end``."""
    return tuple(hash.hex() for hash in seq.page_hashes[start // PAGE_TOKENS : end // PAGE_TOKENS])
