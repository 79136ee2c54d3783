"""Whether a threshold that follows a target costs quality: a language model on War and Peace.

For each seed first a training with the threshold as it is; its mean number of experts per token, over all steps, is
then the target of another with the same weights and order. Both have so cost the same, and their validation losses are
compared. Runs that are finished are kept in the folder that ``$QUILTWORK_BENCH_WORK`` names, and those that were
stopped go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from quiltwork.core.bench import Claim, Context, Outcome, at_most
from work.moe_steered import steered

NAME = "moe.controller_quality"
CLAIMS = (
    Claim(name=NAME, room="moe", title="validation loss with a controlled threshold against a fixed one, at equal mean "
          "experts per token", reach=at_most(1.0), ratio="ours/baseline", unit="nats per byte", parity=True),
)  # fmt: skip
SEEDS, STEPS, THRESHOLD = 5, 300, 0.1


def run(context: Context) -> Mapping[str, Outcome]:
    """Pairs of trainings, one after the other; each is read again where it is there."""
    seeds, steps = (2, 40) if context.quick else (SEEDS, STEPS)
    pairs = []
    for seed in range(context.seed, context.seed + seeds):
        fixed = steered(context, seed, steps, {"threshold": THRESHOLD})
        pairs.append((fixed, steered(context, seed, steps, {"target_experts": round(fmean(fixed.experts), 4)})))
    rows = [
        {"seed": context.seed + at, "fixed: experts": round(fmean(fixed.experts), 4),
         "fixed: loss": round(fixed.valid_loss, 4), "controlled: experts": round(fmean(ours.experts), 4),
         "controlled: loss": round(ours.valid_loss, 4), "CPU-s": f"{fixed.cpu_s:.0f} / {ours.cpu_s:.0f}"}
        for at, (fixed, ours) in enumerate(pairs)
    ]  # fmt: skip
    ours, baseline = [ours.valid_loss for _, ours in pairs], [fixed.valid_loss for fixed, _ in pairs]
    return {NAME: Outcome(ours, baseline, details={"steps": steps, "threshold": THRESHOLD}, rows=rows)}
