"""What a step of each arm costs: whole steps of fresh trainings, arm beside arm, in CPU-seconds of this process.

The experts' part of a step is a line in the rows that go through them: it is taken from top-1 and top-2. What another
gate costs beside it is how far its own step lies above that line, at the experts per token that it took.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from work.moe_arms import DENSE, TOP1, TOP2
from work.moe_curves import StepCost

if TYPE_CHECKING:
    from quiltwork.core.bench import Context

Step = Callable[[], float]
"""Takes a step and gives its experts per token, the mean over the layers."""


@dataclass(frozen=True)
class Measured:
    """Of an arm, in each round."""

    seconds: tuple[float, ...]
    experts: tuple[float, ...]


def measured(steps: Mapping[str, Step], context: Context, repeats: int) -> dict[str, Measured]:
    """Each arm's steps, interleaved."""
    taken: dict[str, list[float]] = {arm: [] for arm in steps}
    arms = {arm: (lambda arm=arm, step=step: taken[arm].append(step())) for arm, step in steps.items()}
    samples = context.interleave(arms, repeats=repeats, warmup=3)
    return {
        arm: Measured(tuple(s.cpu_s for s in each), tuple(taken[arm][-len(each) :])) for arm, each in samples.items()
    }


def step_costs(found: Mapping[str, Measured]) -> dict[str, StepCost]:
    """Of each arm."""
    line = StepCost(median(found[TOP1].seconds), median(found[TOP2].seconds))
    costs = {TOP1: line, TOP2: line}
    for arm, one in found.items():
        if arm == DENSE:
            costs[arm] = StepCost(median(one.seconds), median(one.seconds))
        elif arm not in costs:
            above = median(above_line(one, line))
            costs[arm] = StepCost(line.one + above, line.two + above)
    return costs


def above_line(one: Measured, line: StepCost) -> Sequence[float]:
    """By how many seconds each of its steps lies above the line."""
    return [seconds - line(experts) for seconds, experts in zip(one.seconds, one.experts, strict=True)]
