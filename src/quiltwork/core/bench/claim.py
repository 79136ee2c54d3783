"""What the project claims, what a run found, and whether the one bears out the other. Pure data and functions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from quiltwork.core.bench.statistics import CONFIDENCE, Interval, ratio_of_medians
from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json

PARITY_SLACK = 0.02
"""How far beyond a parity reach the interval's worse end may lie."""
_NAME = re.compile(r"([a-z][a-z0-9_]*)\.([a-z0-9][a-z0-9_]*)")


@dataclass(frozen=True)
class Reach:
    """What the ratio has to come to."""

    at: Literal["least", "most"]
    value: float

    def __post_init__(self) -> None:
        if self.at not in ("least", "most") or not 0 < self.value < float("inf"):
            raise BadInputError(f"at {self.at} {self.value} is not a reach", where="reach")

    def reached_by(self, ratio: float) -> bool:
        """Whether a ratio is on the right side."""
        return ratio >= self.value if self.at == "least" else ratio <= self.value

    def __str__(self) -> str:
        return f"{'≥' if self.at == 'least' else '≤'} {self.value:g}x"


def at_least(value: float) -> Reach:
    """The ratio is ``value`` or more."""
    return Reach("least", value)


def at_most(value: float) -> Reach:
    """The ratio is ``value`` or less."""
    return Reach("most", value)


@dataclass(frozen=True)
class Claim:
    """One figure that the project promises, declared beside the benchmark that measures it.

    Parameters
    ----------
    name : ``room.figure``, lower case.
    title : what is compared with what.
    ratio : which way it is divided; medians of the samples.
    unit : of a sample.
    parity : whether the promise is to be as good as the baseline, not better.
    """

    name: str
    room: str
    title: str
    reach: Reach
    ratio: Literal["baseline/ours", "ours/baseline"]
    unit: str
    parity: bool = False

    def __post_init__(self) -> None:
        match = _NAME.fullmatch(self.name)
        if match is None or match[1] != self.room:
            raise BadInputError(f"{self.name!r} is not of the form {self.room}.figure", where="claim")
        if self.ratio not in ("baseline/ours", "ours/baseline"):
            raise BadInputError(f"{self.ratio!r} is not baseline/ours or ours/baseline", where=f"{self.name}: ratio")


@dataclass(frozen=True)
class Outcome:
    """What a run found for one claim.

    Parameters
    ----------
    ours, baseline : samples of either side, all positive; one each where nothing is random. Where both have as many,
        the n-th of one was taken beside the n-th of the other.
    answers_equal : whether both sides gave the same answers; None where there is nothing to compare.
    details, rows : what else is worth keeping, and rows of a table to print (JSON).
    """

    ours: Sequence[float]
    baseline: Sequence[float]
    answers_equal: bool | None = None
    details: Mapping[str, Json] = field(default_factory=dict)
    rows: Sequence[Mapping[str, Json]] = ()


@dataclass(frozen=True)
class Verdict:
    """A claim held against an outcome."""

    ratio: float
    interval: Interval
    met: bool
    why: str
    """Why it is missed; empty where it is met."""


def judge(claim: Claim, outcome: Outcome) -> Verdict:
    """Whether the outcome bears out the claim.

    The ratio of medians has to come to the reach, and its 95 % interval has to exclude 1. Where the reach itself
    concedes a loss (at most 1.5x), an interval around 1 is more than was promised: there it is enough that it lies
    within the reach. For parity the interval's worse end has to be within PARITY_SLACK of the reach instead. Different
    answers miss any claim.

    Raises BadInputError for samples that have no ratio.
    """
    pair = outcome.ours, outcome.baseline
    above, below = pair if claim.ratio == "ours/baseline" else reversed(pair)
    ratio, interval = ratio_of_medians(above, below, where=claim.name)
    why = _why_missed(claim, ratio, interval, outcome.answers_equal)
    return Verdict(ratio, interval, not why, why)


def _why_missed(claim: Claim, ratio: float, interval: Interval, answers_equal: bool | None) -> str:
    reach = claim.reach
    if answers_equal is False:
        return "the answers differ"
    if not reach.reached_by(ratio):
        return f"{ratio:.4g}x does not reach {reach}"
    worse = interval.low if reach.at == "least" else interval.high
    if claim.parity:
        slack = -PARITY_SLACK if reach.at == "least" else PARITY_SLACK
        near = Reach(reach.at, reach.value + slack).reached_by(worse)
        return "" if near else f"the interval's worse end, {worse:.4g}x, is more than {PARITY_SLACK} from {reach}"
    concedes = reach.value > 1 if reach.at == "most" else reach.value < 1
    if interval.contains(1.0) and not (concedes and reach.reached_by(worse)):
        return f"the {CONFIDENCE:.0%} interval contains 1"
    return ""
