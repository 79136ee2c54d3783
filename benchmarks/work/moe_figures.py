"""Figures and tables from finished runs and measured costs of a step; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING

from quiltwork.core.bench import Outcome
from quiltwork.core.errors import QuiltworkError
from work.moe_arms import ADAPTIVE, MAIN, RANDOM2, TOP1, TOP2, Task
from work.moe_paired import Estimate, mean_difference
from work.moe_times import TimeToLoss, best_task, mean_over_tasks, of_mean_curves, times

if TYPE_CHECKING:
    from quiltwork.core.servable import Json
    from work.moe_times import Costs, Runs

Row = Mapping[str, "Json"]


@dataclass(frozen=True)
class Studied:
    """A task's runs, and what a step of each arm costs."""

    task: Task
    runs: Runs
    costs: Costs

    def times(self, arm: str) -> dict[int, TimeToLoss]:
        """By seed."""
        return times(arm, self.runs, self.costs)


def time_outcomes(studied: Mapping[str, Studied]) -> tuple[Outcome, Outcome, Outcome]:
    """Adaptive against top-2 on the best task and on the mean of all, and against top-1 on that mean."""
    adaptive = {name: one.times(ADAPTIVE) for name, one in studied.items()}
    best = best_task(adaptive)
    chosen = [adaptive[best][seed] for seed in sorted(adaptive[best])]
    details: dict[str, Json] = {
        "task": best,
        "of tasks": list(studied),
        "never reached": {name: sum(t.censored for t in one.values()) for name, one in adaptive.items()},
    }
    ratios = mean_over_tasks(list(adaptive.values()))
    top1 = mean_over_tasks([one.times(TOP1) for one in studied.values()])
    return (
        Outcome([t.ours_s for t in chosen], [t.top2_s for t in chosen], details=details),
        Outcome(ratios, [1.0] * len(ratios), details=details),
        Outcome(ratios, top1, details=details),
    )


def time_rows(one: Studied, arms: Sequence[str] = MAIN, table: str = "time-to-loss") -> list[Row]:
    """A row for each arm."""
    rows: list[Row] = []
    for arm in arms:
        found, by_seed = one.runs[arm], one.times(arm)
        estimate, never = of_mean_curves(arm, one.runs, one.costs)
        each = list(by_seed.values())
        budgets = {seed: t.top2_s for seed, t in by_seed.items()}
        rows.append(
            {
                "table": table,
                "task": one.task.name,
                "gate": arm,
                "rate": next(iter(found.values())).rate,
                "seeds": len(each),
                "time, of top-2's": round(median(t.ratio for t in each), 3),
                "seeds that never got there": sum(t.censored for t in each),
                "by mean curves": told(estimate, 3),
                "so drawn, never there": round(never, 2),
                "steps": round(median(t.steps for t in each), 3),
                "time as they ran": round(median(t.as_run for t in each), 3),
                "experts per token": round(fmean(t.experts for t in each), 3),
                "validation loss": round(fmean(found[s].curve.least(one.task.steps)[1] for s in by_seed), 4),
                "in top-2's time": round(
                    fmean(found[s].least_within(budget, one.costs[arm]) for s, budget in budgets.items()), 4
                ),
                "ms a step, one and two": [round(1e3 * ms, 1) for ms in (one.costs[arm].one, one.costs[arm].two)],
                "experts' share of top-2's FLOPs": round(next(iter(one.runs[TOP2].values())).expert_share, 3),
            }
        )
    return rows


POINTS = ("accuracy", "bleu")
"""Metrics that are better higher, in points of 100; bits per byte are better lower."""


FEWEST = 5
"""Seeds that a comparison of qualities takes at least."""


def quality_loss(one: Studied, arm: str = ADAPTIVE, fewest: int = FEWEST) -> Estimate:
    """By how much the arm is worse than top-2 on the test data after as many steps, mean over pairs of seeds: points of
    accuracy or BLEU, or per cent of top-2's bits per byte.

    Raises QuiltworkError for fewer than ``fewest`` seeds.
    """
    seeds = sorted(one.runs[arm].keys() & one.runs[TOP2].keys())
    if len(seeds) < fewest:
        raise QuiltworkError(f"{len(seeds)} seeds are too few", where=f"quality of {one.task.name}")
    ours, top2 = ([one.runs[name][seed].tests["equal_steps"] for seed in seeds] for name in (arm, TOP2))
    if one.task.metric in POINTS:
        return mean_difference(top2, ours)
    return mean_difference([100 * a / b for a, b in zip(ours, top2, strict=True)], [100.0] * len(seeds))


def quality_outcome(one: Studied, fewest: int = FEWEST) -> Outcome:
    """1 + the loss as a part of 1, against 1."""
    loss = quality_loss(one, fewest=fewest)
    details: dict[str, Json] = {"loss": told(loss, 3), "of": "points" if one.task.metric in POINTS else "per cent"}
    return Outcome([1 + loss.value / 100], [1.0], details=details)


def quality_rows(one: Studied) -> list[Row]:
    """A row for each arm that has as many seeds as are needed."""
    rows: list[Row] = []
    for arm, found in one.runs.items():
        rows.append(
            {
                "table": "moe-quality",
                "task": one.task.name,
                "gate": arm,
                "seeds": len(found),
                "metric": one.task.metric,
                "test": round(fmean(run.tests["equal_steps"] for run in found.values()), 3),
                "after all its steps": round(fmean(run.tests["all_steps"] for run in found.values()), 3),
                "worse than top-2": told(quality_loss(one, arm), 3) if len(found) >= FEWEST else "",
                "experts per token": round(fmean(run.mean_experts(one.task.steps) for run in found.values()), 3),
            }
        )
    return rows


def trained_second_rows(one: Studied) -> list[Row]:
    """Second experts chosen by the gate against as many, layer by layer and step by step, for tokens drawn by lot."""
    seeds = sorted(one.runs[ADAPTIVE].keys() & one.runs[RANDOM2].keys())
    ours, random = ([one.runs[arm][seed] for seed in seeds] for arm in (ADAPTIVE, RANDOM2))
    until = one.task.steps
    valid = mean_difference([r.curve.least(until)[1] for r in random], [a.curve.least(until)[1] for a in ours])
    test = mean_difference([r.tests["equal_steps"] for r in random], [a.tests["equal_steps"] for a in ours])
    return [
        {
            "table": "random-second",
            "model": "trained so",
            "pairs": f"{len(seeds)} seeds",
            "experts per token": round(fmean(a.mean_experts(until) for a in ours), 3),
            "of the random": round(fmean(r.mean_experts(until) for r in random), 3),
            "random's validation loss - ours": told(valid, 4),
            "random's bits per byte - ours": told(test, 4),
        }
    ]


def told(estimate: Estimate, digits: int) -> str:
    """With its interval."""
    value, low, high = (f"{number:.{digits}f}" for number in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"
