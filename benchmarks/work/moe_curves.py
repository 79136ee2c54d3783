"""Validation curves of a training: when a loss was first reached, by interpolation, and what it took until then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from quiltwork.core.errors import BadInputError


@dataclass(frozen=True)
class Curve:
    """Validation losses (lower is better) after so many steps, from the first, untrained one on."""

    steps: tuple[int, ...]
    losses: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.steps or len(self.steps) != len(self.losses):
            raise BadInputError(f"{len(self.steps)} steps, {len(self.losses)} losses", where="curve")
        if any(later <= step for step, later in pairwise(self.steps)):
            raise BadInputError("its steps do not rise", where="curve")

    def least(self, until: int | None = None) -> tuple[int, float]:
        """The step of its minimum, the first of equals, and the loss there; of those up to step ``until``."""
        found = [(loss, step) for step, loss in zip(self.steps, self.losses, strict=True) if step <= (until or step)]
        if not found:
            raise BadInputError(f"has nothing up to step {until}", where="curve")
        loss, step = min(found)
        return step, loss


@dataclass(frozen=True)
class Reached:
    """After how many steps a loss was reached; where it never was, how many were done without (``censored``)."""

    steps: float
    censored: bool = False


def reached(curve: Curve, target: float) -> Reached:
    """When ``curve`` first is at ``target`` or below, on the straight line between two of its points."""
    if curve.losses[0] <= target:
        return Reached(curve.steps[0])
    points = list(zip(curve.steps, curve.losses, strict=True))
    for (start, above), (end, below) in pairwise(points):
        if below <= target:
            return Reached(start + (end - start) * (above - target) / (above - below))
    return Reached(curve.steps[-1], censored=True)


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """The mean over seeds at each step that all of them have."""
    common = set.intersection(*(set(curve.steps) for curve in curves))
    steps = tuple(step for step in curves[0].steps if step in common)
    at = [dict(zip(curve.steps, curve.losses, strict=True)) for curve in curves]
    return Curve(steps, tuple(fmean(losses[step] for losses in at) for step in steps))


def spent(steps: float, per_step: Sequence[float], cost: Callable[[float], float]) -> float:
    """What the first ``steps`` steps cost.

    per_step : of each step what decides its cost, here the experts per token; the last one holds for all beyond.
    cost : of one step with so many experts per token.
    """
    if not per_step:
        raise BadInputError("no step is recorded", where="experts per token")
    whole = int(steps)
    total = sum(cost(per_step[min(n, len(per_step) - 1)]) for n in range(whole))
    return total + (steps - whole) * cost(per_step[min(whole, len(per_step) - 1)])


@dataclass(frozen=True)
class StepCost:
    """What a step costs: a line in the experts per token, through what was measured with one and with two each."""

    one: float
    """CPU-seconds with one expert per token."""
    two: float
    """CPU-seconds with two."""

    def __call__(self, experts_per_token: float) -> float:
        return self.one + (self.two - self.one) * (experts_per_token - 1)
