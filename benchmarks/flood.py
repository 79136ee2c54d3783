"""One tenant floods: what the others notice.

Four tenants of equal weight share one engine that is asked for more than it can do. Three of them ask for what they
always ask for; the fourth asks for exactly its share, a quarter of the engine, or for ten times as much. Both engines
take turns step by step; each has a clock of its own, the processor time of its steps (``work.crowd``). A third engine
under the flood serves in order of arrival: the ablation. Below it, latency against rate for one tenant, and the knee.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace

from quiltwork.core.bench import Claim, Context, Outcome, at_most
from work.asked import Asked, Served, price
from work.fleet import BODY_30M, SMALL_BODY, merged, sixteen_loras
from work.reference import Reference
from work.replay import Request
from work.side import Side
from work.stock import stock
from work.workload import at_once, renamed, requests

NAME = "serving.flood_p95"
CLAIMS = (
    Claim(name=NAME, room="serving", title="p95 latency of three tenants while a fourth asks for 10x its share, vs for "
          "exactly its share; the engine saturated in both", reach=at_most(1.10), ratio="ours/baseline", unit="s"),
)  # fmt: skip
TENANTS, FLOOD = 4, 10
LOAD = 1.2
"""What all ask for together, as a share of what the engine can do, while the fourth keeps to its share."""
SHARE = 1 / TENANTS
SEATS = 32
QUEUE = 4 * SEATS
"""Requests that are there from the start, of all four tenants together."""
RATES = (0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2)
"""Of the knee: arrivals as a share of what the engine can do."""
KNEE = 2.0
"""The knee is the highest rate whose p95 is at most so many times that at the lowest rate."""


def run(context: Context) -> Mapping[str, Outcome]:
    """A calibration, then every shuffle on all three engines at once, then the rates of the knee on one of them."""
    count = 40 if context.quick else 200
    seeds = [context.seed + i for i in range(1 if context.quick else 5)]
    fleet = sixteen_loras(context.scratch / "fleet", seed=context.seed, shape=SMALL_BODY if context.quick else BODY_30M)
    names, vocab = [app.name for app in fleet.apps], fleet.shape.vocab
    folders = {app.name: app.path for app in merged(fleet, context.scratch / "merged").apps}
    zoo = context.scratch / "zoo"
    stock(zoo, fleet)
    whole = QUEUE + int(2 * count * (1.2 + FLOOD * SHARE / (LOAD - SHARE)))
    traces = {seed: requests(context.data, names, vocab, count=whole, seed=seed) for seed in seeds}

    common = {"max_num_seqs": SEATS, "kv_bytes": 1 << 28}
    engines = {"share": common, "flood": common, "arrival": {**common, "tenant_fairness": False}}
    rows: list[dict[str, object]] = []
    p95: dict[str, list[float]] = {name: [] for name in engines}
    asked: dict[str, tuple[str, Sequence[int]]] = {}
    replies: dict[str, dict[str, Sequence[int]]] = {name: {} for name in engines}
    with Side("work.crowd:Crowds", threads=1, zoo=zoo, models=names, engines=engines) as side, \
            Reference(folders) as reference:  # fmt: skip
        context.progress("what the engine can do")
        full = at_once(renamed(traces[seeds[0]][: max(count, 6 * SEATS)], "full", vocab))
        for name in engines:  # those that are not asked for the figure warm up
            side.call("capacity", name, full[: 3 * SEATS], TENANTS)
        rate: float = side.call("capacity", "share", full, TENANTS)
        for seed in seeds:
            context.progress(f"shuffle {seed}")
            all_others, quiet, flood = crowd(traces[seed], count, rate, seed)
            arms = {"share": ("share", [*all_others, *quiet]), "flood": ("flood", [*all_others, *flood]),
                    "arrival": ("arrival", [*all_others, *flood])}  # fmt: skip
            others = all_others[QUEUE - QUEUE // TENANTS :][:count]
            ids = frozenset(a.request.id for a in others)
            done: dict[str, Served] = side.call("replay", arms, ids, ["share", "flood"])
            for name, served in done.items():
                p95[name].append(quantile([s for id, s in served.latency.items() if id in ids], 0.95))
                replies[name] |= {id: tokens for id, tokens in served.answers.items() if id in ids}
                rows.append(_row(f"{name}, shuffle {seed}", served, p95[name][-1], others, rate))
            asked |= {a.request.id: (a.request.app, a.request.prompt) for a in others}
        compared = reference.compare(asked, replies["flood"], replies["share"])
        if not context.quick:
            rows += _knee(context, side, traces[seeds[0]], count, rate, vocab)
    unfair = [late / alone for late, alone in zip(p95["arrival"], p95["share"], strict=True)]
    rows.append({"arm": "without fairness: order of arrival, ratio (at least)", "p95 s": [round(r, 2) for r in unfair]})
    details = {"requests_of_others": count, "tenants": TENANTS, "load": LOAD, "flood": FLOOD, "shuffles": seeds,
               "capacity_price_per_s": rate, "capacity_requests_per_s": rate * len(full) / sum(map(price, full)),
               "seats": SEATS, "threads": 1,
               "clock": "processor time of the engine's steps", "without_fairness_ratios": unfair,
               "answers": compared.summary()}  # fmt: skip
    return {NAME: Outcome(ours=p95["flood"], baseline=p95["share"], answers_equal=compared.equal, details=details,
                          rows=rows)}  # fmt: skip


def crowd(trace: Sequence[Request], count: int, rate: float, seed: int) -> tuple[list[Asked], list[Asked], list[Asked]]:
    """Requests of the others, and of the fourth tenant at its share and at ten times as much.

    Everybody starts with the same number of requests, ``QUEUE`` in all, and goes on asking until the ``count`` requests
    that are measured, those of the others after the start, are answered: the engine is saturated all the time, and
    neither its filling nor its emptying is measured. The others' requests arrive as a Poisson process; the fourth's
    evenly by what they count, as from a client that sends at a fixed rate. Its first requests are the same in both.

    rate : what the engine serves per second, by price.
    """
    rng = random.Random(f"crowd/{seed}")
    mine = QUEUE // TENANTS
    start, first, rest = at_once(trace[:mine]), at_once(trace[mine:QUEUE]), trace[QUEUE + 2 * count :]
    others = poisson(trace[QUEUE : QUEUE + 2 * count], (LOAD - SHARE) * rate, rng)
    until = others[-1].arrival
    return (
        [Asked(f"{seed}/{i % (TENANTS - 1)}", request) for i, request in enumerate([*first, *others])],
        [Asked(f"{seed}/flood", request) for request in [*start, *_evenly(rest, SHARE * rate, until)]],
        [Asked(f"{seed}/flood", request) for request in [*start, *_evenly(rest, FLOOD * SHARE * rate, until)]],
    )


def poisson(some: Sequence[Request], rate: float, rng: random.Random) -> list[Request]:
    """The requests at random times, as many per second as count ``rate`` by price on average."""
    gaps = [rng.expovariate(1.0) for _ in some]
    factor = sum(map(price, some)) / rate / sum(gaps)
    at, timed = 0.0, []
    for request, gap in zip(some, gaps, strict=True):
        at += gap * factor
        timed.append(replace(request, arrival=at))
    return timed


def _evenly(some: Sequence[Request], rate: float, until: float) -> list[Request]:
    """The first of the requests, each as long after the one before as that counts; none after ``until``."""
    at, timed = 0.0, []
    for request in some:
        if at > until:
            break
        timed.append(replace(request, arrival=at))
        at += price(request) / rate
    return timed


def quantile(values: Sequence[float], q: float) -> float:
    """Nearest rank, as ``work.replay`` has it."""
    ordered = sorted(values)
    return ordered[min(int(q * len(ordered)), len(ordered) - 1)]


def _row(arm: str, served: Served, p95: float, others: Sequence[Asked], rate: float) -> dict[str, object]:
    tenants = {asked.tenant for asked in others}
    latency = [served.latency[a.request.id] for a in others if a.request.id in served.latency]
    return {
        "arm": arm,
        "p50 s": round(quantile(latency, 0.5), 3),
        "p95 s": round(p95, 3),
        "answered": sum(a.request.id in served.answers for a in others),
        "engine busy": round(served.busy, 3),
        "served / capacity": round(sum(served.price.values()) / served.seconds / rate, 3),
        "sequences at once": round(served.seats, 1),
        "others waiting": round(sum(n for t, n in served.waiting.items() if t in tenants), 1),
        "fourth waiting": round(sum(n for t, n in served.waiting.items() if t not in tenants), 1),
    }


def _knee(
    context: Context, side: Side, trace: Sequence[Request], count: int, rate: float, vocab: int
) -> list[dict[str, object]]:
    """p95 and throughput of one tenant against its rate of arrival."""
    rows: list[dict[str, object]] = []
    lowest, knee = 0.0, 0.0
    for share in RATES:
        context.progress(f"knee: {share:g} of what the engine can do")
        some = renamed(trace[:count], f"knee {share:g}", vocab)
        timed = poisson(some, share * rate, random.Random(f"knee/{context.seed}"))
        asked = [Asked(f"knee {share:g}", request) for request in timed]
        ids = frozenset(request.id for request in timed)
        done: Served = side.call("replay", {"one": ("share", asked)}, ids, ["one"])["one"]
        p95 = quantile(list(done.latency.values()), 0.95)
        lowest = lowest or p95
        knee = share if p95 <= KNEE * lowest else knee
        rows.append({"arm": f"one tenant at {share:g} of capacity", "p50 s": quantile(list(done.latency.values()), 0.5),
                     "p95 s": round(p95, 3), "answered": len(done.answers), "engine busy": round(done.busy, 3),
                     "served / capacity": round(sum(done.price.values()) / done.seconds / rate, 3),
                     "sequences at once": round(done.seats, 1)})  # fmt: skip
    rows.append({"arm": f"knee (p95 at most {KNEE:g}x that at {RATES[0]:g}): {knee:g} of capacity"})
    return rows
