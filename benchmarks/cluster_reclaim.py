"""How many jobs stop when inference wants a fifth of its servers back: ours, other costs, and the fewest there can be.

Instances are random and full of gangs (``work.gangs`` says of what kind, and which numbers are reported). A sample is
the mean over the instances of a batch, the same instances on both sides. Ours is what the policy does by default, the
greedy search alone; with CP-SAT behind it (``polish_s``) it stands in the rows.

The other costs empty one server after another, at random or the one with the fewest jobs, and stop as soon as enough
are empty: what others' jobs left empty counts for them too, though only the paper's own search is said to do that
(Aryl, section 4). Choosing all servers at once and stopping whoever is on them is the weaker reading of random and
fewest jobs, and no claim is made against it. Our last look whether somebody may stay after all is part of ours, not
of theirs. The rows have both.

Claims are on compact gangs. Those that are spread stand in the rows: there the costs differ more, but CP-SAT proves
no optimum for 300 servers. Against the optimum the baseline is CP-SAT's proven lower bound, which is the optimum
wherever that was proven.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from quiltwork.core.bench import Claim, Context, Outcome, at_most
from quiltwork.core.errors import QuiltworkError
from work.gangs import REPORTED, SERVERS

if TYPE_CHECKING:
    from quiltwork.cluster.policy.reclaim import Held, Plan
    from quiltwork.core.servable import Json
    from work.gangs import Family

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
FOUND, BOUND = "CP-SAT alone", "lower bound"
BATCHES = 10
LIMIT_S = 30.0
POLISH_S = 10.0
SPREAD = {20: 60, 50: 60, 100: 40, 300: 10}
"""Instances of gangs that are spread."""
Figures = dict[str, list[float]]


def run(context: Context) -> Mapping[str, Outcome]:
    """All instances of each size; every plan is checked to empty what it gives back."""
    from work.gangs import Family

    rows: list[dict[str, Json]] = []
    outcomes: dict[str, Outcome] = {}
    for family, servers in ((family, servers) for family in Family for servers in SERVERS):
        claimed = family is Family.COMPACT
        count = 2 if context.quick else None if claimed else SPREAD[servers]
        stopped: Figures = {}
        took: Figures = {}
        numbers = list(REPORTED[servers])[:count]
        for number in numbers:
            context.progress(f"{servers} servers, {family} gangs: instance {number}")
            measure(context, family, servers, number, stopped, took)
        rows += [row(family, servers, arm, stopped, took) for arm in stopped]
        if not claimed:
            continue
        means = {arm: batched(values, BATCHES) for arm, values in stopped.items()}
        details: dict[str, Json] = {"instances": len(numbers), "batches": len(means["ours"]), "limit_s": LIMIT_S,
                                    "proven": equal(stopped[FOUND], stopped[BOUND]),
                                    "ours is the optimum": equal(stopped["ours"], stopped[BOUND])}  # fmt: skip
        arms = {f"cluster.reclaim_vs_optimum_{servers}": BOUND}
        if servers == max(SERVERS):
            arms |= {RANDOM: "random", COUNT: "fewest jobs"}
        for claim, arm in arms.items():
            outcomes[claim] = Outcome(ours=means["ours"], baseline=means[arm], details=details, rows=rows)
    return outcomes


def measure(context: Context, family: Family, servers: int, number: int, stopped: Figures, took: Figures) -> None:
    """One instance by every arm: the jobs stopped, and how long deciding took."""
    from quiltwork.cluster.policy.reclaim import reclaim, spared
    from quiltwork.cluster.policy.rules import Cost
    from work.fewest import fewest
    from work.gangs import asked_back, instance

    lent, wanted = instance(servers, number, context.seed, family), asked_back(servers)
    occupied = {s: frozenset(held.base) for s, held in lent.items() if held.base}
    needed = wanted - (len(lent) - len(occupied))

    def note(arm: str, count: float, seconds: float) -> None:
        stopped.setdefault(arm, []).append(count)
        took.setdefault(arm, []).append(seconds)

    def plan(arm: str, make: Callable[[], Plan], last_look: bool = False) -> None:
        began = context.clock()
        made = make()
        seconds = context.clock() - began
        check(lent, wanted, made)
        note(arm, len(made.preempted), seconds)
        if last_look:
            going = frozenset(made.preempted)
            note(f"{arm}, with a last look", len(spared(occupied, dict.fromkeys(going, 1.0), going, needed)), seconds)

    plan("ours", lambda: reclaim(lent, wanted))
    plan("ours, with CP-SAT", lambda: reclaim(lent, wanted, polish_s=POLISH_S))
    others = {"server fraction": Cost.SERVER_FRACTION, "GPU fraction": Cost.GPU_FRACTION,
              "fewest jobs": Cost.COUNT, "random": Cost.RANDOM}  # fmt: skip
    for arm, cost in others.items():
        chance = random.Random(f"order/{context.seed}/{servers}/{number}")
        plan(arm, lambda cost=cost, chance=chance: reclaim(lent, wanted, cost, chance=chance), last_look=True)  # type: ignore[misc]
    shuffled = random.Random(f"order/{context.seed}/{servers}/{number}").sample(sorted(lent), len(lent))
    plan("fewest jobs, all at once", lambda: at_once(lent, sorted(lent, key=lambda s: (len(lent[s].base), s))[:wanted]))
    plan("random, all at once", lambda: at_once(lent, sorted(shuffled, key=lambda s: s in occupied)[:wanted]))
    best = fewest(lent, wanted, limit_s=LIMIT_S)
    note(FOUND, best.found, best.seconds)
    note(BOUND, best.bound, best.seconds)
    if stopped["ours"][-1] < best.bound:
        raise QuiltworkError("a plan is better than the optimum", where=f"{servers} servers, instance {number}")


def at_once(lent: Mapping[int, Held], servers: Sequence[int]) -> Plan:
    """These servers, and whoever is on them."""
    from quiltwork.cluster.policy.reclaim import Plan

    return Plan(tuple(servers), tuple(sorted({job for s in servers for job in lent[s].base})))


def equal(these: Sequence[float], those: Sequence[float]) -> int:
    """At how many places both have the same."""
    return sum(a == b for a, b in zip(these, those, strict=True))


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


def row(family: Family, servers: int, arm: str, stopped: Figures, took: Figures) -> dict[str, Json]:
    """``of the fewest known`` : of any arm in each instance; the optimum where all were proven."""
    candidates = [stopped[name] for name in ("ours", "ours, with CP-SAT", FOUND)]
    known = statistics.fmean(map(min, zip(*candidates, strict=True)))
    mean, seconds = statistics.fmean(stopped[arm]), took[arm]
    return {"gangs": str(family), "servers": servers, "arm": arm, "preempted": round(mean, 3),
            "of the fewest known": round(mean / known, 3), "instances": len(seconds),
            "proven": equal(stopped[FOUND], stopped[BOUND]), "ms p50": round(1e3 * statistics.median(seconds), 2),
            "ms max": round(1e3 * max(seconds), 2)}  # fmt: skip
