"""Time to the top-2 arm's validation loss, of runs with the same seeds; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

import numpy.typing as npt

from quiltwork.core.errors import BadInputError
from work.moe_arms import TOP2
from work.moe_curves import StepCost, mean_curve, reached
from work.moe_paired import Estimate, resampled

if TYPE_CHECKING:
    import numpy as np

    from work.moe_found import Found

Runs = Mapping[str, Mapping[int, "Found"]]
"""By arm, by seed."""
Costs = Mapping[str, StepCost]
"""By arm: CPU-seconds of a step."""


@dataclass(frozen=True)
class TimeToLoss:
    """Of an arm and a seed, beside top-2 with that seed."""

    ours_s: float
    """CPU-seconds until its loss was the least of top-2's curve; where it never was, of all its steps."""
    top2_s: float
    steps: float
    """The same in steps, of top-2's."""
    as_run: float
    """The same in CPU-seconds of the runs themselves, of top-2's."""
    experts: float
    """Its experts per token until then."""
    censored: bool
    """Whether the loss was never reached: the true time is longer."""

    @property
    def ratio(self) -> float:
        """Of top-2's time."""
        return self.ours_s / self.top2_s


def times(arm: str, runs: Runs, costs: Costs) -> dict[int, TimeToLoss]:
    """By seed; the target of a seed is the minimum of top-2's own curve.

    Raises BadInputError where a top-2 run has learnt nothing.
    """
    found = {}
    if idle := [seed for seed, one in runs[TOP2].items() if not one.curve.least()[0]]:
        raise BadInputError("was never better than untrained", where=f"{TOP2}, seed {idle[0]}")
    for seed in sorted(runs[arm].keys() & runs[TOP2].keys()):
        ours, top2 = runs[arm][seed], runs[TOP2][seed]
        at, target = top2.curve.least()
        when = ours.reached(target)
        spent, spent_top2 = ours.spent(when.steps, costs[arm]), top2.spent(at, costs[TOP2])
        as_run, experts = ours.took(when.steps) / top2.took(at), ours.mean_experts(when.steps)
        found[seed] = TimeToLoss(spent, spent_top2, when.steps / at, as_run, experts, when.censored)
    return found


def of_mean_curves(arm: str, runs: Runs, costs: Costs) -> tuple[Estimate, float]:
    """The same of the arms' mean curves over seeds, drawn again and again; and how often the arm never came there.

    A minimum of one curve is lower by luck than the next curve's; that of a mean curve is so less.
    """
    seeds = sorted(runs[arm].keys() & runs[TOP2].keys())
    never = []

    def ratio(chosen: npt.NDArray[np.int64]) -> float:
        ours, top2 = ([runs[name][seeds[n]] for n in chosen] for name in (arm, TOP2))
        at, target = mean_curve([one.curve for one in top2]).least()
        when = reached(mean_curve([one.curve for one in ours]), target)
        never.append(when.censored)
        spent_top2 = sum(one.spent(at, costs[TOP2]) for one in top2)
        return sum(one.spent(when.steps, costs[arm]) for one in ours) / spent_top2

    estimate = resampled(len(seeds), ratio, resamples=1000)
    return estimate, sum(never) / len(never)


def mean_over_tasks(by_task: Sequence[Mapping[int, TimeToLoss]]) -> list[float]:
    """Of each seed that all tasks have, the mean of the tasks' ratios."""
    seeds = sorted(set.intersection(*(set(one) for one in by_task)))
    return [sum(one[seed].ratio for one in by_task) / len(by_task) for seed in seeds]


def best_task(by_task: Mapping[str, Mapping[int, TimeToLoss]]) -> str:
    """The task with the least median ratio among those where at most half of the seeds are censored, else of all."""
    fair = {task: one for task, one in by_task.items() if 2 * sum(t.censored for t in one.values()) <= len(one)}
    return min(fair or by_task, key=lambda task: median(t.ratio for t in by_task[task].values()))
