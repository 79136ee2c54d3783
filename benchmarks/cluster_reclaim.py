"""How many jobs stop when inference wants a fifth of its servers back: ours, other costs, and the fewest there can be.

Instances are random and full of gangs (``work.gangs`` says of what kind, and which numbers are reported). A sample is
the mean over the instances of a batch, the same instances on both sides. Ours is what the policy does by default, the
greedy search alone; with CP-SAT behind it (``polish_s``) it stands in the rows. The other costs stop whom they come
upon, as they are described (Aryl, section 4): servers at random, or those with the fewest jobs, until enough are empty,
where a server that others' jobs left empty counts. Our last look whether somebody may stay after all is part of ours,
not of theirs; rows tell what it would do for them. Against the optimum the baseline is CP-SAT's proven lower bound,
which is the optimum wherever that was proven.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from quiltwork.core.bench import Claim, Context, Outcome, at_most
from quiltwork.core.errors import QuiltworkError
from work.gangs import REPORTED, SERVERS

if TYPE_CHECKING:
    from quiltwork.cluster.policy.reclaim import Held, Plan
    from quiltwork.core.servable import Json

RANDOM, COUNT = "cluster.reclaim_vs_random", "cluster.reclaim_vs_count"
WORK = "jobs preempted on random gang-heavy instances, a fifth of {} servers asked back"
CLAIMS = (
    Claim(name=RANDOM, room="cluster", title=f"{WORK.format(300)}, vs servers at random", reach=at_most(0.3),
          ratio="ours/baseline", unit="jobs"),
    Claim(name=COUNT, room="cluster", title=f"{WORK.format(300)}, vs servers with the fewest jobs", reach=at_most(0.4),
          ratio="ours/baseline", unit="jobs"),
    *(Claim(name=f"cluster.reclaim_vs_optimum_{n}", room="cluster", title=f"{WORK.format(n)}, vs the optimum (CP-SAT)",
            reach=at_most(1.05), ratio="ours/baseline", unit="jobs") for n in SERVERS),
)  # fmt: skip
BATCHES = 10
LIMIT_S = 60.0
POLISH_S = 10.0
Figures = dict[str, list[float]]


def run(context: Context) -> Mapping[str, Outcome]:
    """All instances of each size; every plan is checked to empty what it gives back."""
    rows: list[dict[str, Json]] = []
    outcomes: dict[str, Outcome] = {}
    for servers in SERVERS:
        numbers = list(REPORTED[servers])[: 2 if context.quick else None]
        stopped: Figures = {}
        took: Figures = {}
        for number in numbers:
            context.progress(f"{servers} servers: instance {number}")
            measure(context, servers, number, stopped, took)
        means = {arm: batched(values, BATCHES) for arm, values in stopped.items()}
        rows += [row(servers, arm, stopped, took) for arm in stopped]
        details: dict[str, Json] = {
            "instances": len(numbers), "batches": len(means["ours"]), "limit_s": LIMIT_S,
            "proven": sum(f == b for f, b in zip(stopped["best found"], stopped["optimum"], strict=True)),
            "worse than the optimum": sum(o > b for o, b in zip(stopped["ours"], stopped["optimum"], strict=True)),
        }  # fmt: skip
        arms = {f"cluster.reclaim_vs_optimum_{servers}": "optimum"}
        if servers == max(SERVERS):
            arms |= {RANDOM: "random", COUNT: "fewest jobs"}
        for claim, arm in arms.items():
            outcomes[claim] = Outcome(ours=means["ours"], baseline=means[arm], details=details, rows=rows)
    return outcomes


def measure(context: Context, servers: int, number: int, stopped: Figures, took: Figures) -> None:
    """One instance by every arm: the jobs stopped, and how long deciding took."""
    import random

    from quiltwork.cluster.policy.reclaim import reclaim, spared
    from quiltwork.cluster.policy.rules import Cost
    from work.fewest import fewest
    from work.gangs import asked_back, instance

    lent, wanted = instance(servers, number, context.seed), asked_back(servers)

    def note(arm: str, count: float, seconds: float) -> None:
        stopped.setdefault(arm, []).append(count)
        took.setdefault(arm, []).append(seconds)

    def plan(arm: str, make: Callable[[], Plan]) -> Plan:
        began = context.clock()
        made = make()
        seconds = context.clock() - began
        check(lent, wanted, made)
        note(arm, len(made.preempted), seconds)
        return made

    plan("ours", lambda: reclaim(lent, wanted))
    others = {"random": Cost.RANDOM, "fewest jobs": Cost.COUNT, "server fraction": Cost.SERVER_FRACTION,
              "GPU fraction": Cost.GPU_FRACTION}  # fmt: skip
    for arm, cost in others.items():
        chance = random.Random(f"order/{context.seed}/{servers}/{number}")
        made = plan(arm, lambda cost=cost, chance=chance: reclaim(lent, wanted, cost, chance=chance))  # type: ignore[misc]
        full = {s: frozenset(held.base) for s, held in lent.items() if held.base}
        needed = wanted - sum(not held.base for held in lent.values())
        kept = spared(full, dict.fromkeys(made.preempted, 1.0), frozenset(made.preempted), needed)
        note(f"{arm}, with a last look", len(kept), took[arm][-1])
    plan("ours, with CP-SAT", lambda: reclaim(lent, wanted, polish_s=POLISH_S))
    best = fewest(lent, wanted, limit_s=LIMIT_S)
    note("best found", best.found, best.seconds)
    note("optimum", best.bound, best.seconds)
    if stopped["ours"][-1] < best.bound:
        raise QuiltworkError("a plan is better than the optimum", where=f"{servers} servers, instance {number}")


def check(lent: Mapping[int, Held], wanted: int, plan: Plan) -> None:
    """Raises QuiltworkError where a plan gives back too few servers, or one on which somebody still is."""
    if len(set(plan.servers)) != wanted:
        raise QuiltworkError(f"a plan gives back {len(plan.servers)} of {wanted} servers", where="plan")
    if left := [s for s in plan.servers if not lent[s].base.keys() <= set(plan.preempted)]:
        raise QuiltworkError("a server that is given back is not empty", where=f"server {left[0]}")


def batched(values: Sequence[float], batches: int) -> list[float]:
    """Means of every n-th value: as many as there are batches, or fewer where there are fewer values."""
    batches = min(batches, len(values))
    return [statistics.fmean(values[i::batches]) for i in range(batches)]


def row(servers: int, arm: str, stopped: Figures, took: Figures) -> dict[str, Json]:
    best, seconds = statistics.fmean(stopped["optimum"]), sorted(took[arm])
    mean = statistics.fmean(stopped[arm])
    return {"servers": servers, "arm": arm, "preempted": round(mean, 3), "of optimum": round(mean / best, 3),
            "ms p50": round(1e3 * statistics.median(seconds), 2), "ms max": round(1e3 * seconds[-1], 2)}  # fmt: skip
