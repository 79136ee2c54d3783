"""The front of several agents: where requests enter, tokens are drawn, and what was lost is sent again.

It stands where the one-process engine stands and is used the same way. What cannot be made again (the tokens so far,
random numbers, grammars) is here; agents hold only what can.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from quiltwork.core.errors import BadInputError, QuiltworkError
from quiltwork.core.names import ModelRef
from quiltwork.core.servable import Sample
from quiltwork.layers.protocol import PAGE_TOKENS
from quiltwork.serving.agents.contact import Back, Crew, Lost
from quiltwork.serving.agents.dispatching import Dispatcher, Newcomer
from quiltwork.serving.agents.figures import samples
from quiltwork.serving.agents.flight import Flight, board, living
from quiltwork.serving.agents.holdings import Holdings, Laying, Placed
from quiltwork.serving.agents.layout import cut_of
from quiltwork.serving.agents.message import (
    FRONT,
    Beat,
    Failed,
    Lack,
    Output,
    Release,
    Run,
)
from quiltwork.serving.agents.outlook import Outlooks
from quiltwork.serving.agents.residency import AgentResidency
from quiltwork.serving.agents.serve import BEAT_S
from quiltwork.serving.agents.settings import AgentSettings
from quiltwork.serving.agents.speculation import Speculation
from quiltwork.serving.batch_log import BatchLog
from quiltwork.serving.config import EngineConfig
from quiltwork.serving.engine import EngineStats
from quiltwork.serving.execute import BatchRecord, Work
from quiltwork.serving.experts import Spent
from quiltwork.serving.fairness import Turns
from quiltwork.serving.kv import KVCounters
from quiltwork.serving.ledger import Ledger
from quiltwork.serving.policy.assembly import Outlook
from quiltwork.serving.policy.kv import KVChoice
from quiltwork.serving.policy.queueing import WorkClass
from quiltwork.serving.prefix import extend_hashes
from quiltwork.serving.report import report_prompt
from quiltwork.serving.roster import placement
from quiltwork.serving.sampling import Sampled, sample
from quiltwork.serving.schedule import Job, in_whole_pages
from quiltwork.serving.sequence import Emission
from quiltwork.serving.sequence import Sequence as TokenSequence
from quiltwork.serving.trace import Trace
from quiltwork.serving.waiting import WaitingRoom
from quiltwork.serving.weights import Read
from quiltwork.zoo.types import Chain


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
        self._flights: dict[int, Flight] = {}
        self._placed_of: dict[int, Placed] = {}
        self._sequences: dict[int, TokenSequence] = {}
        self._outlooks = Outlooks(self.settings)
        timing = self._outlooks.timing
        self.holdings = Holdings(
            config, self.settings, crew, clock, timing,
            restart=restart, in_use=self._in_use, kv_needs=self._kv_needs, log=log,
        )  # fmt: skip
        self._contact = self.holdings.contact
        self._dispatcher = Dispatcher(FRONT, self.settings, timing, clock)
        self._speculation = Speculation(
            config, self.settings.limits.rows, self.holdings, self._launch, self._release, clock
        )
        self.residency = AgentResidency(
            self.holdings, config.max_model_len, clock, leaves=self.unload, in_use=self._in_use
        )
        self._waiting = WaitingRoom(self._payer)
        self._ledger = Ledger(config.entitlements)
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
        self._speculation.pair(ref, None)
        self._speculation.release(ref)
        self._forget_layings()

    def _forget_layings(self) -> None:
        """Let agents forget layouts that nothing needs any more."""
        self.holdings.forget(self._in_use())

    def _in_use(self) -> set[Laying]:
        """Layouts that sequences run on, or will. Any thread."""
        waiting = {placed.now for placed in list(self._placed_of.values())}
        return waiting | {flight.laying for flight in list(self._flights.values())} | self._speculation.layings

    def _kv_needs(self) -> dict[str, int]:
        """Bytes of keys and values, by agent: what sequences hold, or what the largest may come to. Any thread."""
        needs: Counter[str] = Counter()
        for flight in list(self._flights.values()):
            needs.update(flight.placed.needs(len(flight.seq.tokens)))
        if self._flights:  # of replicas only the agents know who has what
            needs |= Counter({b.agent: b.kv_capacity - b.kv_free for b in list(self._contact.beats.values())})
        for seq in list(self._sequences.values()):
            placed = self._placed_of.get(seq.id)
            if placed is not None:
                needs |= Counter(placed.needs(seq.longest(placed)))
        return needs

    def draft_with(self, model: ModelRef, draft: ModelRef | None) -> None:
        """Speculate for a model with a smaller loaded one from now on; None to stop. Answers stay the same.

        Raises NotFoundError where one of them is not loaded, BadInputError where they differ in vocabulary.
        """
        if draft is not None:
            placed, small = self.holdings.find(model), self.holdings.find(draft)
            if placed.vocab_size != small.vocab_size:
                raise BadInputError(
                    f"{draft} has {small.vocab_size} tokens, {model} has {placed.vocab_size}", where="drafts"
                )
        self._speculation.pair(model, draft)

    def room(self, ref: ModelRef) -> int:
        """Tokens of prompt and answer that one sequence may have. Raises NotFoundError."""
        placed = self.holdings.find(ref)
        return min(placed.max_len, self._fits(placed)) - placed.virtual_tokens

    def _fits(self, placed: Placed) -> int:
        """Tokens whose keys and values fit the agents that hold a model, each having only this sequence."""
        most = 1 << 60
        for agent, per_token in placed.kv_at.items():
            if self.holdings.share is not None:
                # Signs of life tell late what a model that has just come or gone has taken or left.
                capacity = self.residency.kv_capacity(agent, self.holdings.share)
            else:
                beat = self._contact.beats.get(agent)
                capacity = beat.kv_capacity if beat is not None else self.config.kv_bytes // len(self._contact.names)
            if per_token:
                most = min(most, capacity // (per_token * PAGE_TOKENS) * PAGE_TOKENS)
        return most

    # --- sequences ----------------------------------------------------------------------------------------------

    def outlooks(self, seq: TokenSequence, chains: Mapping[ModelRef, Chain]) -> dict[ModelRef, Outlook]:
        """What a sequence that is not here yet would take on each of these chains.

        One that is not held but may be asked for is taken to run alone, wherever the queue is shortest; others are left
        out.
        """
        riding = Counter(key for flight in self._flights.values() for key in flight.laying.cut.keys)
        self._outlooks.hear(dict(self._contact.beats), frozenset(self._contact.gone))
        held = {ref: self.holdings.models[ref].now.cut for ref in chains if ref in self.holdings.models}
        for ref in chains.keys() & self.holdings.offered.keys() - held.keys():
            whole = (0, len(chains[ref].links))
            held[ref] = cut_of(chains[ref], whole, (tuple(self._contact.names),), self.holdings.width)
        chunk = self.config.prefill_chunk
        return {
            ref: self._outlooks.of(cut, riding, prompt=len(seq.prompt), chunk=chunk, tokens=seq.max_tokens)
            for ref, cut in held.items()
        }

    def add(self, seq: TokenSequence) -> None:
        """Queue a sequence. Raises NotFoundError or BadInputError as the engine's."""
        placed = self.holdings.find(seq.model)
        seq.check(placed, self._fits(placed))
        self._placed_of[seq.id] = placed
        seq.begin(placed)
        self._prompt_tokens += len(seq.prompt)
        self.holdings.asked.came(seq.model, len(seq.prompt), self.clock())
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
        self._speculation.forget(sequence_id)
        flight = self._flights.pop(sequence_id, None)
        if flight is not None:
            self._release(sequence_id)
        else:
            self._waiting.remove(seq)
        if self.holdings.surplus:
            self._forget_layings()

    def _release(self, request: int) -> None:
        """Have all agents forget what they hold for a request."""
        self._dispatcher.back(request)
        self._contact.broadcast(Release(request))

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
        began = self.clock() if self._speculation.pairs else 0.0
        self._tell()
        self._admit()
        for stalled in [flight for flight in self._flights.values() if flight.stalled]:
            self._launch(stalled, WorkClass.VERIFY)
        self._go_on_without_drafts()
        outputs: list[Output] = []
        emissions: list[Emission] = []
        for message in self._contact.letters():
            if isinstance(message, Output):
                outputs.append(message)
                continue
            # What came before it is done with first: it must not be sent again for a loss it has survived.
            emissions += self._take(outputs)
            outputs.clear()
            match message:
                case Lack():
                    self._again(message)
                case Failed():
                    emissions += self._failed(message)
                case Lost():
                    self._tell(force=True)
                    self._speculation.miss(message.name)
                    for flying in list(self._flights.values()):
                        self._miss(flying, message.name)
                case Back():
                    self._tell(force=True)
        emissions += self._take(outputs)
        self._go_on_without_drafts()
        if self._speculation.pairs:
            self._speculation.worked(self.clock() - began)
        return emissions

    def _take(self, outputs: list[Output]) -> list[Emission]:
        """Draw tokens from what has come back, and guesses from what has come back of drafts."""
        awaited = [
            (flight, output)
            for output in outputs
            if (flight := self._flights.get(output.request)) is not None and flight.awaits(output)
        ]
        emissions = self._finish(awaited)
        drafts = [output for output in outputs if output.request < 0]
        for output in drafts:
            self._dispatcher.back(output.request)
        for flight, drafted in self._speculation.arrived(drafts) if drafts else ():
            self._send_next(flight, drafted)
        return emissions

    def _go_on_without_drafts(self) -> None:
        """Send what waited for drafts that were lost."""
        for flight in self._speculation.stranded():
            if self._flights.get(flight.seq.id) is flight:
                self._send_next(flight)

    # --- starting and sending -----------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Start waiting sequences while there are seats and pages, in order."""
        held: dict[str, int] = {}
        for flight in self._flights.values():
            for agent, nbytes in flight.placed.needs(len(flight.seq.tokens)).items():
                held[agent] = held.get(agent, 0) + nbytes
        while len(self._waiting) and len(self._flights) < self.config.max_num_seqs:
            seq = self._next()
            placed = self._placed_of[seq.id]
            need = placed.needs(len(seq.tokens) + PAGE_TOKENS)
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
            flight = self._flights[seq.id] = board(seq, placed)
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

    def _send_next(self, flight: Flight, drafted: tuple[int, ...] = ()) -> None:
        """Send the tokens that come next: one, and maybe what was drafted after it, or a piece of the prompt."""
        seq = flight.seq
        tokens = min(seq.pending, self.config.prefill_chunk)
        if tokens < seq.pending:
            tokens = in_whole_pages(seq.computed, tokens)
        flight.drafted = drafted
        flight.flying = (seq.computed, seq.computed + tokens + len(drafted))
        flight.wants = 1 + len(drafted) if tokens == seq.pending else 0
        if seq.prompt_logprobs is not None and not seq.reported:
            flight.wants = tokens
        flight.lacked = 0
        if self._speculation.pairs and tokens == 1:
            self._speculation.depart(flight, self._flights.values())
        decoding = WorkClass.VERIFY if drafted else WorkClass.DECODE
        self._launch(flight, decoding if tokens == 1 else WorkClass.PREFILL)

    def _launch(self, flight: Flight, work_class: WorkClass) -> bool:
        """Send what is under way to the agent where the model begins. False where nobody can take it."""
        seq, laying = flight.seq, flight.laying
        assert flight.flying is not None
        start, end = flight.flying
        extend_hashes(seq)
        run = Run(
            request=seq.id,
            epoch=flight.epoch,
            layout=laying.id,
            segment=0,
            start=start,
            settled=start,
            rows=flight.rows(start, end),
            wants=flight.wants,
            work_class=int(work_class),
            first=flight.first,
            prompt_len=seq.prompt_len,
            traced=seq.trace is not None,
            steps=min(max(seq.max_tokens - seq.generated, 1), self.settings.horizon),
            visited=tuple(flight.visited),
            hashes=_hashes(seq, flight.told, end),
            hashes_from=flight.told,
            scale=seq.adapter_scale,
            options=dict(seq.state_options),
            certain=len(seq.tokens) if flight.drafted else None,
        )
        target = self._dispatcher.next(laying.cut, run, True, self._newcomer(flight))
        flight.stalled = target is None
        if target is None:
            return False
        flight.bound = target.agent
        run = replace(run, kv=str(target.kv))
        if target.kv is KVChoice.RECOMPUTE:
            page = flight.first // PAGE_TOKENS
            run = replace(
                run,
                start=flight.first,
                rows=flight.rows(flight.first, end),
                hashes=_hashes(seq, page, end),
                hashes_from=page,
            )
        elif target.kv is KVChoice.MOVE:
            owner = flight.visited[0]
            upto = self._dispatcher.span(laying.cut, 0, target.agent, owner, run.visited)
            run = replace(run, fetch_from=owner, fetch_upto=upto)
        self._contact.send(target.agent, run)
        return True

    def _newcomer(self, flight: Flight) -> Newcomer | None:
        """What decides where a sequence is to live; None where that is settled, or decided by the moment."""
        seq = flight.seq
        if self.settings.admission == "moment" or seq.computed > flight.first or any(flight.visited):
            return None
        use, others = living((f for f in self._flights.values() if f is not flight), self._outlooks.timing)
        tokens = min(self.holdings.asked.output_tokens, seq.max_tokens) - seq.generated
        return Newcomer(seq.pending, max(tokens, 1.0), self.config.prefill_chunk, use, others)

    # --- what comes back ----------------------------------------------------------------------------------------

    @torch.inference_mode()
    def _finish(self, outputs: list[tuple[Flight, Output]]) -> list[Emission]:
        """Draw tokens from what has come back, and send what comes next."""
        asking: list[tuple[Flight, torch.Tensor]] = []
        for flight, output in outputs:
            seq = flight.seq
            assert flight.flying is not None
            # Of a prompt an agent may have run the first rows only (``AgentSettings.slack``).
            start, end = flight.flying[0], output.end - len(flight.drafted)
            seq.computed = end
            flight.told = end // PAGE_TOKENS
            flight.visited = list(output.visited)
            flight.flying = None
            self._dispatcher.back(seq.id)
            for name, taken in output.spent.items():
                seq.spent.setdefault(name, Spent()).add(*taken)
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
                asking.append((flight, output.rows))
                if self._speculation.pairs and seq.generated:
                    self._speculation.back(flight)
        emissions = self._draw(asking)
        going = [flight for flight, _ in outputs if flight.seq.id in self._flights]
        for flight in going:
            if flight.seq.trace is not None and flight.seq.trace.stage == "delivery":
                flight.seq.trace.enter("decode")
        drafting = self._speculation.begin(going, self._flights.values()) if self._speculation.pairs else ()
        for flight in going:
            if flight.seq.id not in drafting:
                self._send_next(flight)
        return emissions

    def _draw(self, asking: list[tuple[Flight, torch.Tensor]]) -> list[Emission]:
        """Draw a token of each from the logits after its own tokens; then, where it is the drafted one, from the next.

        As in one process, what was drafted decides how many tokens come at a time, never which.
        """
        emissions: list[Emission] = []
        verified = [(flight, flight.seq.accepted) for flight, _ in asking if flight.drafted]
        ahead = 0
        while asking:
            rows = [logits[ahead - 1 - len(flight.drafted)] for flight, logits in asking]
            traces = [flight.seq.trace for flight, _ in asking if flight.seq.trace is not None]
            for trace in traces:
                trace.enter("sampling")
            drawn = sample(torch.stack(rows), [flight.seq.sampler for flight, _ in asking])
            for trace in traces:
                trace.enter("delivery")
            going: list[tuple[Flight, torch.Tensor]] = []
            for (flight, logits), token in zip(asking, drawn, strict=True):
                seq = flight.seq
                guessed = ahead < len(flight.drafted) and token.token == flight.drafted[ahead]
                agreed = guessed and seq.sampler.error is None
                if agreed:
                    seq.computed += 1
                    seq.accepted += 1
                emission = self._emit(flight, token)
                emissions.append(emission)
                if agreed and emission.finish_reason is None:
                    going.append((flight, logits))
            asking, ahead = going, ahead + 1
        for flight, before in verified:
            flight.seq.drafted += len(flight.drafted)
            self._speculation.judged(flight.seq, len(flight.drafted), flight.seq.accepted - before)
            flight.drafted = ()
        return emissions

    def _emit(self, flight: Flight, token: Sampled) -> Emission:
        seq = flight.seq
        self._generated += 1
        self._ledger.generated(seq.tenant, self._payer(seq))
        if not seq.reported:
            self._cached += seq.cached_tokens
        emission = seq.take(token)
        if emission.finish_reason is not None:
            self.holdings.asked.ended(seq.generated)
            self.cancel(seq.id)
        return emission

    def _failed(self, message: Failed) -> list[Emission]:
        self._contact.complaints.append(f"{message.agent}: {message.what}")
        if message.request < 0:
            self._speculation.lacks(message.request, message.epoch, pause=True)
        flight = self._flights.get(message.request)
        if flight is None or flight.epoch != message.epoch:
            return []
        self.cancel(message.request)
        error = QuiltworkError(message.what, where=f"agent {message.agent}")
        return [Emission(message.request, None, "error", error=error)]

    # --- what was lost ------------------------------------------------------------------------------------------

    def _again(self, lack: Lack) -> None:
        if lack.request < 0:
            self._speculation.lacks(lack.request, lack.epoch, pause=lack.everything)
            return
        flight = self._flights.get(lack.request)
        if flight is None or flight.epoch != lack.epoch:
            return
        flight.lacked += 1
        if lack.everything or flight.flying is None or flight.lacked > 2:
            self._start_over(flight)
            return
        flight.visited[lack.segment] = None
        self._resend(flight)

    def _resend(self, flight: Flight) -> None:
        """The same tokens once more; what the first sending still brings is ignored."""
        flight.seq.departures += 1
        flight.epoch = flight.seq.departures
        flight.departed = None
        self._resent += 1
        if flight.seq.trace is not None:
            flight.seq.trace.resent += 1
        self._launch(flight, WorkClass.VERIFY)

    def _start_over(self, flight: Flight) -> None:
        """Give everything back and wait for room; the tokens drawn so far become part of what is computed."""
        seq = flight.seq
        del self._flights[seq.id]
        self._speculation.forget(seq.id)
        self._release(seq.id)
        if not seq.reported:
            seq.cached_tokens = 0
            seq.prompt_report.clear()
        seq.computed = 0
        if seq.trace is not None:
            seq.trace.preempt()
        self._waiting.appendleft(seq)
        self._preemptions += 1

    def _miss(self, flight: Flight, lost: str) -> None:
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
        self._outlooks.hear(dict(self._contact.beats), frozenset(self._contact.gone))
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
            speculation=self._speculation.counters,
        )


def _hashes(seq: TokenSequence, page: int, end: int) -> tuple[str, ...]:
    """Of the pages from ``page`` on that are complete with ``end`` tokens; none that holds guesses has one."""
    return tuple(hash.hex() for hash in seq.page_hashes[page : end // PAGE_TOKENS])
