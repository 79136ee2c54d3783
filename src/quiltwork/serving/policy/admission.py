"""Where a new request should live: what decoding there costs itself, and everybody who decodes there already.

A step of an agent runs every segment in use once, however many are in it. So a request that joins segments in use costs
next to nothing, and one that brings a segment into use makes every step of everybody there longer for as long as it
stays. An idle agent is not the best place just because nothing waits there, nor a busy one a bad place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import pow

from quiltwork.serving.policy.cost import SegmentProfile
from quiltwork.serving.policy.queueing import Instance


@dataclass(frozen=True)
class InUse:
    """What goes on at one segment of an agent."""

    profile: SegmentProfile
    sequences: int
    """That decode there, or will when their prompt is in."""
    context: float
    """Tokens that a row of each of them attends over, summed."""
    prompt_rows: int = 0
    """Of prompts, not computed yet."""


@dataclass(frozen=True)
class Spot:
    """An agent that could take a new request."""

    agent: str
    use: Mapping[Instance, InUse]
    others: int
    """Sequences there, through whatever segments: all of them wait for every step."""
    net_s: float = 0.0
    """What every token pays on its way besides."""
    load_s: float = 0.0
    """Before anything can run there."""


@dataclass(frozen=True)
class Coming:
    """A request that has no place yet."""

    route: Sequence[tuple[Instance, SegmentProfile]]
    """The segments that it still has to run through."""
    rows: int
    """Tokens that have to be computed before it decodes."""
    tokens: float
    """That it will generate, as far as can be told."""
    chunk: int
    """Rows of prompts in a step."""


def admit(spots: Sequence[Spot], coming: Coming, *, power: float = 1.0) -> Spot | None:
    """The cheapest spot for a request; None where there is none. Ties go to the name that sorts first."""
    return min(spots, key=lambda spot: (price(spot, coming, power=power), spot.agent), default=None)


def price(spot: Spot, coming: Coming, *, power: float = 1.0) -> float:
    """Seconds that the request would take there, and that others would take longer for its sake.

    Those who are there are taken to have as many tokens before them as the newcomer, for new ones follow them. Before
    its first token the request waits for the prompts before its own; its own delays everybody.

    power : of the times that are summed. Above 1 a second weighs more where requests are slow already, so that the
        slowest are spared rather than the mean.
    """
    step = step_seconds(spot.use)
    context = coming.rows + coming.tokens / 2
    longer = prompt = 0.0
    for instance, profile in coming.route:
        here = spot.use.get(instance, InUse(profile, 0, 0.0))
        longer += profile.batch_s(here.sequences + 1, here.context + context)
        longer -= profile.batch_s(here.sequences, here.context)
        prompt += _riding_s(profile, coming.rows, coming.chunk, here.sequences)
        prompt += profile.batch_s(0, prompt_context=coming.rows * (coming.rows + 1) / 2)
    before = sum(_riding_s(u.profile, u.prompt_rows, coming.chunk, u.sequences) for u in spot.use.values())
    mine = spot.load_s + before + prompt + coming.tokens * (step + longer + spot.net_s)
    theirs = coming.tokens * step
    later = theirs + prompt + coming.tokens * longer
    return pow(mine, power) + spot.others * (pow(later, power) - pow(theirs, power))


def expected_tokens(generated: int, ended: int, default: float) -> float:
    """Tokens that a request generates: the mean of those that have ended, who count the more the more they are.

    generated : by the ``ended`` together. default : expected before any has ended.
    """
    return (generated + default * _FEW) / (ended + _FEW)


_FEW = 16
"""Requests: so many must have ended before their mean counts as much as what was expected."""


def step_seconds(use: Mapping[Instance, InUse]) -> float:
    """Seconds of one decoding step: a row for every sequence, through every segment in use."""
    return sum(u.profile.batch_s(u.sequences, u.context) for u in use.values() if u.sequences)


def _riding_s(profile: SegmentProfile, rows: int, chunk: int, sequences: int) -> float:
    """What prompts add to the steps that they ride in, beside ``sequences`` rows that decode."""
    full, rest = divmod(rows, chunk)
    alone = profile.rows.at(sequences)
    added = full * max(profile.rows.at(sequences + chunk) - alone, 0.0)
    return added + (max(profile.rows.at(sequences + rest) - alone, 0.0) if rest else 0.0)
