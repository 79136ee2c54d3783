"""Whether thresholds that follow a target reach it, and whether that costs quality: a language model on War and Peace.

Reach: trainings of 260 steps with a target each; what counts is the mean number of experts per token of the steps after
the 200th. Each sample is the worst of the targets with one seed.

Quality: for each seed first a training with the threshold as it is; its mean number of experts per token, over all
steps, is then the target of another with the same weights and order. Both have so cost the same, and their validation
losses are compared. Runs that are finished are kept in the folder that ``$QUILTWORK_BENCH_WORK`` names, and those that
were stopped go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median

from quiltwork.core.bench import Claim, Context, Outcome, at_most
from quiltwork.core.servable import Json
from work.moe_steered import Run, steered

REACH, QUALITY = "moe.controller_reach", "moe.controller_quality"
CLAIMS = (
    Claim(name=REACH, room="moe", title="mean experts per token after 200 steps against the target, the worst of three "
          "targets, as a factor", reach=at_most(1.03), ratio="ours/baseline", unit="times the target, or its inverse"),
    Claim(name=QUALITY, room="moe", title="validation loss with a controlled threshold against a fixed one, at equal "
          "mean experts per token", reach=at_most(1.0), ratio="ours/baseline", unit="nats per byte", parity=True),
)  # fmt: skip
TARGETS, AFTER, STEPS = (1.25, 1.5, 1.75), 200, 260
SEEDS, LEARNT, THRESHOLD = 5, 600, 0.1


def factor(reached: float, target: float) -> float:
    """How far apart they are, 1 or more."""
    return max(reached / target, target / reached)


def run(context: Context) -> Mapping[str, Outcome]:
    """All trainings, one after the other; each is read again where it is there."""
    seeds, learnt = (range(1), 60) if context.quick else (range(SEEDS), LEARNT)
    steps, after = (40, 20) if context.quick else (STEPS, AFTER)
    reached = {
        (seed, target): steered(context, seed, steps, {"target_experts": target})
        for seed in (context.seed + at for at in seeds)
        for target in TARGETS
    }
    worst = [
        max(factor(fmean(one.experts[after:]), target) for (of, target), one in reached.items() if of == seed)
        for seed in sorted({seed for seed, _ in reached})
    ]
    pairs = []
    for seed in (context.seed + at for at in seeds):
        fixed = steered(context, seed, learnt, {"threshold": THRESHOLD})
        target = round(fmean(fixed.experts), 4)
        pairs.append((fixed, steered(context, seed, learnt, {"target_experts": target})))
    ours, baseline = [ours.valid_loss for _, ours in pairs], [fixed.valid_loss for fixed, _ in pairs]
    return {
        REACH: Outcome(worst, [1.0] * len(worst), details={"steps": steps, "after": after}, rows=_reach_rows(reached, after)),
        QUALITY: Outcome(ours, baseline, details={"steps": learnt, "threshold": THRESHOLD}, rows=_quality_rows(pairs)),
    }


def _reach_rows(reached: Mapping[tuple[int, float], Run], after: int) -> list[Mapping[str, Json]]:
    rows: list[Mapping[str, Json]] = []
    for target in TARGETS:
        means = [fmean(one.experts[after:]) for (_, of), one in reached.items() if of == target]
        whole = [fmean(one.experts) for (_, of), one in reached.items() if of == target]
        rows.append({"target": target, "reached": round(median(means), 4), "over all steps": round(median(whole), 4),
                     "farthest": f"{max(abs(mean / target - 1) for mean in means):.2%}"})  # fmt: skip
    return rows


def _quality_rows(pairs: Sequence[tuple[Run, Run]]) -> list[Mapping[str, Json]]:
    return [
        {"seed": at, "fixed: experts": round(fmean(fixed.experts), 4), "fixed: loss": round(fixed.valid_loss, 4),
         "controlled: experts": round(fmean(ours.experts), 4), "controlled: loss": round(ours.valid_loss, 4),
         "CPU-s": f"{fixed.cpu_s:.0f} / {ours.cpu_s:.0f}"}
        for at, (fixed, ours) in enumerate(pairs)
    ]  # fmt: skip
