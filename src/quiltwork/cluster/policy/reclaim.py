"""Which lent servers are emptied when inference wants some back, and who has to stop for it.

The fewest jobs whose stopping empties enough servers is minimum k-union, which is NP-hard: what a server costs depends
on which others are emptied. Free servers go first, then those that only flexible workers are on; then a greedy search
by one of several costs, and a last look whether somebody may stay after all.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from quiltwork.cluster.policy.rules import Cost


@dataclass(frozen=True, slots=True)
class Held:
    """What is on a lent server: by job, the GPUs of its base workers; and the GPUs of flexible workers of any job."""

    base: Mapping[int, int] = field(default_factory=dict)
    flexible: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """The servers given back, the jobs preempted for that, and the servers emptied beyond what was asked for.

    ``scaled_in`` : servers given back that flexible workers have to leave. ``surplus`` servers stay lent: their GPUs
    can be used again at once. ``shortfall`` : servers that were asked for and are not lent.
    """

    servers: tuple[int, ...]
    preempted: tuple[int, ...] = ()
    scaled_in: tuple[int, ...] = ()
    surplus: tuple[int, ...] = ()
    shortfall: int = 0


def reclaim(
    lent: Mapping[int, Held],
    wanted: int,
    cost: Cost = Cost.EMPTIED,
    *,
    weights: Mapping[int, float] | None = None,
    spans: Mapping[int, int] | None = None,
    gpus: Mapping[int, int] | None = None,
    polish_s: float = 0.0,
    chance: random.Random | None = None,
) -> Plan:
    """A plan that empties ``wanted`` lent servers, or all where there are fewer.

    weights : what preempting each job loses (GPU-seconds, say); 1 for all where None. spans, gpus : the servers and
    GPUs that each job is on in all, those that are not lent included; from ``lent`` where None. polish_s : seconds for
    CP-SAT to improve on the greedy search. chance : for the random order, handed in.
    """
    free = sorted(s for s, held in lent.items() if not held.base and not held.flexible)
    loose = sorted((s for s, held in lent.items() if not held.base and held.flexible), key=lambda s: lent[s].flexible)
    short = max(0, wanted - len(lent))
    wanted = min(wanted, len(lent))
    chosen = (free + loose)[:wanted]
    if len(chosen) == wanted:
        return Plan(tuple(chosen), (), tuple(s for s in chosen if lent[s].flexible), (), short)
    needed = wanted - len(chosen)
    jobs_on = {s: frozenset(lent[s].base) for s in sorted(lent) if lent[s].base}
    price = {j: 1.0 if weights is None else weights[j] for jobs in jobs_on.values() for j in jobs}
    if cost in (Cost.EMPTIED, Cost.WORK):
        stopped = spared(jobs_on, price, _by_emptied(jobs_on, price, needed), needed)
    else:
        stopped = _by_cost(lent, jobs_on, needed, cost, spans, gpus, chance)
    if polish_s > 0:
        from quiltwork.cluster.policy.polish import polished

        stopped = polished(jobs_on, price, needed, stopped, seconds=polish_s)
    emptied = [s for s, jobs in jobs_on.items() if jobs <= stopped]
    # A server that had more to lose is the better one to keep only if it is emptied anyway: all the same then.
    given, surplus = emptied[:needed], emptied[needed:]
    servers = (*chosen, *given)
    return Plan(servers, tuple(sorted(stopped)), tuple(s for s in servers if lent[s].flexible), tuple(surplus), short)


def _by_cost(
    lent: Mapping[int, Held],
    jobs_on: Mapping[int, frozenset[int]],
    needed: int,
    cost: Cost,
    spans: Mapping[int, int] | None,
    gpus: Mapping[int, int] | None,
    chance: random.Random | None,
) -> frozenset[int]:
    """Again and again the cheapest server; what it costs changes only as its jobs go."""
    if spans is None or gpus is None:
        counted: dict[int, int] = {}
        summed: dict[int, int] = {}
        for s in jobs_on:
            for job, taken in lent[s].base.items():
                counted[job] = counted.get(job, 0) + 1
                summed[job] = summed.get(job, 0) + taken
        spans, gpus = spans or counted, gpus or summed
    share: dict[int, dict[int, float]] = {}
    for s, jobs in jobs_on.items():
        if cost is Cost.SERVER_FRACTION:
            share[s] = {j: 1 / spans[j] for j in jobs}
        elif cost is Cost.GPU_FRACTION:
            share[s] = {j: lent[s].base[j] / gpus[j] for j in jobs}
        else:
            share[s] = dict.fromkeys(jobs, 1.0)
    order = dict.fromkeys(jobs_on, 0.0)
    if cost is Cost.RANDOM:
        chance = chance or random.Random(0)
        order = {s: chance.random() for s in jobs_on}
    stopped: set[int] = set()
    emptied = 0
    left = dict(jobs_on)
    while emptied < needed:
        if cost is Cost.RANDOM:
            pick = min(left, key=lambda s: (order[s], s))
        else:
            pick = min(
                left,
                key=lambda s: (sum(v for j, v in share[s].items() if j not in stopped), sum(lent[s].base.values()), s),
            )
        stopped |= left[pick]
        for s in [s for s, jobs in left.items() if jobs <= stopped]:
            del left[s]
            emptied += 1
    return frozenset(stopped)


def _by_emptied(jobs_on: Mapping[int, frozenset[int]], price: Mapping[int, float], needed: int) -> frozenset[int]:
    """Again and again the server whose jobs, when all are stopped, empty most servers for what they cost."""
    servers_of: dict[int, list[int]] = {}
    for s, jobs in jobs_on.items():
        for j in jobs:
            servers_of.setdefault(j, []).append(s)
    left = {s: set(jobs) for s, jobs in jobs_on.items()}
    scores: dict[int, tuple[float, float, int]] = {}
    stopped: set[int] = set()
    emptied = 0
    stale: Iterable[int] = list(left)
    while emptied < needed:
        for s in stale:
            on = left[s]
            near = {t for j in on for t in servers_of[j] if t in left}
            gone = sum(1 for t in near if left[t] <= on)
            paid = sum(price[j] for j in on)
            scores[s] = (paid / min(gone, needed - emptied), paid, s)
        pick = min(scores, key=scores.__getitem__)
        going = set(left[pick])
        stopped |= going
        touched = {t for j in going for t in servers_of[j] if t in left}
        for t in touched:
            left[t] -= going
            if not left[t]:
                del left[t], scores[t]
                emptied += 1
        rest = needed - emptied
        around = {u for t in touched if t in left for j in left[t] for u in servers_of[j] if u in left}
        # Close to the end no more servers count than are still wanted: then every score may change.
        stale = list(left) if rest < 8 else sorted(around | (touched & left.keys()))
    return frozenset(stopped)


def spared(
    jobs_on: Mapping[int, frozenset[int]], price: Mapping[int, float], stopped: frozenset[int], needed: int
) -> frozenset[int]:
    """Whoever need not stop after all, the dearest first."""
    kept = set(stopped)
    emptied = {s for s, jobs in jobs_on.items() if jobs <= kept}
    for job in sorted(stopped, key=lambda j: (-price[j], j)):
        lost = {s for s in emptied if job in jobs_on[s]}
        if len(emptied) - len(lost) >= needed:
            kept.discard(job)
            emptied -= lost
    return frozenset(kept)
