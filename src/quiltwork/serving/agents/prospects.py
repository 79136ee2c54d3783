"""What drafting over agents promises: how well models and drafts agree, and what ways through the agents take.

Here a step is one way: from the front through the agents and back. What it costs by the rows that are on their way
together is measured, as the one-process engine measures its steps, and the same decision is taken from it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as Seq

from quiltwork.core.names import ModelRef
from quiltwork.serving.agents.flight import Departure
from quiltwork.serving.draft_length import draft_length
from quiltwork.serving.pairing import TRIAL_DRAFT, Pairing, Phase, own_acceptance
from quiltwork.serving.sequence import Sequence
from quiltwork.serving.speculate import JUDGED_EVERY, SpeculationCounters
from quiltwork.serving.step_costs import StepCosts


class Prospects:
    """Pairs of models and drafts, and how much to draft. fixed : tokens to draft, whatever that promises."""

    def __init__(self, fixed: int | None) -> None:
        self.pairs: dict[ModelRef, Pairing] = {}
        self.counters = SpeculationCounters()
        self.busy_s = 0.0
        """Seconds in which the front had something to do."""
        self._fixed = fixed
        self._acceptance: dict[int, float] = {}
        self._on_trial: dict[ModelRef, int] = {}
        """The one sequence of a model that a draft is tried on."""
        self._verify: dict[ModelRef, StepCosts] = {}
        self._draft: dict[ModelRef, StepCosts] = {}
        self._answers: Counter[ModelRef] = Counter()

    def lengths(self, able: Seq[Sequence], decoding: Seq[Sequence]) -> dict[int, int]:
        """Tokens to draft for each of ``able``, as far as speed is concerned; absent where none.

        decoding : all sequences that decode, those included. Where it is not known any more what a way without drafts
        takes, the next one is such a way.
        """
        if self._fixed is not None:
            return dict.fromkeys((seq.id for seq in able), self._fixed)
        lengths: dict[int, int] = {}
        together = sum(seq.model in self.pairs and self.pairs[seq.model].phase is Phase.ON for seq in decoding)
        for seq in able:
            pairing = self.pairs[seq.model]
            pairing.wake(self.busy_s)
            if pairing.phase is Phase.TRIAL and self._on_trial.setdefault(seq.model, seq.id) == seq.id:
                lengths[seq.id] = TRIAL_DRAFT
            if pairing.phase is not Phase.ON:
                continue
            own = self._acceptance.setdefault(seq.id, pairing.acceptance)
            verify = self._verify.setdefault(seq.model, StepCosts())
            tokens = 0
            if not verify.stale(len(decoding)):
                draft = self._draft.setdefault(pairing.draft, StepCosts())
                tokens = draft_length(
                    own, draft.seconds, verify.seconds, speculating=max(together, 1), rows=len(decoding)
                ).tokens
            if tokens:
                lengths[seq.id] = tokens
            else:
                self._acceptance[seq.id] = own_acceptance(own, pairing.acceptance, 0, 0)
        return lengths

    def drafted(self, draft: ModelRef, together: int, seconds: float) -> None:
        """One more token of ``together`` drafts took ``seconds``."""
        self._draft.setdefault(draft, StepCosts()).measured(together, seconds)

    def judged(self, seq: Sequence, drafted: int, accepted: int) -> None:
        """Take in what became of a sequence's draft."""
        c = self.counters
        self.counters = SpeculationCounters(c.drafts + 1, c.draft_tokens + drafted, c.accepted_tokens + accepted)
        pairing = self.pairs.get(seq.model)
        if pairing is None:
            return
        pairing.observe(drafted, accepted)
        if seq.id in self._acceptance:
            own = self._acceptance[seq.id]
            self._acceptance[seq.id] = own_acceptance(own, pairing.acceptance, drafted, accepted)

    def answered(self, model: ModelRef, departed: Departure | None, seconds: float, drafting_s: float) -> bool:
        """A decoding sequence has come back after ``seconds``, for which was drafted for ``drafting_s`` before.

        Returns whether drafting for the model is off from now on.
        """
        pairing = self.pairs.get(model)
        if pairing is None:
            return False
        verify, extra = self._verify.setdefault(model, StepCosts()), 0.0
        if departed is not None:
            verify.measured(departed.rows, seconds)
            extra = max(verify.seconds(departed.rows) - verify.seconds(departed.plain_rows), 0.0)
        if pairing.phase is Phase.OFF or self._fixed is not None:
            return False
        self._answers[model] += 1
        if pairing.phase is Phase.TRIAL:
            pairing.wasted += drafting_s + extra if drafting_s else 0.0
        elif self._answers[model] % JUDGED_EVERY:
            return False
        off = pairing.judge(self._useful(pairing, verify), self.busy_s)
        if pairing.phase is not Phase.TRIAL:
            self._on_trial.pop(model, None)
        return off

    def _useful(self, pairing: Pairing, verify: StepCosts) -> bool:
        """Whether drafting would pay for a sequence that is alone; taken for granted until it can be told."""
        draft = self._draft.setdefault(pairing.draft, StepCosts())
        if not (draft.known and verify.known):
            return True
        return draft_length(pairing.acceptance, draft.seconds, verify.seconds).tokens > 0

    def forget(self, sequence_id: int) -> None:
        """A sequence has ended or starts afresh."""
        self._acceptance.pop(sequence_id, None)
        for model in [model for model, id in self._on_trial.items() if id == sequence_id]:
            del self._on_trial[model]
