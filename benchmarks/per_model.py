"""Per-model provisioning against sharing, under one memory cap: transformers' ``generate`` per request and continuous
batching, one model per application, loaded on demand, the least recently used unloaded.

Each of the two runs at the best settings of its own sweep, and so does our engine. A figure is held
against the stronger of the two at that figure: the first shuffle of who is popular measures both, the others the
stronger one. Limits of latency are five times what the slower of the two needs on an unloaded machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import reduce
from operator import gt, lt

from quiltwork.core.bench import Claim, Context, Outcome, at_least, at_most
from work.answers import Comparison
from work.azure import APPS, CAP, ENGINE_SHARE, LOAD, OURS, Azure, apart, azure, check_cap, label, need, ours
from work.fleet import BODY_30M
from work.reference import Reference
from work.replay import Limits, Replayed, Request
from work.settings import ContinuousSettings, GenerateSettings
from work.side import Side
from work.system import System, answers, asked, conditions, in_turn, warm_up
from work.workload import at_once, at_rate, renamed, streamed

P95 = "serving.per_model_p95"
THROUGHPUT = "serving.per_model_throughput"
GOODPUT = "serving.per_model_goodput"
WORK = (
    "16-app fleet, Azure conv trace, memory cap 0.6x, vs the stronger of transformers generate and continuous batching"
)
CLAIMS = (
    Claim(name=P95, room="serving", title=f"p95 latency at 0.7x of the baseline's saturated rate; {WORK}",
          reach=at_most(0.665), ratio="ours/baseline", unit="s", parity=False),
    Claim(name=THROUGHPUT, room="serving", title=f"throughput with a full queue; {WORK}", reach=at_least(1.71),
          ratio="ours/baseline", unit="requests/s", parity=False),
    Claim(name=GOODPUT, room="serving", title=f"most requests per second served within the limits, each at the best "
          f"of three loads; {WORK}", reach=at_least(1.5), ratio="ours/baseline", unit="requests/s", parity=False),
)  # fmt: skip
AGAINST = "per-model provisioning"
LOADS = (0.35, LOAD, 1.4)
"""Offered loads at which requests within limits are counted, as shares of the baseline's saturated rate."""
SLACK = 5.0
"""Limits of latency over what the slower baseline takes unloaded (95th percentile of each)."""
SHAPE = BODY_30M
FACTORIES = {"generate": "work.generate:GenerateFleet", "continuous": "work.continuous:ContinuousFleet"}
NAMES = {"generate": "transformers generate", "continuous": "transformers continuous batching", OURS: OURS}

Settings = GenerateSettings | ContinuousSettings


@dataclass(frozen=True)
class Counts:
    """How much is done; requests per phase."""

    phase: int
    loads: int
    """At the loads other than LOAD."""
    sweep: int
    unloaded: int
    need: Mapping[str, int | None]
    """To see what a baseline needs with all in memory; all for the one whose need sets the cap."""


QUICK = Counts(24, 12, 8, 4, {"generate": 8, "continuous": None})
FULL = Counts(200, 64, 32, 24, {"generate": 64, "continuous": None})


@dataclass
class Tuned:
    """What the sweep found out about one baseline."""

    fastest: Settings
    quickest: Settings
    """Of lowest p95."""
    need: int
    """Bytes with all applications in memory."""
    alone: Replayed
    """Requests served one by one."""
    rows: list[dict[str, object]]


def candidates(cores: int, quick: bool) -> dict[str, list[Settings]]:
    """What is tried of each baseline, by name."""
    one = GenerateSettings(threads=cores, at_once=1)
    many = GenerateSettings(threads=1, at_once=cores)
    base = ContinuousSettings()
    if quick:
        return {"generate": [one, many], "continuous": [base]}
    return {
        "generate": [one, many, replace(many, attention="eager"), replace(many, cache="static")],
        "continuous": [
            base,
            replace(base, at_once=cores),
            replace(base, threads=cores, at_once=1),
            replace(base, attention="eager"),
            replace(base, requests=8, batch_tokens=128),
            replace(base, requests=32, batch_tokens=512),
        ],
    }


OURS_TRIED: tuple[Mapping[str, int], ...] = (
    {},
    {"max_num_seqs": 64, "step_tokens": 512},
    {"max_num_seqs": 128, "prefill_chunk": 256, "step_tokens": 512},
)
"""Settings of our engine, the first one its defaults. One choice serves all phases, as a server's does."""


def run(context: Context) -> Mapping[str, Outcome]:
    """Both baselines and ours, each in a process of its own, one after the other for each shuffle."""
    cores = os.cpu_count() or 1
    counts = QUICK if context.quick else FULL
    seeds = (context.seed,) if context.quick else tuple(context.seed + i for i in range(3))
    work = azure(context, count=counts.phase, seeds=seeds, shape=SHAPE)
    tuned = {
        name: _tune(context, name, tried, work, counts, cores)
        for name, tried in candidates(cores, context.quick).items()
    }
    limits = Limits(
        SLACK * max(found.alone.first(0.95) for found in tuned.values()),
        SLACK * max(found.alone.between(0.95) for found in tuned.values()),
    )
    cap = int(CAP * tuned["continuous"].need)
    resident = {name: min(APPS, int(cap / (found.need / APPS))) for name, found in tuned.items()}
    memory = int(ENGINE_SHARE * cap)
    settings, tried = _tune_ours(context, work, counts, cores, memory)
    with ExitStack() as stack:
        systems = {
            name: System(
                stack.enter_context(
                    Side(FACTORIES[name], threads=cores, models=dict(work.whole), resident=resident[name])
                ),
                NAMES[name],
                f"{resident[name]} apps in memory; full queue: {found.fastest.label()}; "
                f"arrivals: {found.quickest.label()}",
            )
            for name, found in tuned.items()
        }
        systems[OURS] = stack.enter_context(ours(work, cores, memory, **settings))
        warm_up(systems, work.words(seeds[0], "warm")[:16])
        race = Race(context, work, tuned, systems, stack.enter_context(Reference(work.whole)), limits)
        for turn, seed in enumerate(seeds):
            race.shuffle(turn, seed, counts)
        check_cap(systems[OURS], cap)
        sides = conditions(systems)
    rate = LOAD * race.figures[THROUGHPUT][race.stronger[THROUGHPUT]][0]
    rows = [system.row(AGAINST, limits) for system in systems.values()]
    if not context.quick:
        rows.append(_apart(context, work, seeds[0], resident["continuous"], memory, rate, limits))
    rows += race.rows + [row for found in tuned.values() for row in found.rows] + tried
    details: dict[str, object] = {
        "requests": counts.phase, "shuffles": list(seeds), "cap_bytes": cap, "resident_models": resident,
        "need_bytes": {name: found.need for name, found in tuned.items()}, "engine_memory_bytes": memory,
        "peaks": {name: system.peak for name, system in systems.items()}, "load": LOAD, "loads": list(LOADS),
        "limit_first_s": limits.first, "limit_between_s": limits.between, "answers": race.compared.summary(),
        "sides": sides,
    }  # fmt: skip
    return {
        claim: Outcome(
            ours=race.figures[claim][OURS],
            baseline=race.figures[claim][race.stronger[claim]],
            answers_equal=race.compared.equal,
            details=details | {"stronger": race.stronger[claim]},
            rows=rows,
        )
        for claim in race.figures
    }


@dataclass
class Race:
    """The measured phases: the same requests on every system, who goes first in turn."""

    context: Context
    work: Azure
    tuned: Mapping[str, Tuned]
    systems: Mapping[str, System]
    reference: Reference
    limits: Limits
    figures: dict[str, dict[str, list[float]]] = field(default_factory=lambda: {P95: {}, THROUGHPUT: {}, GOODPUT: {}})
    """Claim -> system -> a figure for each shuffle."""
    stronger: dict[str, str] = field(default_factory=dict)
    """Claim -> the baseline that did better at it in the first shuffle."""
    compared: Comparison = field(default_factory=Comparison)
    rows: list[dict[str, object]] = field(default_factory=list)

    def shuffle(self, turn: int, seed: int, counts: Counts) -> None:
        """All phases of one shuffle. The first settles which baseline is the stronger at what."""
        queue = at_once(self.work.words(seed, "full queue"))
        done = self._phase(turn, f"full queue, shuffle {seed}", queue, THROUGHPUT, System.full_queue)
        self._keep(THROUGHPUT, {name: replayed.throughput for name, replayed in done.items()}, gt)
        saturated = self.figures[THROUGHPUT][self.stronger[THROUGHPUT]][turn]
        within: dict[str, list[float]] = {}
        for load in sorted(LOADS, key=lambda load: load != LOAD):
            words = self.work.words(seed, f"arrivals at {load}", None if load == LOAD else counts.loads)
            timed = streamed(at_rate(words, load * saturated))
            keep = System.open_arrivals if load == LOAD else System.replay
            done = self._phase(
                turn, f"arrivals at {load}x, shuffle {seed}", timed, P95 if load == LOAD else GOODPUT, keep
            )
            if load == LOAD:
                self._keep(P95, {name: replayed.latency(0.95) for name, replayed in done.items()}, lt)
            for name, replayed in done.items():
                within.setdefault(name, []).append(replayed.goodput(self.limits))
            self._knee(seed, load, load * saturated, done)
        self._keep(GOODPUT, {name: max(rates) for name, rates in within.items()}, gt)

    def _phase(
        self,
        turn: int,
        what: str,
        timed: Sequence[Request],
        claim: str,
        serve: Callable[[System, Sequence[Request]], Replayed],
    ) -> dict[str, Replayed]:
        done = {}
        for name in in_turn(self._needed(claim, turn), turn):
            self.context.progress(f"{what}: {NAMES[name]}")
            if name != OURS:
                found = self.tuned[name]
                self.systems[name].side.call("configure", found.fastest if claim == THROUGHPUT else found.quickest)
            done[name] = serve(self.systems[name], timed)
        for name in done:
            if name != OURS:
                self.compared.add(self.reference.compare(asked(timed), answers(done[OURS]), answers(done[name])))
        return done

    def _needed(self, claim: str, turn: int) -> list[str]:
        """The systems of a phase; after the first shuffle, the stronger baselines at the figures it is for, and ours.

        The phase of P95 counts requests within limits as well.
        """
        claims = {P95, GOODPUT} if claim == P95 else {claim}
        wanted = set(self.systems) if turn == 0 else {self.stronger[c] for c in claims} | {OURS}
        return [name for name in self.systems if name in wanted]

    def _keep(self, claim: str, found: Mapping[str, float], better: Callable[[float, float], bool]) -> None:
        for name, figure in found.items():
            self.figures[claim].setdefault(name, []).append(figure)
        if claim not in self.stronger:
            theirs = [name for name in found if name != OURS]
            self.stronger[claim] = reduce(lambda a, b: b if better(found[b], found[a]) else a, theirs)

    def _knee(self, seed: int, load: float, rate: float, done: Mapping[str, Replayed]) -> None:
        self.rows += [
            {"table": "latency-by-load", "against": AGAINST, "system": NAMES[name], "shuffle": seed, "load": load,
             "offered/s": round(rate, 2), "p95 s": round(replayed.latency(0.95), 3),
             "first token p95 s": round(replayed.first(0.95), 3),
             "within limits/s": round(replayed.goodput(self.limits), 2), "loads": replayed.loads}
            for name, replayed in done.items()
        ]  # fmt: skip


def _tune(context: Context, name: str, tried: Sequence[Settings], work: Azure, counts: Counts, cores: int) -> Tuned:
    """A baseline's best settings for a full queue and for the lowest p95, all applications in memory; what it takes."""
    seed = next(iter(work.traces))
    some = work.words(seed, "sweep", counts.sweep)
    rates: list[float] = []
    late: list[float] = []
    with Side(FACTORIES[name], threads=cores, models=dict(work.whole), resident=APPS) as side:
        system = System(side)
        for settings in tried:
            context.progress(f"{NAMES[name]}, full queue: {settings.label()}")
            side.call("configure", settings)
            rates.append(system.replay(at_once(some)).throughput)
        for settings in tried:
            context.progress(f"{NAMES[name]}, arrivals: {settings.label()}")
            side.call("configure", settings)
            late.append(system.replay(streamed(at_rate(some, LOAD * max(rates)))).latency(0.95))
        fastest, quickest = tried[rates.index(max(rates))], tried[late.index(min(late))]
        context.progress(f"{NAMES[name]}: unloaded, and what it needs")
        side.call("configure", quickest)
        alone: Replayed = side.call("unloaded", streamed(some[: counts.unloaded]))
    rows: list[dict[str, object]] = [
        {"table": "sweep", "system": NAMES[name], "settings": settings.label(), "requests/s": round(rates[i], 2),
         "p95 s": round(late[i], 3),
         "chosen for": ", ".join(["full queue"] * (settings is fastest) + ["p95"] * (settings is quickest))}
        for i, settings in enumerate(tried)
    ]  # fmt: skip
    return Tuned(fastest, quickest, need(FACTORIES[name], fastest, work, cores, counts.need[name]), alone, rows)


def _tune_ours(
    context: Context, work: Azure, counts: Counts, cores: int, memory: int
) -> tuple[Mapping[str, int], list[dict[str, object]]]:
    """The settings of our engine that serve a full queue fastest, on other words than are reported, and rows of all."""
    words = at_once(work.words(context.seed, "sweep of ours"))
    rates = []
    for settings in OURS_TRIED[: 1 if context.quick else None]:
        context.progress(f"{OURS}, full queue: {label(settings)}")
        with ours(work, cores, memory, **settings) as system:
            system.replay(words[: counts.sweep])
            rates.append(system.replay(renamed(words, "sweep", work.vocab)).throughput)
    best = rates.index(max(rates))
    rows: list[dict[str, object]] = [
        {"table": "sweep", "system": OURS, "settings": label(OURS_TRIED[i]), "requests/s": round(rate, 2),
         "chosen for": "everything" if i == best else ""}
        for i, rate in enumerate(rates)
    ]  # fmt: skip
    return OURS_TRIED[best], rows


def _apart(
    context: Context, work: Azure, seed: int, resident: int, memory: int, rate: float, limits: Limits
) -> dict[str, object]:
    context.progress("our engine, one process per app")
    with apart(work.zoo, work.names, resident, memory) as system:
        system.full_queue(at_once(work.words(seed, "apart")))
        system.open_arrivals(streamed(at_rate(work.words(seed, "apart arrivals"), rate)))
        return system.row(AGAINST, limits)
