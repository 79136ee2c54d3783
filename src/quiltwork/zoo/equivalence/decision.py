"""Which substitutions are made: a pure function of what they save and of what they cost when measured together.

Errors add up, and not by a rule: two harmless swaps may be harmful together. So every set that is ever accepted has
been measured as a set. (The order of work is BlockLLM's with its parameter cosine taken out of the decision: every
block of a real fine-tune passes any such test.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from quiltwork.core.errors import BadInputError
from quiltwork.zoo.equivalence.swap import Swap

LEAST_DELTA = 1e-6
"""Nats: below it a single swap counts as costing this much, so that ratios stay finite."""


@dataclass(frozen=True)
class Quality:
    """A chain C with substitutions S against C itself, on one text."""

    delta_loss: float
    """L(C with S) - L(C), nats per token."""
    kl: float
    """Mean KL(C || C with S), nats."""
    agreement: float
    """Share of tokens for which both think the same next one most likely."""


UNCHANGED = Quality(0.0, 0.0, 1.0)
"""Of no substitution, and of those that compute the same function."""


@dataclass(frozen=True)
class Budget:
    """What a tenant is ready to lose. Raises BadInputError naming the field that is out of range."""

    delta_loss: float = 0.0
    """Nats per token, of all substitutions together; 0 for only those that compute the same function."""
    agreement: float = 0.97
    """Least share of tokens with the same most likely next one, of all substitutions together."""

    def __post_init__(self) -> None:
        if not 0 <= self.delta_loss < math.inf:
            raise BadInputError(f"{self.delta_loss} is not a number of nats from 0 up", where="budget")
        if not 0 <= self.agreement <= 1:
            raise BadInputError(f"{self.agreement} is not between 0 and 1", where="agreement")

    def allows(self, quality: Quality) -> bool:
        """Whether a measured set is within it; never where a figure is not a number."""
        within = quality.delta_loss <= self.delta_loss and quality.agreement >= self.agreement
        return within and math.isfinite(quality.delta_loss) and math.isfinite(quality.kl)


Measure = Callable[[Sequence[Swap]], Quality]
"""Measures the model with these substitutions, and no others, on the text that decides."""


@dataclass(frozen=True)
class Taken:
    """An accepted substitution."""

    swap: Swap
    alone: Quality
    """Measured with nothing but the exact substitutions beside it."""
    total: Quality
    """Measured with all those accepted before it."""


@dataclass(frozen=True)
class Decision:
    """What is substituted, and what was measured on the way."""

    taken: tuple[Taken, ...]
    """In the order of acceptance, exact ones first."""
    quality: Quality
    """Of all of them together."""
    singles: tuple[tuple[Swap, Quality], ...]
    """Every single swap that was measured."""

    @property
    def saved_bytes(self) -> int:
        """Bytes that the substituted parts alone needed."""
        return sum(taken.swap.saved_bytes for taken in self.taken)


def decide(swaps: Sequence[Swap], budget: Budget, measure: Measure) -> Decision:
    """The substitutions that save the most bytes within the budget, as far as a greedy search finds them.

    Exact swaps are taken. If there is any budget, every other swap that saves something is measured alone, and those
    within the budget are added one by one, most bytes per nat first, each time measuring all together. A swap that
    brings the agreement below its threshold is passed over; one that brings the loss above the budget ends the search.
    The search is repeated without the costliest singles while more could be saved that way, and the best set wins, or
    the best single. Every set it may return is on a path that does not depend on the budget, which only says where the
    path ends: a larger budget never saves less.
    """
    exact: dict[str, Swap] = {}
    for swap in swaps:
        if swap.exact:
            exact.setdefault(swap.part, swap)
    base = tuple(exact.values())
    free = tuple(Taken(swap, UNCHANGED, UNCHANGED) for swap in base)
    if budget.delta_loss == 0:
        return Decision(free, UNCHANGED, ())
    known: dict[frozenset[tuple[str, int]], Quality] = {}
    numbers = {id(swap): number for number, swap in enumerate(swaps)}

    def measured(more: Sequence[Swap]) -> Quality:
        key = frozenset((swap.part, numbers[id(swap)]) for swap in more)
        if key not in known:
            known[key] = measure((*base, *more))
        return known[key]

    open_ = [s for s in swaps if not s.exact and s.part not in exact and s.saved_bytes > 0]
    singles = tuple((swap, measured((swap,))) for swap in open_)
    fit = [(swap, quality) for swap, quality in singles if budget.allows(quality)]
    fit.sort(key=lambda pair: (-_ratio(*pair), pair[0].part, numbers[id(pair[0])]))
    alone = {numbers[id(swap)]: quality for swap, quality in fit}
    best: tuple[Taken, ...] = ()
    if fit:
        swap, quality = max(fit, key=lambda pair: pair[0].saved_bytes)
        best = (Taken(swap, quality, quality),)
    for most in sorted({quality.delta_loss for _, quality in fit}, reverse=True):
        group = [swap for swap, quality in fit if quality.delta_loss <= most]
        if _bound(group) <= _saved(best):
            break
        path: tuple[Taken, ...] = ()
        for swap in group:
            if any(taken.swap.part == swap.part for taken in path):
                continue
            total = measured((*(taken.swap for taken in path), swap))
            if not total.agreement >= budget.agreement:
                continue
            if not budget.allows(total):
                break
            path = (*path, Taken(swap, alone[numbers[id(swap)]], total))
        if _saved(path) > _saved(best):
            best = path
    return Decision((*free, *best), best[-1].total if best else UNCHANGED, singles)


def _ratio(swap: Swap, quality: Quality) -> float:
    return swap.saved_bytes / max(quality.delta_loss, LEAST_DELTA)


def _saved(path: Sequence[Taken]) -> int:
    return sum(taken.swap.saved_bytes for taken in path)


def _bound(group: Sequence[Swap]) -> int:
    """The most that swaps of these could save: one per part."""
    most: dict[str, int] = {}
    for swap in group:
        most[swap.part] = max(most.get(swap.part, 0), swap.saved_bytes)
    return sum(most.values())
