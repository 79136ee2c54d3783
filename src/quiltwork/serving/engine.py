"""One process, many models: schedule, run, finish. Each step advances sequences of any models in common batches."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from quiltwork.core.errors import BadInputError
from quiltwork.core.names import ModelRef
from quiltwork.layers.protocol import PAGE_TOKENS
from quiltwork.serving.apart import in_thread_apart
from quiltwork.serving.batch_log import BatchLog
from quiltwork.serving.chunk import Chunker
from quiltwork.serving.config import EngineConfig
from quiltwork.serving.engine_residency import EngineResidency
from quiltwork.serving.execute import BatchRecord, Executor, Work, publish
from quiltwork.serving.fairness import EQUALS, Standings
from quiltwork.serving.kv import KVCache, KVCounters
from quiltwork.serving.ledger import Ledger, TenantStats
from quiltwork.serving.outlook import Outlooks
from quiltwork.serving.policy.assembly import Outlook
from quiltwork.serving.prefix import extend_hashes, found_tokens
from quiltwork.serving.report import report_prompt
from quiltwork.serving.roster import Roster, placement
from quiltwork.serving.route import Segment, Served
from quiltwork.serving.sampling import Offer, Sampled, sample
from quiltwork.serving.schedule import Job, Limits, Plan, plan, threads_for
from quiltwork.serving.sequence import Emission, Sequence
from quiltwork.serving.speculate import SpeculationCounters, Speculator
from quiltwork.serving.trace import Trace
from quiltwork.serving.waiting import WaitingRoom
from quiltwork.serving.weights import Read
from quiltwork.zoo.types import Chain


@dataclass(frozen=True)
class EngineStats:
    """How the engine stands and what it has done since its start."""

    running: int
    waiting: int
    kv_used_bytes: int
    kv_held_bytes: int
    kv_capacity_bytes: int
    weight_bytes: int
    steps: int
    prompt_tokens: int
    generated_tokens: int
    cached_prompt_tokens: int
    prefill_token_layers: int
    """Attention blocks run, summed over prompt tokens: what prefix reuse saves."""
    hops: int
    preemptions: int
    kv: KVCounters
    last_batches: tuple[BatchRecord, ...]
    routes: Mapping[ModelRef, tuple[tuple[str, ...], ...]]
    """Per model, the block ids of each segment."""
    tenants: Mapping[str, TenantStats] = field(default_factory=dict)
    speculation: SpeculationCounters = field(default_factory=SpeculationCounters)


@dataclass
class _Counts:
    steps: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    cached_prompt_tokens: int = 0
    preemptions: int = 0
    last_batches: tuple[BatchRecord, ...] = field(default=())


class Engine:
    """Loads chains, runs sequences. All methods but ``prepare`` belong to one thread.

    clock : seconds, for traces. log : is told what every batch holds.
    """

    def __init__(self, config: EngineConfig, clock: Callable[[], float], log: BatchLog | None = None) -> None:
        self.config = config
        self.clock = clock
        self.placement = placement(config)
        capacity = config.kv_bytes if config.memory_bytes is None else config.memory_bytes
        self.cache = KVCache(
            capacity,
            self.placement.dtype,
            self.placement.device,
            keep=config.prefix_cache,
            entitlements=config.entitlements,
        )
        self.roster = Roster(config, self.placement, self.cache, clock)
        self._chunker = Chunker(self.cache)
        self._limits = Limits(config.max_num_seqs, config.step_tokens, config.prefill_chunk)
        self._executor = Executor(self.cache)
        self._speculator = Speculator(config, self.cache, self._chunker, self.roster, clock)
        self.residency = EngineResidency(
            self.roster,
            self.cache,
            config.memory_bytes,
            config.max_model_len,
            clock,
            leaves=lambda ref: self._speculator.pair(ref, None),
            largest_kv=self._largest_kv,
        )
        self._sequences: dict[int, Sequence] = {}
        self._running: list[Sequence] = []
        self._waiting = WaitingRoom(self._payer)
        self._ledger = Ledger(config.entitlements)
        self._counts = _Counts()
        self._outlooks: Outlooks | None = None
        self._log = log
        self._traces: dict[int, Trace] = {}
        """Of the sequences that are to be explained; all others cost nothing."""
        self._threads = self._threads_now = 0  # read at the first step, in the thread that computes

    def prepare(self, chain: Chain, read: Read) -> Served:
        """Load what a chain needs that is not loaded yet. Any thread; running sequences go on meanwhile.

        Raises UnsupportedError naming what cannot be executed; then nothing stays loaded.
        """
        return in_thread_apart(lambda: self.roster.prepare(chain, read))

    def install(self, served: Served) -> None:
        """Serve a prepared chain under its name from now on; running sequences of an old version finish on it.

        Raises CapacityError where its weights do not fit the memory; then it is not loaded.
        """
        self.roster.install(served)

    def unload(self, ref: ModelRef) -> None:
        """Take no new sequences for a model; its weights go with its last running sequence. Raises NotFoundError."""
        self.roster.unload(ref)
        self._speculator.pair(ref, None)
        self._speculator.release(ref)

    def draft_with(self, model: ModelRef, draft: ModelRef | None) -> None:
        """Speculate for a model with a smaller loaded one from now on; None to stop. Answers stay the same.

        Raises NotFoundError where one of them is not loaded, BadInputError where they differ in vocabulary.
        """
        if draft is not None:
            served, small = self.roster.find(model), self.roster.find(draft)
            if served.vocab_size != small.vocab_size:
                raise BadInputError(
                    f"{draft} has {small.vocab_size} tokens, {model} has {served.vocab_size}", where="drafts"
                )
        self._speculator.pair(model, draft)

    def room(self, ref: ModelRef) -> int:
        """Tokens of prompt and answer that one sequence may have: the model's limit, or less where KV memory is less.

        Raises NotFoundError.
        """
        served = self.roster.find(ref)
        return min(served.max_len, self._fits(served)) - served.virtual_tokens

    def _largest_kv(self) -> int:
        """Bytes of keys and values that the largest sequence here may come to."""
        return max(
            (s.served.kv_bytes(len(s.prompt) + s.max_tokens) for s in self._sequences.values() if s.served), default=0
        )

    def _fits(self, served: Served) -> int:
        """Tokens whose keys and values fit the memory beside the weights."""
        if not served.page_bytes:
            return served.max_len
        return min(self.cache.capacity // served.page_bytes, served.most_pages) * PAGE_TOKENS

    # --- sequences ----------------------------------------------------------------------------------------------

    def outlooks(self, seq: Sequence, chains: Mapping[ModelRef, Chain]) -> dict[ModelRef, Outlook]:
        """What a sequence that is not here yet would take on each of these chains, loaded or not.

        What steps cost is learnt from the first call on; until something is known all seconds are 0.
        """
        if self._outlooks is None:
            self._outlooks = Outlooks(self.config.prefill_chunk, self.config.max_num_seqs)
        riding = [other.served.chain for other in self._sequences.values() if other.served is not None]
        told: dict[ModelRef, Outlook] = {}
        for ref, chain in chains.items():
            served, found = self.roster.served.get(ref), 0
            if served is not None and self.config.prefix_cache:
                asking = replace(seq, page_hashes=[])  # virtual tokens are the model's own
                asking.begin(served)
                extend_hashes(asking)
                found = found_tokens(self.cache, asking, served.route)
            prompt = len(seq.prompt) + (served.virtual_tokens if served is not None else 0)
            told[ref] = self._outlooks.of(chain, riding, prompt=prompt, found=found, tokens=seq.max_tokens)
        return told

    def add(self, seq: Sequence) -> None:
        """Queue a sequence. Raises NotFoundError or BadInputError (too long for model or memory, foreign token)."""
        served = self.roster.find(seq.model)
        seq.check(served, self._fits(served))
        seq.served = served
        served.running += 1
        seq.begin(served)
        if seq.explain:
            seq.trace = self._traces[seq.id] = Trace(self.clock)
        self._sequences[seq.id] = seq
        if self._payer(seq) not in self._waiting:
            self._ledger.arrives(self._payer(seq), self._waiting.lines, self._waiting.last)
        self._waiting.append(seq)
        self._counts.prompt_tokens += len(seq.prompt)

    def cancel(self, sequence_id: int) -> None:
        """Forget a sequence and free all it holds; harmless if it has ended."""
        seq = self._sequences.pop(sequence_id, None)
        if seq is None:
            return
        if seq in self._running:
            self._running.remove(seq)
        else:
            self._waiting.remove(seq)
        self._speculator.forget(sequence_id)
        self._let_go(seq)
        self._traces.pop(seq.id, None)
        assert seq.served is not None
        self.roster.leave(seq.served)

    @property
    def has_work(self) -> bool:
        """Whether a step would do something."""
        return bool(self._sequences)

    def step(self) -> list[Emission]:
        """Schedule, draft, run, finish."""
        measuring = self._outlooks is not None or bool(self._speculator.pairs)
        began = self.clock() if measuring else 0.0
        for trace in self._traces.values():
            if trace.stage == "delivery":
                trace.enter("decode")
        self._executor.watch = self._watch if self._traces or self._log is not None else None
        self._speculator.watch(self._watch if self._log is not None else None)
        works = self._schedule()
        with torch.inference_mode():
            self._speculator.draft(works, self._use_threads)
            self._use_threads([(work.count, work.seq.served.weight_bytes) for work in works if work.seq.served])
            done = self._executor.run(works)
            emissions = self._finish(works, done)
        if self._outlooks is not None:
            riding = [(w.seq.version.chain, w.count) for w in works if w.seq.version is not None]
            self._outlooks.learn(riding, self.clock() - began)
        if self._speculator.pairs:
            self._speculator.measured(works, self.clock() - began)
        self._counts.steps += 1
        self._counts.last_batches = tuple(self._executor.records)
        return emissions

    # --- one step -----------------------------------------------------------------------------------------------

    def _use_threads(self, rows: list[tuple[int, int]]) -> None:
        if self._threads == 0:
            self._threads = self._threads_now = torch.get_num_threads()
        threads = threads_for(rows, self._threads)
        if threads != self._threads_now:
            torch.set_num_threads(threads)
            self._threads_now = threads

    def _job(self, seq: Sequence) -> Job:
        assert seq.served is not None
        return Job(seq.id, seq.pending, seq.computed, seq.served.page_bytes, self._payer(seq))

    def _payer(self, seq: Sequence) -> str:
        return seq.tenant if self.config.tenant_fairness else ""

    def _standings(self, running: list[Job]) -> Standings:
        """How the tenants stand; alone, nobody stands out."""
        if len({*self._waiting.lines, *(job.tenant for job in running)}) < 2:
            return EQUALS
        return self._ledger.standings(self.cache.owners.held, self.cache.capacity)

    def _decide(self) -> Plan:
        """The next step, with rows and pages set apart for verifying drafts as far as nobody goes short for it."""
        wishes = self._speculator.wishes(self._running)
        limits = replace(self._limits, step_tokens=self._limits.step_tokens - sum(wishes.values()))
        free = self.cache.free_bytes - self._speculator.reserved_bytes(self._running)
        running = [self._job(s) for s in self._running]
        seats = max(self._limits.sequences - len(running), 1)
        waiting = [self._job(s) for s in self._waiting.heads(seats)]
        decision = plan(running, waiting, free, limits, self._standings(running))
        starved = not decision.admitted and min((job.needs(job.pending) for job in waiting), default=0) > free
        if (decision.preempted or starved) and self._speculator.give_way():
            decision = plan(running, waiting, self.cache.free_bytes, self._limits, self._standings(running))
        return decision

    def _schedule(self) -> list[Work]:
        decision = self._decide()
        for sequence_id in decision.preempted:
            self._preempt(self._sequences[sequence_id])
        for sequence_id in decision.admitted:
            seq = self._sequences[sequence_id]
            self._waiting.remove(seq)
            self._running.append(seq)
            self._chunker.start(seq)
            if seq.trace is not None:
                seq.trace.enter("prefill")
        works: list[Work] = []
        coming: set[bytes] = set()
        yielding = deque(decision.yielding)
        for sequence_id, tokens in decision.chunks:
            seq = self._sequences[sequence_id]
            if seq not in self._running:
                continue
            work = self._chunker.next_work(seq, tokens, coming)
            while work is None and yielding and yielding[0] != sequence_id:
                # Shared pages made the plan's estimate too rosy: others give way after all.
                victim = self._sequences[yielding.popleft()]
                works = [w for w in works if w.seq is not victim]
                self._preempt(victim)
                work = self._chunker.next_work(seq, tokens, coming)
            if work is not None and work.count:
                works.append(work)
        return works

    def _finish(self, works: list[Work], done: list[tuple[list[Work], Tensor]]) -> list[Emission]:
        for work in works:
            seq = work.seq
            seq.computed = work.start + work.count - len(work.drafted)
            if work.start < seq.prompt_len and seq.computed > seq.charged:
                prompt = min(seq.computed, seq.prompt_len)
                self._ledger.prompt(seq.tenant, prompt - max(work.start, seq.charged), self._payer(seq))
                seq.charged = prompt
            self._publish(seq)
        emissions: list[Emission] = []
        for group, logits in done:
            logits = logits.float()
            asking: list[tuple[Work, int]] = []
            at = 0
            for work in group:
                if work.seq.prompt_logprobs is not None and not work.seq.reported:
                    report_prompt(work, logits[at : at + work.wants])
                at += work.wants
                if work.seq.computed == len(work.seq.tokens):
                    asking.append((work, at - 1 - len(work.drafted)))
            emissions.extend(self._choose(asking, logits))
        return emissions

    def _choose(self, asking: list[tuple[Work, int]], logits: Tensor) -> list[Emission]:
        """Draw a token of each work from its row of ``logits``; then, where it is the drafted one, from the next row.

        Every token is drawn from the true chain's logits after tokens that were drawn so, by the sequence's own random
        numbers: what was drafted decides how many tokens a step brings, never which; unless the sequence is relaxed.
        """
        emissions: list[Emission] = []
        verified = [(work, work.seq.accepted, work.seq.relaxed_tokens) for work, _ in asking if work.proposed]
        ahead = 0
        while asking:
            rows = [row + ahead for _, row in asking]
            chosen = logits if len(rows) == logits.shape[0] else logits[torch.tensor(rows)]
            traced = [w.seq.trace for w, _ in asking if w.seq.trace is not None] if self._traces else []
            for trace in traced:
                trace.enter("sampling")
            offers = [_offer(work, ahead) for work, _ in asking]
            tokens = sample(chosen, [work.seq.sampler for work, _ in asking], offers)
            for trace in traced:
                trace.enter("delivery")
            going: list[tuple[Work, int]] = []
            for (work, row), token in zip(asking, tokens, strict=True):
                seq = work.seq
                guessed = ahead < len(work.proposed) and token.token == work.proposed[ahead]
                agreed = guessed and seq.sampler.error is None
                computed = agreed and ahead < len(work.drafted)
                seq.computed += computed
                seq.accepted += agreed
                seq.relaxed_tokens += token.relaxed
                emission = self._emit(seq, token)
                emissions.append(emission)
                if computed and emission.finish_reason is None:
                    going.append((work, row))
            asking, ahead = going, ahead + 1
        for work, accepted, relaxed in verified:
            seq, proposed = work.seq, len(work.proposed)
            seq.drafted += proposed
            self._speculator.judged(seq, proposed, seq.accepted - accepted, seq.relaxed_tokens - relaxed)
            self._chunker.truncate(seq, seq.computed)
        return emissions

    def _publish(self, seq: Sequence) -> None:
        """Make a sequence's complete pages findable; all its tokens are verified."""
        complete = seq.computed // PAGE_TOKENS
        if complete > seq.published and self.config.prefix_cache:
            extend_hashes(seq)
            for hop, segment in enumerate(seq.route):
                publish(self.cache, seq, segment, hop, seq.published, complete)
            seq.published = complete

    def _emit(self, seq: Sequence, token: Sampled) -> Emission:
        assert seq.served is not None
        self._counts.generated_tokens += 1
        self._ledger.generated(seq.tenant, self._payer(seq))
        if not seq.reported:
            self._counts.cached_prompt_tokens += seq.cached_tokens
        emission = seq.take(token)
        if emission.finish_reason is not None:
            self._publish(seq)
            self.cancel(seq.id)
        return emission

    def _preempt(self, seq: Sequence) -> None:
        """Give a sequence's pages back; it starts again before those that have not started."""
        self._running.remove(seq)
        self._speculator.forget(seq.id)
        self._let_go(seq)
        if seq.trace is not None:
            seq.trace.preempt()
        if not seq.reported:
            seq.cached_tokens = 0
            seq.prompt_report.clear()
        self._waiting.appendleft(seq)
        self._counts.preemptions += 1

    def _watch(self, segment: Segment, works: Seq[Work], record: BatchRecord) -> None:
        """Write down what a batch holds, and in the traces of those in it that they rode in it."""
        if self._log is not None:
            self._log.write(segment, [work.seq.model for work in works], record.rows)
        for work in works if self._traces else ():
            if work.seq.trace is not None:
                mine = work.route[work.hop]  # its own model's name for the place
                work.seq.trace.rode(mine, rows=record.rows, sequences=record.sequences, models=record.models)

    def _let_go(self, seq: Sequence) -> None:
        if seq.trace is not None:
            seq.trace.let_go(-(-seq.computed // PAGE_TOKENS))
        for runs in seq.runs:
            for run in reversed(runs):
                self.cache.release(run)
        seq.runs = []
        seq.computed = seq.published = 0

    def stats(self) -> EngineStats:
        """How it stands."""
        c = self._counts
        return EngineStats(
            running=len(self._running),
            waiting=len(self._waiting),
            kv_used_bytes=self.cache.used_bytes,
            kv_held_bytes=self.cache.held_bytes,
            kv_capacity_bytes=self.cache.capacity,
            weight_bytes=self.roster.library.nbytes,
            steps=c.steps,
            prompt_tokens=c.prompt_tokens,
            generated_tokens=c.generated_tokens,
            cached_prompt_tokens=c.cached_prompt_tokens,
            prefill_token_layers=self._executor.prefill_token_layers,
            hops=self._executor.hops,
            preemptions=c.preemptions,
            kv=self.cache.counters,
            last_batches=c.last_batches,
            routes={ref: tuple(s.key for s in served.route) for ref, served in self.roster.served.items()},
            tenants=self._ledger.stats(
                Counter(s.tenant for s in self._running),
                self._waiting.counts(),
                self.cache.owners.held,
                self.cache.owners.idle,
            ),
            speculation=self._speculator.counters,
        )


def _offer(work: Work, ahead: int) -> Offer | None:
    """What was drafted for the token after ``ahead`` others, where the sequence may take it for its own."""
    if work.seq.relaxed is None or ahead >= len(work.proposed):
        return None
    return Offer(work.proposed[ahead], work.seq.relaxed)
