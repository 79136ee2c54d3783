"""Exact speculation: a small chain drafts tokens, the true chain verifies them in its next step.

Each sequence that speculates has a *shadow*: a sequence of the draft chain with the same tokens and pages of its own.
Shadows advance together, in batches. What they guess travels up the true chain as further rows of the sequence's step,
beside everybody else's work, and the engine draws every token from the true logits with the sequence's own random
number. A guess that is right saves a step; one that is wrong costs its rows. Neither changes a token.

Except for a *relaxed* sequence, which lets a guess stand that the true chain finds nearly as likely as any token. What
it says then depends on what was guessed, so that it gets a guess for every token: one more than there are rows for. How
many rows those are, which follows from measured times, changes nothing for it either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from quiltwork.core.names import ModelRef
from quiltwork.layers.protocol import PAGE_TOKENS
from quiltwork.serving.chunk import Chunker
from quiltwork.serving.config import EngineConfig
from quiltwork.serving.draft_length import MAX_DRAFT, Draft, draft_length
from quiltwork.serving.execute import Executor, Watch, Work, publish
from quiltwork.serving.kv import KVCache
from quiltwork.serving.pairing import PRIOR, TRIAL_DRAFT, Pairing, Phase, draft_room, own_acceptance
from quiltwork.serving.prefix import extend_hashes
from quiltwork.serving.roster import Roster
from quiltwork.serving.sampling import guess
from quiltwork.serving.sequence import Sequence
from quiltwork.serving.step_costs import StepCosts

FREE_SHARE = 8
"""A shadow starts only where this part of the KV memory stays free beside it: drafting is never worth a preemption."""
PAUSE_SECONDS = 5.0
"""How long nothing is drafted after drafts had to give their pages back."""

JUDGED_EVERY = 8
"""Steps between two judgements of whether a pair is useful at all."""

UseThreads = Callable[[list[tuple[int, int]]], None]
"""Told the (rows, bytes of weights) of a run that is about to be made."""


@dataclass(frozen=True)
class SpeculationCounters:
    """Counts since the start."""

    drafts: int = 0
    """Verifications of at least one drafted token."""
    draft_tokens: int = 0
    accepted_tokens: int = 0
    relaxed_tokens: int = 0
    """Those of them that the model let stand where it drew another, for sequences that allow that."""


@dataclass(eq=False)
class _Shadow:
    sequence: Sequence
    known: int
    """Tokens of the true sequence that it has taken over, virtual ones left out."""
    model: ModelRef
    """The true sequence's."""
    relaxed: bool
    """Whether the true sequence wants a guess for every token."""


@dataclass(eq=False)
class _Drafting:
    """One sequence's draft while it is made."""

    work: Work
    shadow: _Shadow
    rows: int
    tokens: list[int] = field(default_factory=list)

    @property
    def wish(self) -> int:
        """Tokens to draft."""
        return self.rows + self.shadow.relaxed


class Speculator:
    """Decides who drafts how much, and drafts. Belongs to the engine's thread."""

    def __init__(
        self, config: EngineConfig, cache: KVCache, chunker: Chunker, roster: Roster, clock: Callable[[], float]
    ) -> None:
        self._config = config
        self._cache = cache
        self._chunker = chunker
        self._roster = roster
        self._clock = clock
        self._executor = Executor(cache)
        self._pairs: dict[ModelRef, Pairing] = {}
        self._shadows: dict[int, _Shadow] = {}
        self._acceptance: dict[int, float] = {}
        self._wishes: dict[int, int] = {}
        self._verify_costs: dict[int, StepCosts] = {}
        self._draft_costs: dict[ModelRef, StepCosts] = {}
        self._busy = self._paused_until = 0.0
        self._drafting_seconds = 0.0
        self._steps = 0
        self._rows: tuple[int, int] | None = None
        self._resting = True
        """Whether every pair is off, and none is due for another trial."""
        self._counters = SpeculationCounters()

    # --- who has which draft ------------------------------------------------------------------------------------

    def pair(self, model: ModelRef, draft: ModelRef | None) -> None:
        """Draft for a model with another one from now on, or with none."""
        if draft is None:
            self._pairs.pop(model, None)
            self.release(model)
        elif model not in self._pairs or self._pairs[model].draft != draft:
            self._pairs[model] = Pairing(draft)

    @property
    def pairs(self) -> Mapping[ModelRef, Pairing]:
        """Models with a draft, and how the two get on."""
        return self._pairs

    @property
    def counters(self) -> SpeculationCounters:
        """What was drafted and accepted so far."""
        return self._counters

    def watch(self, watch: Watch | None) -> None:
        """Have every batch of the draft chains told."""
        self._executor.watch = watch

    # --- before the step ----------------------------------------------------------------------------------------

    def wishes(self, running: Seq[Sequence]) -> Mapping[int, int]:
        """Rows for drafted tokens in the next step, by sequence id; absent where nothing is to be drafted."""
        self._wishes = {}
        self._resting = all(pairing.resting(self._busy) for pairing in self._pairs.values())
        if self._resting and not any(seq.relaxed is not None for seq in running):
            return self._wishes
        decoding = [seq for seq in running if seq.pending == 1 and seq.generated]
        room = {seq.id: self._room(seq) for seq in decoding}
        able = [seq for seq in decoding if room[seq.id] > 0]
        if not able or (self._paused_until and self._clock() < self._paused_until):
            return self._wishes
        # Half of the step's tokens at most, and such that a prompt can still go on.
        spare = min(self._config.step_tokens // 2, self._config.step_tokens - len(decoding) - 2 * PAGE_TOKENS)
        share = spare // len(able)
        for seq_id, tokens in self._lengths(able, decoding).items():
            self._wishes[seq_id] = max(min(tokens, room[seq_id], share), 0)
        relaxed = {seq.id for seq in able if seq.relaxed is not None}
        self._wishes = {seq_id: rows for seq_id, rows in self._wishes.items() if rows or seq_id in relaxed}
        return self._wishes

    def reserved_bytes(self, running: Iterable[Sequence]) -> int:
        """Bytes of pages that the rows to verify need beyond those of the sequences' own next tokens."""
        total = 0
        for seq in running:
            tokens = self._wishes.get(seq.id, 0)
            if tokens and seq.served is not None:
                own, all_rows = seq.computed + 1, seq.computed + 1 + tokens
                total += (-(-all_rows // PAGE_TOKENS) - -(-own // PAGE_TOKENS)) * seq.served.page_bytes
        return total

    def give_way(self) -> bool:
        """Free all that drafts hold, others need it; draft nothing for a while. False where nothing was held."""
        changed = bool(self._wishes or self._shadows)
        self._wishes = {}
        for sequence_id in list(self._shadows):
            self._let_go(sequence_id)
        if changed:
            self._paused_until = self._clock() + PAUSE_SECONDS
        return changed

    def _room(self, seq: Sequence) -> int:
        """Most tokens that could be drafted for a sequence now."""
        pairing = self._pairs.get(seq.model)
        if not seq.speculation or pairing is None or seq.served is None:
            return 0
        draft = self._roster.served.get(pairing.draft)
        return draft_room(seq, seq.served, draft) if draft is not None else 0

    def _lengths(self, able: list[Sequence], decoding: list[Sequence]) -> dict[int, int]:
        """Tokens that each sequence should draft, as far as speed is concerned.

        Where it is not known any more what a step without drafts costs, the next one is such a step.
        """
        if self._config.draft_tokens is not None:
            return dict.fromkeys((seq.id for seq in able), self._config.draft_tokens)
        lengths: dict[int, int] = {}
        on = {seq.id for seq in able if seq.relaxed is not None or self._pairs[seq.model].phase is Phase.ON}
        tried: set[ModelRef] = set()
        decided: dict[tuple[ModelRef, int], int] = {}
        verify = self._verify(decoding)
        for seq in able:
            pairing = self._pairs[seq.model]
            pairing.wake(self._busy)
            if pairing.phase is Phase.TRIAL and seq.model not in tried:
                tried.add(seq.model)
                lengths[seq.id] = TRIAL_DRAFT
            elif seq.id in on and not verify.stale(len(decoding)):
                acceptance = round(64 * self._acceptance.setdefault(seq.id, pairing.acceptance))
                key = (pairing.draft, acceptance)
                if key not in decided:
                    decided[key] = draft_length(
                        acceptance / 64,
                        self._draft(pairing.draft).seconds,
                        verify.seconds,
                        speculating=len(on),
                        rows=len(decoding),
                    ).tokens
                lengths[seq.id] = decided[key]
            elif seq.relaxed is not None:
                lengths[seq.id] = 0
        for seq in able:
            if seq.id in on and seq.relaxed is None and not lengths.get(seq.id):
                pair = self._pairs[seq.model].acceptance
                self._acceptance[seq.id] = own_acceptance(self._acceptance.get(seq.id, pair), pair, 0, 0)
        return lengths

    def _verify(self, decoding: Iterable[Sequence]) -> StepCosts:
        """Costs of the true chains' steps: apart for each size of what is served, for a row of each costs otherwise."""
        heaviest = max((seq.served.weight_bytes for seq in decoding if seq.served is not None), default=0)
        return self._verify_costs.setdefault(heaviest.bit_length(), StepCosts())

    def _draft(self, draft: ModelRef) -> StepCosts:
        return self._draft_costs.setdefault(draft, StepCosts())

    # --- within the step ----------------------------------------------------------------------------------------

    def draft(self, works: Seq[Work], use_threads: UseThreads) -> None:
        """Draft for the works of those who wished for it; these works then verify what was drafted."""
        self._rows, self._drafting_seconds = None, 0.0
        if self._resting and not self._wishes:
            return
        began = self._clock()
        asked = [
            _Drafting(work, shadow, self._wishes[work.seq.id])
            for work in works
            if work.seq.id in self._wishes
            and work.start + 1 == len(work.seq.tokens)
            and (shadow := self._shadow(work.seq)) is not None
        ]
        active = asked
        while active:
            active = self._advance(active, use_threads)
        plain = sum(work.count for work in works)
        pure = all(work.count == 1 and work.start + 1 == len(work.seq.tokens) for work in works)
        for drafting in asked:
            work = drafting.work
            if drafting.tokens and drafting.rows:
                self._chunker.stretch(work, drafting.tokens[: drafting.rows])
            if drafting.shadow.relaxed:
                work.beyond = tuple(drafting.tokens[len(work.drafted) : len(work.drafted) + 1])
        self._rows = (plain, sum(work.count for work in works)) if pure and works else None
        self._drafting_seconds = self._clock() - began

    def _advance(self, active: list[_Drafting], use_threads: UseThreads) -> list[_Drafting]:
        """One run of the draft chains: a token more for everyone in ``active``. Returns who goes on.

        Who has not caught up with its prompt by then goes on in the next step; one that is relaxed, at once.
        """
        runs: dict[int, _Drafting] = {}
        coming: set[bytes] = set()
        late = {drafting.work.seq.id: drafting for drafting in active if drafting.shadow.relaxed}
        works: list[Work] = []
        budget = self._config.step_tokens
        for drafting in active:
            seq = drafting.shadow.sequence
            if budget <= 0:
                break
            work = self._chunker.next_work(seq, min(seq.pending, self._config.prefill_chunk, budget), coming)
            if work is None:
                self._let_go(drafting.work.seq.id)
                late.pop(drafting.work.seq.id, None)
            elif work.count:
                works.append(work)
                runs[seq.id] = drafting
                budget -= work.count
        if not works:
            return []
        use_threads([(work.count, work.seq.served.weight_bytes) for work in works if work.seq.served])
        began = self._clock()
        done = self._executor.run(works)
        for work in works:
            work.seq.computed = work.start + work.count
        going: list[_Drafting] = []
        for group, logits in done:
            drafting_here = [runs[work.seq.id] for work in group]
            states = [work.seq.sampler for work in group]
            guesses = guess(logits.float(), states, [len(d.tokens) for d in drafting_here])
            for drafting, token in zip(drafting_here, guesses, strict=True):
                late.pop(drafting.work.seq.id, None)
                if token is None:
                    continue
                drafting.tokens.append(token)
                drafting.shadow.sequence.tokens.append(token)
                if len(drafting.tokens) < drafting.wish and token not in drafting.work.seq.stop_ids:
                    going.append(drafting)
        # Catching up with a prompt is no part of what a drafted token costs.
        if all(work.count <= 2 for work in works) and len({work.seq.model for work in works}) == 1:
            self._draft(works[0].seq.model).measured(len(works), self._clock() - began)
        return [*going, *late.values()]

    def _shadow(self, seq: Sequence) -> _Shadow | None:
        """A sequence's shadow, brought up to what is verified; None where there is no memory for one."""
        assert seq.served is not None
        draft = self._roster.served.get(self._pairs[seq.model].draft)
        shadow = self._shadows.get(seq.id)
        if shadow is not None and shadow.sequence.served is not draft:
            self._let_go(seq.id)
            shadow = None
        known = seq.tokens[seq.served.virtual_tokens :]
        if shadow is not None:
            self._follow(shadow, known)
            return shadow
        if draft is None:
            return None
        need = -(-(draft.virtual_tokens + len(known) + MAX_DRAFT) // PAGE_TOKENS) * draft.page_bytes
        if self._cache.free_bytes - need < self._cache.capacity // FREE_SHARE:
            return None
        mirrored = Sequence(
            id=-seq.id,
            model=draft.ref,
            prompt=[],
            sampler=seq.sampler,
            max_tokens=seq.max_tokens,
            tenant=seq.tenant,
            public_prefix=seq.public_prefix,
        )
        mirrored.served = draft
        draft.running += 1
        mirrored.tokens = [-1 - i for i in range(draft.virtual_tokens)] + known
        mirrored.prompt_len = draft.virtual_tokens + seq.prompt_len - seq.served.virtual_tokens
        self._chunker.start(mirrored)
        shadow = self._shadows[seq.id] = _Shadow(mirrored, len(known), seq.model, seq.relaxed is not None)
        return shadow

    def _follow(self, shadow: _Shadow, known: list[int]) -> None:
        """Take over the verified tokens: what was drafted otherwise is forgotten, with its keys and values."""
        seq = shadow.sequence
        assert seq.served is not None
        first = seq.served.virtual_tokens
        at = shadow.known
        while at < len(known) and first + at < len(seq.tokens) and seq.tokens[first + at] == known[at]:
            at += 1
        self._chunker.truncate(seq, first + at)
        seq.tokens[first + at :] = known[at:]
        shadow.known = len(known)
        complete = seq.computed // PAGE_TOKENS
        if complete > seq.published and self._config.prefix_cache:
            extend_hashes(seq)
            for hop, segment in enumerate(seq.route):
                publish(self._cache, seq, segment, hop, seq.published, complete)
            seq.published = complete

    # --- after the step -----------------------------------------------------------------------------------------

    def judged(self, seq: Sequence, drafted: int, accepted: int, relaxed: int = 0) -> None:
        """Take in what became of a sequence's draft.

        relaxed : how many of the accepted tokens are not what the model itself drew.
        """
        c = self._counters
        self._counters = SpeculationCounters(
            c.drafts + 1, c.draft_tokens + drafted, c.accepted_tokens + accepted, c.relaxed_tokens + relaxed
        )
        pairing = self._pairs.get(seq.model)
        if pairing is None:
            return
        # What others may take as well is what the pair agrees on, not what this sequence lets pass.
        for _ in range(relaxed):
            pairing.observe(1, 0)
        pairing.observe(drafted - relaxed, accepted - relaxed)
        if seq.id in self._acceptance:
            own = self._acceptance[seq.id]
            self._acceptance[seq.id] = own_acceptance(own, pairing.acceptance, drafted, accepted)

    def measured(self, works: Seq[Work], seconds: float) -> None:
        """Take in what a whole step took, drafting included, and draw conclusions for the next ones."""
        if not self._pairs:
            return
        self._busy += seconds
        if self._resting and not self._wishes:
            return
        self._steps += 1
        verify = self._verify([work.seq for work in works])
        extra = 0.0
        if self._rows is not None:
            plain, rows = self._rows
            verify.measured(rows, seconds - self._drafting_seconds)
            extra = max(verify.seconds(rows) - verify.seconds(plain), 0.0)
        for model in {work.seq.model for work in works}:
            pairing = self._pairs.get(model)
            if pairing is None or pairing.phase is Phase.OFF or self._config.draft_tokens is not None:
                continue
            if pairing.phase is Phase.TRIAL:
                pairing.wasted += self._drafting_seconds + extra
            elif self._steps % JUDGED_EVERY:
                continue
            if pairing.judge(self._promise(pairing, verify).tokens > 0, self._busy):
                self._rest(model)

    def _promise(self, pairing: Pairing, verify: StepCosts) -> Draft:
        """What drafting promises a sequence that is alone."""
        draft = self._draft(pairing.draft)
        if not (draft.known and verify.known):
            return Draft(TRIAL_DRAFT, 1.0 + PRIOR)
        return draft_length(pairing.acceptance, draft.seconds, verify.seconds)

    def forget(self, sequence_id: int) -> None:
        """A sequence has ended or gave its pages back: so does its shadow. Harmless where there is none."""
        self._acceptance.pop(sequence_id, None)
        self._let_go(sequence_id)

    def _rest(self, model: ModelRef) -> None:
        """Free what is held for drafts that will not be made for a while."""
        for sequence_id, shadow in list(self._shadows.items()):
            if shadow.model == model and not shadow.relaxed:
                self._let_go(sequence_id)

    def release(self, model: ModelRef) -> None:
        """Free what shadows of a model, or by it as a draft, hold."""
        for sequence_id, shadow in list(self._shadows.items()):
            if model in (shadow.model, shadow.sequence.model):
                self._let_go(sequence_id)

    def _let_go(self, sequence_id: int) -> None:
        shadow = self._shadows.pop(sequence_id, None)
        if shadow is None:
            return
        seq = shadow.sequence
        for runs in seq.runs:
            for run in reversed(runs):
                self._cache.release(run)
        seq.runs = []
        assert seq.served is not None
        self._roster.leave(seq.served)
