"""How many tokens to draft before the true chain verifies them: a pure decision over acceptance and costs.

A draft of k tokens, each accepted with probability a, brings ``1 + a + ... + a**k`` tokens for one verification. It
costs k runs of the draft chain and k more rows in the true chain's step. Where a step is bound by reading weights those
rows are nearly free; where it holds many sequences they are not, and the best k falls to 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

MAX_DRAFT = 8
"""Most tokens drafted for one verification."""
LEAST_SPEEDUP = 1.05
"""A draft that promises less is not worth its trouble."""

Seconds = Callable[[int], float]
"""Seconds of one run by its rows."""


@dataclass(frozen=True)
class Draft:
    """How much to draft, and what it promises."""

    tokens: int
    """0 to MAX_DRAFT."""
    speedup: float
    """Tokens per second of the whole step against drafting nothing; 1 where nothing is drafted."""


NO_DRAFT = Draft(0, 1.0)


def expected_tokens(acceptance: float, drafted: int) -> float:
    """Tokens that one verification of ``drafted`` tokens brings on average, the true chain's own one included."""
    return sum(acceptance**i for i in range(drafted + 1))


def speedup(
    acceptance: float, drafted: int, draft: Seconds, verify: Seconds, *, speculating: int = 1, rows: int = 1
) -> float:
    """Tokens per second with ``drafted`` tokens per speculating sequence, over those without.

    Parameters
    ----------
    acceptance : probability in [0, 1] that a drafted token is what the true chain says.
    draft : seconds of a run of the draft chain by rows (one per speculating sequence).
    verify : seconds of a step of the true chain by rows, all sequences together.
    speculating : sequences that draft together.
    rows : rows of the step without any draft: one per decoding sequence, speculating or not.
    """
    plain = verify(rows) / rows
    tokens = speculating * expected_tokens(acceptance, drafted) + rows - speculating
    seconds = verify(rows + speculating * drafted) + drafted * draft(speculating)
    return plain * tokens / seconds if seconds > 0 else 1.0


def draft_length(
    acceptance: float,
    draft: Seconds,
    verify: Seconds,
    *,
    speculating: int = 1,
    rows: int = 1,
    most: int = MAX_DRAFT,
    least_speedup: float = LEAST_SPEEDUP,
) -> Draft:
    """The number of tokens to draft that makes the step fastest per token; none where it promises too little.

    The parameters are those of ``speedup``. It never falls as acceptance rises, and is 0 where nothing is accepted.
    """
    if acceptance <= 0.0:
        return NO_DRAFT
    best = NO_DRAFT
    for drafted in range(1, min(most, MAX_DRAFT) + 1):
        gain = speedup(acceptance, drafted, draft, verify, speculating=speculating, rows=rows)
        if gain > best.speedup:
            best = Draft(drafted, gain)
    return best if best.speedup >= least_speedup else NO_DRAFT
