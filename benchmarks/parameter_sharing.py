"""Parameter sharing against block sharing, under one memory cap: PEFT's mixed batches for the base and its adapters,
every full fine-tune a model of its own. And, on work with a system prompt, our engine without each of its features.

The baseline's users would batch what waits: ``generate`` takes up to so many requests of one model at a time; batch
size, threads and attention are swept.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from statistics import median

from quiltwork.core.bench import Claim, Context, Outcome, at_least, at_most
from work.answers import Comparison
from work.azure import CAP, ENGINE_SHARE, LOAD, OURS, Azure, apart, azure, check_cap, fitting, need, ours
from work.fleet import BODY_30M
from work.prompts import prompts
from work.reference import Reference
from work.replay import Request
from work.settings import BatchSettings, ContinuousSettings
from work.side import Side
from work.system import System, answers, asked, conditions, in_turn, warm_up
from work.workload import at_once, at_rate, streamed

P95 = "serving.sharing_p95"
THROUGHPUT = "serving.sharing_throughput"
WORK = "16-app fleet, Azure conv trace, memory cap 0.6x, vs PEFT mixed batches and separate full fine-tunes"
CLAIMS = (
    Claim(name=P95, room="serving", title=f"p95 latency at 0.7x of the baseline's saturated rate; {WORK}",
          reach=at_most(0.8), ratio="ours/baseline", unit="s", parity=False),
    Claim(name=THROUGHPUT, room="serving", title=f"throughput with a full queue; {WORK}", reach=at_least(1.3),
          ratio="ours/baseline", unit="requests/s", parity=False),
)  # fmt: skip
AGAINST = "parameter sharing"
PEFT = "peft"
SYSTEM_PROMPT = 64
"""Tokens that all prompts of the ablation begin with."""
SHAPE = BODY_30M
NEED = "work.continuous:ContinuousFleet"


@dataclass(frozen=True)
class Counts:
    """Requests of a phase, of the sweep's, of the ablation's."""

    phase: int
    sweep: int
    ablation: int


QUICK = Counts(24, 8, 12)
FULL = Counts(160, 32, 100)


def candidates(cores: int, quick: bool) -> list[BatchSettings]:
    """Batch sizes, threads, attention, cache."""
    one = [BatchSettings(requests=size, threads=cores) for size in (4, 8, 16, 32)]
    if quick:
        return one[1:3]
    many = [replace(settings, threads=1, at_once=cores) for settings in one[1:]]
    return [*one, *many, replace(one[2], attention="eager"), replace(one[2], cache="static")]


def run(context: Context) -> Mapping[str, Outcome]:
    """Three shuffles of who is popular, both systems in turn; then the ablation."""
    cores = os.cpu_count() or 1
    counts = QUICK if context.quick else FULL
    seeds = (context.seed,) if context.quick else tuple(context.seed + i for i in range(3))
    work = azure(context, count=counts.phase, seeds=seeds, shape=SHAPE)
    context.progress("the cap: continuous batching with all in memory")
    cap = int(CAP * need(NEED, ContinuousSettings(), work, cores))
    memory = int(ENGINE_SHARE * cap)
    p95: dict[str, list[float]] = {PEFT: [], OURS: []}
    rate: dict[str, list[float]] = {PEFT: [], OURS: []}
    compared = Comparison()
    with ExitStack() as stack:
        reference = stack.enter_context(Reference(work.whole))
        by_kind = {kind: {app.name: app.path for app in work.fleet.apps if app.kind == kind}
                   for kind in ("lora", "top", "head", "full")}  # fmt: skip
        loras = by_kind.pop("lora")
        base = (work.fleet.base.name, work.fleet.base.path)
        peft = System(
            stack.enter_context(Side("work.mixed:PeftFleet", threads=cores, base=base, adapters=loras,
                                     models={name: path for kind in by_kind.values() for name, path in kind.items()})),
            "PEFT mixed batches, separate full fine-tunes",
        )  # fmt: skip
        fastest, quickest, sweep = _tune(context, peft, work, seeds[0], counts, cores)
        check_cap(peft, cap)
        peft.settings = f"all in memory; full queue: {fastest.label()}; arrivals: {quickest.label()}"
        systems = {PEFT: peft, OURS: stack.enter_context(ours(work, cores, memory))}
        warm_up(systems, work.words(seeds[0], "warm")[:16])
        for turn, seed in enumerate(seeds):
            done = {}
            timed = at_once(work.words(seed, "full queue"))
            peft.side.call("configure", fastest)
            for name in in_turn(list(systems), turn):
                context.progress(f"full queue, shuffle {seed}: {systems[name].name}")
                done[name] = systems[name].full_queue(timed)
                rate[name].append(done[name].throughput)
            compared.add(reference.compare(asked(timed), answers(done[OURS]), answers(done[PEFT])))
            timed = streamed(at_rate(work.words(seed, "arrivals"), LOAD * rate[PEFT][-1]))
            peft.side.call("configure", quickest)
            for name in in_turn(list(systems), turn):
                context.progress(f"arrivals, shuffle {seed}: {systems[name].name}")
                done[name] = systems[name].open_arrivals(timed)
                p95[name].append(done[name].latency(0.95))
            compared.add(reference.compare(asked(timed), answers(done[OURS]), answers(done[PEFT])))
        for system in systems.values():
            check_cap(system, cap)
        rows = [system.row(AGAINST) for system in systems.values()]
        sides = conditions(systems)
    offered = LOAD * median(rate[PEFT])
    with ExitStack() as stack:
        arms = {"everything on": stack.enter_context(ours(work, cores, memory)),
                "no prefix reuse": stack.enter_context(ours(work, cores, memory, prefix_cache=False)),
                "no batches across models": System(stack.enter_context(
                    Side("work.ours:OurModelsInTurn", threads=cores, zoo=work.zoo, models=work.names,
                         memory_bytes=memory)))}  # fmt: skip
        if not context.quick:
            alone = stack.enter_context(apart(work.zoo, work.names, fitting(work, memory), memory))
            context.progress(alone.name)
            alone.full_queue(at_once(work.words(seeds[0], "apart")))
            alone.open_arrivals(streamed(at_rate(work.words(seeds[0], "apart arrivals"), offered)))
            rows.append(alone.row(AGAINST))
            arms["no block sharing: one process per app"] = replace(alone, queues=[], arrivals=[], cpu=[])
        rows += _ablation(context, work, arms, counts.ablation, offered)
    details: dict[str, object] = {
        "requests": counts.phase, "shuffles": list(seeds), "cap_bytes": cap, "engine_memory_bytes": memory,
        "peaks": {name: system.peak for name, system in systems.items()}, "load": LOAD,
        "system_prompt_tokens": SYSTEM_PROMPT, "answers": compared.summary(),
        "sides": sides,
    }  # fmt: skip
    return {
        claim: Outcome(ours=values[OURS], baseline=values[PEFT], answers_equal=compared.equal, details=details,
                       rows=rows + sweep)
        for claim, values in ((P95, p95), (THROUGHPUT, rate))
    }  # fmt: skip


def _tune(
    context: Context, peft: System, work: Azure, seed: int, counts: Counts, cores: int
) -> tuple[BatchSettings, BatchSettings, list[dict[str, object]]]:
    """The baseline's best settings for a full queue, those for the lowest p95, and all that was tried."""
    some = work.words(seed, "sweep", counts.sweep)
    tried = candidates(cores, context.quick)
    rates: list[float] = []
    late: list[float] = []
    for settings in tried:
        context.progress(f"{peft.name}, full queue: {settings.label()}")
        peft.side.call("configure", settings)
        rates.append(peft.replay(at_once(some)).throughput)
    for settings in tried:
        context.progress(f"{peft.name}, arrivals: {settings.label()}")
        peft.side.call("configure", settings)
        late.append(peft.replay(streamed(at_rate(some, LOAD * max(rates)))).latency(0.95))
    fastest, quickest = tried[rates.index(max(rates))], tried[late.index(min(late))]
    rows: list[dict[str, object]] = [
        {"table": "sweep", "system": peft.name, "settings": settings.label(), "requests/s": round(rates[i], 2),
         "p95 s": round(late[i], 3),
         "chosen for": ", ".join(["full queue"] * (settings is fastest) + ["p95"] * (settings is quickest))}
        for i, settings in enumerate(tried)
    ]  # fmt: skip
    return fastest, quickest, rows


def _ablation(
    context: Context, work: Azure, arms: Mapping[str, System], count: int, offered: float
) -> list[dict[str, object]]:
    """Each engine on the same prompts, which begin alike; one row each."""
    start = prompts(1, SYSTEM_PROMPT, work.vocab, seed=context.seed, repeat="system prompt")[0]

    def words(seed: int, phase: str) -> list[Request]:
        return [replace(r, prompt=start + r.prompt) for r in work.words(seed, f"ablation {phase}", count)]

    first = next(iter(work.traces))
    warm_up(arms, words(first, "warm")[:16])
    for turn, seed in enumerate(work.traces):
        for name in in_turn(list(arms), turn):
            context.progress(f"ablation, full queue, shuffle {seed}: {name}")
            arms[name].full_queue(at_once(words(seed, "full queue")))
    for name, system in arms.items():
        context.progress(f"ablation, arrivals: {name}")
        system.open_arrivals(streamed(at_rate(words(first, "arrivals"), offered)))
    whole = median(done.throughput for done in arms["everything on"].queues)
    rows = []
    for name, system in arms.items():
        full = median(done.throughput for done in system.queues)
        row = system.row(AGAINST, table="ablation", engine=name) | {
            "requests/s, of everything on": round(full / whole, 3)
        }
        for column in ("against", "system", "settings"):
            del row[column]
        rows.append({"table": row.pop("table"), "engine": row.pop("engine")} | row)
    return rows
