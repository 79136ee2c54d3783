"""A model and its draft: how well they agree, and whether drafting is on, off for a while, or on trial."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from quiltwork.core.names import ModelRef
from quiltwork.serving.draft_length import MAX_DRAFT
from quiltwork.serving.sequence import Sequence, Version

PRIOR = 0.7
"""Acceptance assumed of a pair that nothing is known of, with the weight of PRIOR_TOKENS tokens."""
PRIOR_TOKENS = 4
WEIGHT = 0.01
"""Of one drafted token in a pair's acceptance, once many were seen: it wanders by 0.035 then. With twice the weight a
pair that gains a fifth is found useless by chance every few thousand tokens, and off for ten seconds."""
OWN_WEIGHT = 0.04
"""Of one drafted token in a sequence's own acceptance."""
RETURN = 0.01
"""How far a sequence that drafts nothing goes back to its pair's acceptance in a step: it may agree again later."""
TRIAL_TOKENS = 12
"""Drafted tokens that a trial judges before it ends."""
HOPELESS_TOKENS = 5
"""A trial ends after this many already where none of them was right: a draft that is right every second time comes to
that once in 32 trials, and gets another one."""
TRIAL_DRAFT = 1
"""Tokens that a sequence on trial drafts: the second of two says nothing where the first is wrong."""
DOUBTS = 3
"""Judgements in a row that must find a pair useless before it is off."""
OFF_SECONDS = 10.0
"""Busy seconds that a useless pair is off; doubled with every trial that fails again, up to MAX_OFF_SECONDS."""
MAX_OFF_SECONDS = 160.0
MAX_WASTE = 0.01
"""Share of busy time that trials may cost."""


class Phase(Enum):
    """Where a pair stands."""

    TRIAL = "trial"
    """One sequence drafts a little, to see."""
    ON = "on"
    OFF = "off"


@dataclass(eq=False)
class Pairing:
    """One model with one draft. Times are busy seconds of the engine: idle ones earn no trial."""

    draft: ModelRef
    acceptance: float = PRIOR
    """Smoothed share of drafted tokens accepted, among those that verification came to."""
    phase: Phase = Phase.TRIAL
    tested: int = 0
    """Drafted tokens judged since the trial began."""
    right: int = 0
    """Those of them that were right."""
    wasted: float = 0.0
    """Seconds that the trial cost."""
    failures: int = 0
    """Trials in a row that found it useless."""
    doubts: int = 0
    resume_at: float = 0.0

    def observe(self, drafted: int, accepted: int) -> None:
        """Take in a verification: the first token that is not accepted is the last one it came to."""
        for agreed in [True] * accepted + [False] * (accepted < drafted):
            self.tested += 1
            self.right += agreed
            weight = max(WEIGHT, 1.0 / (PRIOR_TOKENS + self.tested))
            self.acceptance += weight * (agreed - self.acceptance)

    def judge(self, useful: bool, busy: float) -> bool:
        """Draw the conclusion; returns whether the pair is off from now on.

        useful : whether drafting would pay for a sequence that is alone.
        """
        hopeless = self.tested >= HOPELESS_TOKENS and not self.right
        if self.phase is Phase.TRIAL and (hopeless or self.tested >= TRIAL_TOKENS):
            if useful and not hopeless:
                self.phase, self.failures, self.doubts = Phase.ON, 0, 0
            else:
                self._rest(busy)
        elif self.phase is Phase.ON:
            self.doubts = 0 if useful else self.doubts + 1
            if self.doubts >= DOUBTS:
                self._rest(busy)
        return self.phase is Phase.OFF

    def wake(self, busy: float) -> None:
        """Begin another trial where it has been off for long enough; what it knew before counts no more."""
        if self.phase is Phase.OFF and not self.resting(busy):
            self.phase, self.acceptance = Phase.TRIAL, PRIOR
            self.tested, self.right, self.wasted, self.doubts = 0, 0, 0.0, 0

    def resting(self, busy: float) -> bool:
        """Whether it is off, and not due for another trial."""
        return self.phase is Phase.OFF and busy < self.resume_at

    def _rest(self, busy: float) -> None:
        pause = min(OFF_SECONDS * 2**self.failures, MAX_OFF_SECONDS)
        self.resume_at = busy + max(pause, self.wasted / MAX_WASTE)
        self.phase, self.failures = Phase.OFF, self.failures + 1


def own_acceptance(own: float, pair: float, drafted: int, accepted: int) -> float:
    """A sequence's acceptance after a step in which it drafted ``drafted`` tokens (0 where it drafted none)."""
    if drafted == 0:
        return own + RETURN * (pair - own)
    for agreed in [True] * accepted + [False] * (accepted < drafted):
        own += OWN_WEIGHT * (agreed - own)
    return own


def draft_room(seq: Sequence, version: Version, draft: Version) -> int:
    """Most tokens that a draft could propose for a sequence now; at most 0 where it could not.

    version : the model that the sequence is served by.
    """
    if draft.vocab_size != version.vocab_size:
        return 0
    ahead = len(seq.tokens) - version.virtual_tokens + draft.virtual_tokens
    return min(
        MAX_DRAFT,
        seq.max_tokens - seq.generated - 1,
        version.max_len - len(seq.tokens) - 1,
        draft.max_len - ahead,
    )
