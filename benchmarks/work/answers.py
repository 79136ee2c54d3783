"""Are two answers the same? Token by token, with one excuse: a tie that rounding may break either way.

Two correct implementations differ by about 1e-5 in their logits, so greedy answers may part where the two best tokens
are that close. From there on the texts are different questions, and nothing further is compared.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

MARGIN = 1e-3
"""Largest gap between the best and the second best logit at which answers may part."""

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Divergence:
    """Where two answers to one prompt part."""

    request: str
    position: int
    """Index among the generated tokens."""
    ours: int | None
    """None where our answer ended before the other."""
    baseline: int | None
    gap: float
    """Best logit less the lower of the two chosen tokens' logits, in the reference model; inf where one ended."""

    @property
    def excused(self) -> bool:
        """Whether it is a tie within MARGIN."""
        return self.gap < MARGIN


@dataclass
class Comparison:
    """What comparing many answers found."""

    compared: int = 0
    divergences: list[Divergence] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether something was compared and no answer differs without excuse."""
        return self.compared > 0 and all(d.excused for d in self.divergences)

    def summary(self) -> dict[str, object]:
        """For the record: counts, and the first unexcused differences."""
        wrong = [d for d in self.divergences if not d.excused]
        return {
            "answers_compared": self.compared,
            "ties_excused": len(self.divergences) - len(wrong),
            "answers_differing": len(wrong),
            "first_differences": [vars(d) for d in wrong[:5]],
        }

    def add(self, other: Comparison) -> None:
        """Count another comparison in."""
        self.compared += other.compared
        self.divergences += other.divergences


def first_difference(a: Sequence[int], b: Sequence[int]) -> int | None:
    """Index of the first token at which two answers differ (also where one ends), or None."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return None if len(a) == len(b) else min(len(a), len(b))


def compare(
    ours: Mapping[str, Sequence[int]],
    baseline: Mapping[str, Sequence[int]],
    next_logits: Callable[[str, Sequence[int]], Logits],
) -> Comparison:
    """Compare greedy answers by request.

    Parameters
    ----------
    ours, baseline : request -> generated token ids. A request that one side lacks counts as a difference.
    next_logits : the reference model's logits (vocab,) for a request after its prompt and these generated tokens; only
        asked where answers part.
    """
    result = Comparison()
    for request in sorted(ours.keys() | baseline.keys()):
        result.compared += 1
        a, b = ours.get(request, ()), baseline.get(request, ())
        at = 0 if (request in ours) != (request in baseline) else first_difference(a, b)
        if at is None:
            continue
        x = a[at] if at < len(a) else None
        y = b[at] if at < len(b) else None
        gap = float("inf")
        if x is not None and y is not None:
            logits = next_logits(request, a[:at])
            gap = float(logits.max() - min(logits[x], logits[y]))
        result.divergences.append(Divergence(request, at, x, y, gap))
    return result


def draws(seed: int, count: int) -> list[float]:
    """The random numbers by which the engine draws a sequence's tokens."""
    rng = random.Random(seed & (2**64 - 1))
    return [rng.random() for _ in range(count)]


def compare_drawn(
    ours: Sequence[int],
    baseline: Sequence[int],
    numbers: Sequence[float],
    temperature: float,
    next_logits: Callable[[Sequence[int]], Logits],
) -> Comparison:
    """Compare two answers whose n-th token was drawn by the n-th of ``numbers``, each the token at which the cumulated
    probability (in the order of the vocabulary) passes that number.

    A difference is excused where the number lies within MARGIN of both tokens' stretches.
    """
    at = first_difference(ours, baseline)
    if at is None:
        return Comparison(1)
    if at >= min(len(ours), len(baseline)):
        return Comparison(1, [Divergence("", at, None, None, float("inf"))])
    logits = next_logits(ours[:at]).astype(np.float64) / temperature
    mass = np.exp(logits - logits.max())
    ends = np.cumsum(mass / mass.sum())
    gaps = [
        max(ends[token] - mass[token] / mass.sum() - numbers[at], numbers[at] - ends[token], 0.0)
        for token in (ours[at], baseline[at])
    ]
    return Comparison(1, [Divergence("", at, ours[at], baseline[at], float(max(gaps)))])
