"""How long the scheduler takes to decide: an event's epoch with a long queue in place, and dividing flexible GPUs.

An epoch is all that an event leads to (``work.epochs``): what ended is freed, what came is queued, and the queue is
asked who starts and where. The order of the queue is kept from one epoch to the next. A sample is the 99th percentile
of a run's epochs, so that the worst of a hundred is what is promised. Beside it, without a reach: the epoch in which
the queue is built from nothing (``cold``), and runs in which flexible workers are divided and moved in every epoch too.

The division alone: elastic jobs of which each has a menu of its own, most of them not concave, as measured curves are.
What is timed is the allocation with the menus in hand, its certificate included; the gap is the certificate's. What
making all the menus costs, and what dynamic programming and CP-SAT find, stands in the rows.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from quiltwork.core.bench import Claim, Context, Outcome, at_least, at_most

if TYPE_CHECKING:
    from quiltwork.core.servable import Json
    from work.epochs import Load, Times

EPOCH = "cluster.epoch_100k_10k"
DIVIDING, GAP = "cluster.allocation_time", "cluster.allocation_gap"
DIVISION = "marginal-gain allocation, 5,000 elastic jobs x 20,000 GPUs"
CLAIMS = (
    Claim(name=EPOCH, room="cluster", title="one decision epoch, 100k queued jobs x 10k servers (p99), vs 100 ms",
          reach=at_most(1.0), ratio="ours/baseline", unit="s"),
    Claim(name=DIVIDING, room="cluster", title=f"{DIVISION}, vs 0.1 s", reach=at_most(1.0), ratio="ours/baseline",
          unit="s"),
    Claim(name=GAP, room="cluster", title=f"{DIVISION}: its value, of the most there can be", reach=at_least(0.9999),
          ratio="ours/baseline", unit="s saved"),
)  # fmt: skip
LIMIT_S = 0.1
SIZES = ((1_000, 443), (10_000, 1_000), (100_000, 10_000))
SHARING = {"admissions": "sjf+loan", "admissions and sharing": "lyra"}
RUNS = 5
QUANTILES = (0.5, 0.99, 1.0)
INSTANCES = ((100, 400), (500, 2_000), (5_000, 20_000))
CP_SAT_UP_TO, DP_UP_TO = 100, 5_000
CP_SAT_S = 20.0


def run(context: Context) -> Mapping[str, Outcome]:
    """Epochs of all sizes, the largest several times; then the division."""
    from quiltwork.cluster.policy.rules import rules_named
    from work.epochs import Load, measured

    rows: list[dict[str, Json]] = []
    worst: list[float] = []
    for queued, servers in SIZES[:1] if context.quick else SIZES:
        load = Load(queued, servers)
        largest = load == Load(*SIZES[-1]) or context.quick
        for arm, name in SHARING.items():
            sharing = name == "lyra"
            found: list[Times] = []
            for turn in range(1 if sharing or context.quick or not largest else RUNS):
                context.progress(f"{queued:,} jobs, {servers:,} servers, {arm}: run {turn + 1}")
                epochs = 50 if context.quick else 400 if sharing else 2_000
                found.append(measured(load, rules_named(name), epochs=epochs, seed=f"{context.seed}/{turn}",
                                      clock=context.clock))  # fmt: skip
            rows.append(row(load, arm, found))
            if largest and not sharing:
                worst = [quantile(times.epochs_s, 0.99) for times in found]
    division, values, bounds, seconds = divide(context)
    return {
        EPOCH: Outcome(ours=worst, baseline=[LIMIT_S] * len(worst), rows=rows, details={"runs": len(worst)}),
        DIVIDING: Outcome(ours=seconds, baseline=[LIMIT_S] * len(seconds), rows=division),
        GAP: Outcome(ours=values, baseline=bounds, rows=division),
    }


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that so many are at most as large as."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


def row(load: Load, arm: str, found: Sequence[Times]) -> dict[str, Json]:
    epochs = [seconds for times in found for seconds in times.epochs_s]
    told: dict[str, Json] = {"table": "epochs", "queued": load.queued, "servers": load.servers, "epoch": arm}
    told |= {f"ms p{share * 100:g}" if share < 1 else "ms max": round(1e3 * quantile(epochs, share), 3)
             for share in QUANTILES}  # fmt: skip
    told |= {"epochs": len(epochs), "jobs started": sum(times.started for times in found),
             "elastic jobs": max(times.elastic for times in found),
             "cold ms": round(1e3 * statistics.median(times.cold_s for times in found), 1)}  # fmt: skip
    return told


def divide(context: Context) -> tuple[list[dict[str, Json]], list[float], list[float], list[float]]:
    """Rows, and of the largest instances: values, bounds, seconds."""
    from quiltwork.cluster.policy.knapsack import allocate, allocate_exactly
    from work.menus import best_by_cp_sat, menus_of

    rows: list[dict[str, Json]] = []
    values: list[float] = []
    bounds: list[float] = []
    seconds: list[float] = []
    for jobs, gpus in INSTANCES[:1] if context.quick else INSTANCES:
        last = context.quick or (jobs, gpus) == INSTANCES[-1]
        for turn in range(RUNS if last else 1):
            context.progress(f"{jobs:,} elastic jobs, {gpus:,} GPUs: {turn + 1}")
            began = context.clock()
            menus, weights, scale = menus_of(jobs, seed=f"{context.seed}/{turn}")
            made = context.clock()
            found = allocate(menus, weights, gpus, scale=scale)
            done = context.clock()
            if last:
                values, bounds = [*values, found.value], [*bounds, found.bound]
                seconds = [*seconds, done - made]
            if turn:
                continue
            told: dict[str, Json] = {
                "table": "allocation", "jobs": jobs, "GPUs": gpus, "gap": found.gap,
                "ms": round(1e3 * (done - made), 2), "menus ms": round(1e3 * (made - began), 1),
            }  # fmt: skip
            if jobs <= DP_UP_TO:
                began = context.clock()
                exact = allocate_exactly(menus, weights, gpus, scale=scale)
                told |= {"exact DP s": round(context.clock() - began, 3), "of exact": found.value / exact.value}
            if jobs <= CP_SAT_UP_TO:
                began = context.clock()
                best, proven = best_by_cp_sat(menus, weights, gpus, scale, limit_s=CP_SAT_S)
                told |= {"CP-SAT s": round(context.clock() - began, 2), "of CP-SAT": found.value / best,
                         "proven": proven}  # fmt: skip
            rows.append(told)
    return rows, values, bounds, seconds
