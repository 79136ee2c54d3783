"""Exact speculation over agents: a small chain drafts tokens, the true chain verifies them all on one way.

A sequence that speculates has a *shadow*: a request to the draft's chain, with a negative number, that agents hold like
any other but drop before any other. The front guesses a token from each of its logits with the sequence's own next
random numbers; what was guessed then goes up the true chain as further rows of the sequence's next token, and the front
draws every token from the true logits as ever. So nothing here changes a token, whatever is lost or guessed wrong: a
draft that cannot be made leaves a step without one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from quiltwork.core.names import ModelRef
from quiltwork.layers.protocol import PAGE_TOKENS
from quiltwork.serving.agents.flight import Departure, Flight, board
from quiltwork.serving.agents.holdings import Holdings, Laying, Placed
from quiltwork.serving.agents.message import Output
from quiltwork.serving.agents.prospects import Prospects
from quiltwork.serving.config import EngineConfig
from quiltwork.serving.draft_length import MAX_DRAFT
from quiltwork.serving.pairing import Pairing, draft_room
from quiltwork.serving.policy.queueing import WorkClass
from quiltwork.serving.sampling import guess
from quiltwork.serving.sequence import Sequence
from quiltwork.serving.speculate import FREE_SHARE, PAUSE_SECONDS, SpeculationCounters

CATCH_UP_ROWS = 2 * PAGE_TOKENS
"""A shadow that lags by more catches up while its sequence goes on without."""


@dataclass(eq=False)
class _Shadow:
    flight: Flight
    """Of the draft's chain; what is guessed is its ``drafted``."""
    model: ModelRef
    """The true sequence's."""
    draws_for: Flight | None = None
    """The true sequence, while it waits for a draft."""
    wish: int = 0
    """Tokens to draft for it."""
    began: float = 0.0
    sent: float = 0.0
    together: int = 0
    """Drafts that were on their way when it was sent; 0 where that way is not measured."""


class Speculation:
    """The front's drafts. Belongs to its thread.

    Parameters
    ----------
    most_rows : of one step of an agent.
    launch : sends what a flight has under way; False where nobody can take it.
    release : has all agents forget a request.
    """

    def __init__(
        self,
        config: EngineConfig,
        most_rows: int,
        holdings: Holdings,
        launch: Callable[[Flight, WorkClass], bool],
        release: Callable[[int], None],
        clock: Callable[[], float],
    ) -> None:
        self._config, self._most_rows, self._holdings = config, most_rows, holdings
        self._launch, self._release, self._clock = launch, release, clock
        self._prospects = Prospects(config.draft_tokens)
        self._shadows: dict[int, _Shadow] = {}
        """By the true sequence's id."""
        self._epochs = count(1)
        self._stranded: list[Flight] = []
        self._paused_until = 0.0

    @property
    def pairs(self) -> Mapping[ModelRef, Pairing]:
        """Models with a draft, and how the two get on."""
        return self._prospects.pairs

    @property
    def counters(self) -> SpeculationCounters:
        """What was drafted and accepted so far."""
        return self._prospects.counters

    @property
    def layings(self) -> set[Laying]:
        """Layouts that shadows use. Any thread."""
        return {shadow.flight.laying for shadow in list(self._shadows.values())}

    def pair(self, model: ModelRef, draft: ModelRef | None) -> None:
        """Draft for a model with another one from now on, or with none."""
        pairs = self._prospects.pairs
        if draft is None:
            pairs.pop(model, None)
            self.release(model)
        elif model not in pairs or pairs[model].draft != draft:
            pairs[model] = Pairing(draft)

    # --- drafting -----------------------------------------------------------------------------------------------

    def begin(self, going: Seq[Flight], flights: Iterable[Flight]) -> set[int]:
        """Start drafts for sequences that are about to go on: the ids of those that wait for one now.

        flights : all that are on their way, those included.
        """
        able = {f.seq.id: room for f in going if (room := self._room(f.seq)) > 0}
        if not able or self._clock() < self._paused_until:
            return set()
        decoding = [flight.seq for flight in flights if flight.seq.generated]
        lengths = self._prospects.lengths([f.seq for f in going if f.seq.id in able], decoding)
        share = self._most_rows // 2 // max(len(decoding), 1)
        return {
            f.seq.id
            for f in going
            if (wish := min(lengths.get(f.seq.id, 0), able.get(f.seq.id, 0), share)) > 0 and self._draft(f, wish)
        }

    def _room(self, seq: Sequence) -> int:
        """Most tokens that could be drafted for a sequence now."""
        pairing = self.pairs.get(seq.model)
        if pairing is None or not seq.speculation or seq.pending != 1 or not seq.generated or seq.version is None:
            return 0
        draft = self._holdings.models.get(pairing.draft)
        return draft_room(seq, seq.version, draft) if draft is not None else 0

    def _draft(self, flight: Flight, wish: int) -> bool:
        """Have a sequence's shadow draft; False where there is none, or it is not up to it yet."""
        shadow = self._shadow(flight)
        if shadow is None or shadow.flight.flying is not None:
            return False
        _follow(shadow, flight.seq)
        shadow.began = self._clock()
        if shadow.flight.known - shadow.flight.seq.computed > CATCH_UP_ROWS:
            self._send(shadow)
            return False
        shadow.draws_for, shadow.wish = flight, wish
        if not self._send(shadow):
            shadow.draws_for = None
            self._drop(flight.seq.id)
            return False
        return True

    def _shadow(self, flight: Flight) -> _Shadow | None:
        """A sequence's shadow; None where there is no memory for one."""
        seq = flight.seq
        draft = self._holdings.models.get(self.pairs[seq.model].draft)
        shadow = self._shadows.get(seq.id)
        if shadow is not None and shadow.flight.placed is not draft:
            self._drop(seq.id)
            shadow = None
        tokens = len(seq.tokens) + MAX_DRAFT
        if draft is None or not self._roomy(flight.placed, 0) or not self._roomy(draft, 0 if shadow else tokens):
            return None
        if shadow is None:
            assert seq.version is not None
            mirrored = Sequence(
                id=-seq.id, model=draft.ref, prompt=[], sampler=seq.sampler, max_tokens=seq.max_tokens,
                tenant=seq.tenant, public_prefix=seq.public_prefix,
            )  # fmt: skip
            mirrored.version = draft
            mirrored.tokens = [-1 - i for i in range(draft.virtual_tokens)]
            mirrored.prompt_len = draft.virtual_tokens + seq.prompt_len - seq.version.virtual_tokens
            # What may still be on its way for an earlier shadow of this sequence must not be taken for this one's.
            mirrored.departures = next(self._epochs)
            shadow = self._shadows[seq.id] = _Shadow(board(mirrored, draft), seq.model)
        return shadow

    def _roomy(self, placed: Placed, tokens: int) -> bool:
        """Whether enough memory would stay free where a model is held, with ``tokens`` tokens more."""
        for agent, nbytes in placed.needs(tokens).items():
            beat = self._holdings.contact.beats.get(agent)
            if beat is None or beat.kv_free - nbytes < beat.kv_capacity // FREE_SHARE:
                return False
        return True

    def _send(self, shadow: _Shadow) -> bool:
        """Send what comes next of a shadow; False where nobody can take it."""
        flight = shadow.flight
        start = flight.seq.computed
        end = min(flight.known, start + self._config.prefill_chunk)
        flight.flying = (start, end)
        flight.wants = int(end == flight.known and shadow.draws_for is not None)
        shadow.sent = self._clock()
        # Catching up with a prompt is no part of what a drafted token takes.
        drafting = flight.wants and end - start <= 2
        shadow.together = sum(other.flight.flying is not None for other in self._shadows.values()) if drafting else 0
        return self._launch(flight, WorkClass.DECODE if flight.wants else WorkClass.PREFILL)

    @torch.inference_mode()
    def arrived(self, outputs: Seq[Output]) -> list[tuple[Flight, tuple[int, ...]]]:
        """Guess from what came back of shadows. The true sequences whose drafts are made, and what was drafted."""
        asking: list[tuple[_Shadow, Flight]] = []
        rows: list[Tensor] = []
        for output in outputs:
            shadow = self._shadows.get(-output.request)
            if shadow is None or not shadow.flight.awaits(output):
                continue
            flight, now = shadow.flight, self._clock()
            flight.visited, flight.flying = list(output.visited), None
            flight.seq.computed = output.end
            flight.told = min(output.end, len(flight.seq.tokens)) // PAGE_TOKENS
            if shadow.together:
                self._prospects.drafted(flight.seq.model, shadow.together, now - shadow.sent)
            if flight.seq.computed == flight.known and shadow.draws_for is not None:
                asking.append((shadow, shadow.draws_for))
                rows.append(output.rows[-1])
            elif flight.seq.computed < flight.known and not self._send(shadow):
                self._drop(-output.request)
        if not asking:
            return []
        depths = [len(shadow.flight.drafted) for shadow, _ in asking]
        guesses = guess(torch.stack(rows).float(), [true.seq.sampler for _, true in asking], depths)
        return [made for (shadow, true), token in zip(asking, guesses, strict=True)
                if (made := self._add(shadow, true, token)) is not None]  # fmt: skip

    def _add(self, shadow: _Shadow, true: Flight, token: int | None) -> tuple[Flight, tuple[int, ...]] | None:
        """Add a guess to a draft; the draft, where that was the last one."""
        flight, more = shadow.flight, False
        if token is not None:
            flight.drafted = (*flight.drafted, token)
            more = len(flight.drafted) < shadow.wish and token not in true.seq.stop_ids
        if more and self._send(shadow):
            return None
        shadow.draws_for = None
        true.drafting_s = self._clock() - shadow.began
        drafted = flight.drafted
        if more:
            self._drop(true.seq.id)  # nobody can take it any more
        return true, drafted

    # --- what became of it --------------------------------------------------------------------------------------

    def depart(self, flight: Flight, flights: Iterable[Flight]) -> None:
        """A decoding sequence is sent on its way, beside others: with prompts among them it is not measured."""
        plain = 1
        for other in flights:
            if other is flight or other.flying is None:
                continue
            if not other.seq.generated:
                flight.departed = None
                return
            plain += other.flying[1] - other.flying[0]
        flight.departed = Departure(self._clock(), plain, plain + len(flight.drafted))

    def back(self, flight: Flight) -> None:
        """A decoding sequence has come back."""
        departed, spent = flight.departed, flight.drafting_s
        flight.departed, flight.drafting_s = None, 0.0
        seconds = self._clock() - departed.at if departed is not None else 0.0
        if self._prospects.answered(flight.seq.model, departed, seconds, spent):
            self.release(flight.seq.model)

    def judged(self, seq: Sequence, drafted: int, accepted: int) -> None:
        """Take in what became of a sequence's draft."""
        self._prospects.judged(seq, drafted, accepted)

    def worked(self, seconds: float) -> None:
        """The front has been busy for so long."""
        self._prospects.busy_s += seconds

    # --- what is lost -------------------------------------------------------------------------------------------

    def stranded(self) -> list[Flight]:
        """Sequences whose drafts were lost while they waited for them: they go on without."""
        stranded, self._stranded = self._stranded, []
        return stranded

    def lacks(self, request: int, epoch: int, *, pause: bool) -> None:
        """Agents cannot go on with a shadow. pause : because memory is short, or worse: draft nothing for a while."""
        shadow = self._shadows.get(-request)
        if shadow is None or shadow.flight.epoch != epoch:
            return
        self._drop(-request)
        if pause:
            self._paused_until = self._clock() + PAUSE_SECONDS

    def miss(self, agent: str) -> None:
        """An agent is lost, and with it what shadows had there."""
        for sequence_id, shadow in list(self._shadows.items()):
            if any(agent in holders for holders in shadow.flight.laying.plan.holders):
                self._drop(sequence_id)

    def release(self, model: ModelRef) -> None:
        """Give up shadows of a model, or by it as a draft."""
        for sequence_id, shadow in list(self._shadows.items()):
            if model in (shadow.model, shadow.flight.seq.model):
                self._drop(sequence_id)

    def forget(self, sequence_id: int) -> None:
        """A sequence has ended or starts afresh: so does its shadow. Harmless where there is none."""
        self._prospects.forget(sequence_id)
        self._drop(sequence_id)

    def _drop(self, sequence_id: int) -> None:
        shadow = self._shadows.pop(sequence_id, None)
        if shadow is None:
            return
        if shadow.draws_for is not None:
            self._stranded.append(shadow.draws_for)
        self._release(-sequence_id)


def _follow(shadow: _Shadow, seq: Sequence) -> None:
    """Take over the verified tokens: what was guessed otherwise is forgotten."""
    flight, version = shadow.flight, seq.version
    assert version is not None
    mine, first = flight.seq, flight.placed.virtual_tokens
    known = seq.tokens[version.virtual_tokens :]
    at = len(mine.tokens) - first
    for token in flight.drafted:
        if at >= len(known) or known[at] != token:
            break
        at += 1
    mine.computed = min(mine.computed, first + at)
    mine.tokens[len(mine.tokens) :] = known[len(mine.tokens) - first :]
    flight.drafted = ()
