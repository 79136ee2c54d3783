"""Whether thresholds that follow a target reach it: a language model on War and Peace.

Trainings of 260 steps with a target each; what counts is the mean number of experts per token of the steps after the
200th. Each sample is the worst of the targets with one seed. Runs that are finished are kept in the folder that
``$QUILTWORK_BENCH_WORK`` names, and those that were stopped go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean, median

from quiltwork.core.bench import Claim, Context, Outcome, at_most
from quiltwork.core.servable import Json
from work.moe_steered import Run, steered

NAME = "moe.controller_reach"
CLAIMS = (
    Claim(name=NAME, room="moe", title="mean experts per token after 200 steps against the target, the worst of three "
          "targets, as a factor", reach=at_most(1.03), ratio="ours/baseline", unit="times the target, or its inverse"),
)  # fmt: skip
TARGETS, SEEDS = (1.25, 1.5, 1.75), 3
AFTER, STEPS = 200, 260


def factor(reached: float, target: float) -> float:
    """How far apart they are, 1 or more."""
    return max(reached / target, target / reached)


def run(context: Context) -> Mapping[str, Outcome]:
    """All trainings, one after the other; each is read again where it is there."""
    seeds, steps, after = (1, 40, 20) if context.quick else (SEEDS, STEPS, AFTER)
    reached = {
        (seed, target): steered(context, seed, steps, {"target_experts": target})
        for seed in range(context.seed, context.seed + seeds)
        for target in TARGETS
    }
    worst = [
        max(factor(fmean(one.experts[after:]), target) for (of, target), one in reached.items() if of == seed)
        for seed in range(context.seed, context.seed + seeds)
    ]
    details: dict[str, Json] = {"steps": steps, "after": after}
    return {NAME: Outcome(worst, [1.0] * len(worst), details=details, rows=_rows(reached, after))}


def _rows(reached: Mapping[tuple[int, float], Run], after: int) -> list[Mapping[str, Json]]:
    rows: list[Mapping[str, Json]] = []
    for target in TARGETS:
        means = [fmean(one.experts[after:]) for (_, of), one in reached.items() if of == target]
        whole = [fmean(one.experts) for (_, of), one in reached.items() if of == target]
        rows.append({"target": target, "reached": round(median(means), 4), "over all steps": round(median(whole), 4),
                     "farthest": f"{max(abs(mean / target - 1) for mean in means):.2%}"})  # fmt: skip
    return rows
