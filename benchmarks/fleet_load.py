"""The fleet under load: latency below saturation and throughput with a full queue, both sides under one memory cap.

The baseline is transformers' continuous batching, one manager per model, models loaded on demand and the least
recently used unloaded; LoRAs are merged models on disk, so that it never merges. It is measured with all sixteen
applications in memory first: 0.6 of that is the cap. Each system's own loader is told the cap; the peaks are checked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from quiltwork.core.bench import Claim, Context, Outcome, at_least, at_most
from quiltwork.core.errors import QuiltworkError
from work.answers import Comparison
from work.azure import APPS, CAP, ENGINE_SHARE, LOAD, apart
from work.fleet import merged, sixteen_apps
from work.reference import Reference
from work.replay import Replayed, Request
from work.settings import ContinuousSettings
from work.side import Side
from work.stock import stock
from work.system import System, conditions
from work.workload import at_once, at_rate, renamed, requests

P95 = "serving.azure_p95"
THROUGHPUT = "serving.azure_throughput"
WORK = "16-app fleet, 600 requests of the Azure conv trace, memory cap 0.6x, vs continuous batching per model"
CLAIMS = (
    Claim(name=P95, room="serving", title=f"p95 latency at 0.7x of the baseline's saturated rate; {WORK}",
          reach=at_most(0.665), ratio="ours/baseline", unit="s", parity=False),
    Claim(name=THROUGHPUT, room="serving", title=f"throughput with a full queue; {WORK}", reach=at_least(1.71),
          ratio="ours/baseline", unit="requests/s", parity=False),
)  # fmt: skip


def candidates(cores: int, quick: bool) -> list[ContinuousSettings]:
    """Threads per model, models that compute at a time, batch sizes and attention."""
    base = ContinuousSettings()
    chosen = [base, replace(base, threads=cores, at_once=1), replace(base, at_once=cores)]
    if quick:
        return chosen[:2]
    return [
        *chosen,
        replace(base, threads=cores),
        replace(base, attention="eager"),
        replace(base, requests=8, batch_tokens=128),
        replace(base, requests=32, batch_tokens=512),
        replace(base, requests=32, batch_tokens=512, threads=cores, at_once=1),
    ]


def run(context: Context) -> Mapping[str, Outcome]:
    """Three shuffles of who is popular; each system in a process of its own, one after the other for each shuffle."""
    count, seeds = (48, (context.seed,)) if context.quick else (600, tuple(context.seed + i for i in range(3)))
    cores = os.cpu_count() or 1
    fleet = sixteen_apps(context.scratch / "fleet", seed=context.seed)
    names, vocab = [app.name for app in fleet.apps], fleet.shape.vocab
    traces = {s: requests(context.data, names, vocab, count=count, seed=s) for s in seeds}
    folders = {app.name: app.path for app in merged(fleet, context.scratch / "merged").apps}
    zoo = context.scratch / "zoo"
    stock(zoo, fleet)

    fastest, quickest, rows = _tune(context, folders, traces[seeds[0]], vocab, cores)

    def baseline(resident: int) -> Side:
        return Side("work.continuous:ContinuousFleet", threads=cores, models=folders, resident=resident)

    def words(seed: int, phase: str) -> list[Request]:
        return renamed(traces[seed], phase, vocab)

    context.progress("the baseline's need")
    with baseline(APPS) as side:
        roomy = System(side)
        roomy.side.call("configure", fastest)
        roomy_rate = roomy.replay(at_once(words(seeds[0], "need"))).throughput
        need = roomy.peak
        roomy.side.call("configure", quickest)
        roomy_p95 = roomy.replay(at_rate(words(seeds[0], "need p95"), LOAD * roomy_rate)).latency(0.95)
    cap = int(CAP * need)
    resident = int(cap / (need / APPS))
    memory = int(ENGINE_SHARE * cap)
    rows.append({"system": "baseline, all in memory (1.0x)", "requests/s": round(roomy_rate, 2),
                 "p95 s at 0.7x of that": round(roomy_p95, 3), "peak MB": round(need / 1e6)})  # fmt: skip

    p95: dict[str, list[float]] = {"ours": [], "baseline": []}
    rate: dict[str, list[float]] = {"ours": [], "baseline": []}
    compared = {P95: Comparison(), THROUGHPUT: Comparison()}
    with ExitStack() as stack:
        reference = stack.enter_context(Reference(folders))
        systems = {
            "baseline": System(stack.enter_context(baseline(resident))),
            "ours": System(stack.enter_context(Side("work.ours:OurModels", threads=cores, zoo=zoo, models=names,
                                                    memory_bytes=memory))),
        }  # fmt: skip
        _warm(systems, words(seeds[0], "warm")[:32])
        for seed in seeds:
            systems["baseline"].side.call("configure", fastest)
            _phase(context, systems, at_once(words(seed, "full queue")), f"full queue, shuffle {seed}",
                   lambda done: done.throughput, rate, reference, compared[THROUGHPUT])  # fmt: skip
            systems["baseline"].side.call("configure", quickest)
            timed = at_rate(words(seed, "arrivals"), LOAD * rate["baseline"][-1])
            _phase(context, systems, timed, f"arrivals, shuffle {seed}",
                   lambda done: done.latency(0.95), p95, reference, compared[P95])  # fmt: skip
        sides = conditions(systems)
        for name, system in systems.items():
            rows.append({"system": f"{name}, {CAP}x", "requests/s": [round(r, 2) for r in rate[name]],
                         "p95 s": [round(p, 3) for p in p95[name]], "peak MB": round(system.peak / 1e6)})  # fmt: skip
            if system.peak > cap:
                raise QuiltworkError(f"{name} took {system.peak} bytes of {cap}", where="memory cap")
    if not context.quick:
        rows.append(_apart(zoo, names, resident, memory, words, seeds[0], rate["baseline"][0]))
    details: dict[str, object] = {
        "requests": count, "shuffles": list(seeds), "cap_bytes": cap, "need_bytes": need, "resident_models": resident,
        "engine_memory_bytes": memory, "peaks": {name: system.peak for name, system in systems.items()},
        "baseline_settings": {"full queue": fastest.label(), "p95": quickest.label()}, "load": LOAD,
        "sides": sides,
    }  # fmt: skip
    return {
        claim: Outcome(ours=values["ours"], baseline=values["baseline"], answers_equal=compared[claim].equal,
                       details=details | {"answers": compared[claim].summary()}, rows=rows)
        for claim, values in ((P95, p95), (THROUGHPUT, rate))
    }  # fmt: skip


def _tune(
    context: Context, folders: dict[str, Path], trace: list[Request], vocab: int, cores: int
) -> tuple[ContinuousSettings, ContinuousSettings, list[dict[str, object]]]:
    """The baseline's best settings for a full queue, those for the lowest p95, and all that was tried.

    On the first requests of the trace, all applications in memory.
    """
    some = trace[: len(trace) // 8]
    rates: dict[ContinuousSettings, float] = {}
    p95: dict[ContinuousSettings, float] = {}
    with Side("work.continuous:ContinuousFleet", threads=cores, models=folders, resident=APPS) as side:
        tried = candidates(cores, context.quick)
        for i, settings in enumerate(tried):
            context.progress(f"full queue: {settings.label()}")
            side.call("configure", settings)
            rates[settings] = side.call("replay", at_once(renamed(some, f"sweep {i}", vocab))).throughput
        for i, settings in enumerate(tried):
            context.progress(f"arrivals: {settings.label()}")
            side.call("configure", settings)
            timed = at_rate(renamed(some, f"sweep p95 {i}", vocab), LOAD * max(rates.values()))
            p95[settings] = side.call("replay", timed).latency(0.95)
    fastest, quickest = max(tried, key=rates.__getitem__), min(tried, key=p95.__getitem__)
    rows: list[dict[str, object]] = [
        {"sweep": settings.label(), "requests/s": round(rates[settings], 2), "p95 s": round(p95[settings], 3),
         "chosen for": ", ".join(["full queue"] * (settings is fastest) + ["p95"] * (settings is quickest))}
        for settings in tried
    ]  # fmt: skip
    return fastest, quickest, rows


def _warm(systems: Mapping[str, System], some: list[Request]) -> None:
    for system in systems.values():
        system.side.call("replay", at_once(some))


def _phase(
    context: Context,
    systems: Mapping[str, System],
    timed: list[Request],
    what: str,
    figure: Callable[[Replayed], float],
    into: dict[str, list[float]],
    reference: Reference,
    compared: Comparison,
) -> None:
    """Replay the same requests on each system, who goes first in turn; keep a figure of each, compare their answers."""
    replies = {}
    order = list(systems) if len(into["ours"]) % 2 == 0 else list(reversed(systems))
    for name in order:
        system = systems[name]
        context.progress(f"{what}: {name}")
        done = system.replay(timed)
        into[name].append(figure(done))
        replies[name] = {request: reply.tokens for request, reply in done.replies.items()}
    asked = {request.id: (request.app, request.prompt) for request in timed}
    compared.add(reference.compare(asked, replies["ours"], replies["baseline"]))


def _apart(
    zoo: Path,
    names: list[str],
    resident: int,
    memory: int,
    words: Callable[[int, str], list[Request]],
    seed: int,
    rate: float,
) -> dict[str, object]:
    """Our engine, one process per application, as many of them in memory as the baseline's models."""
    with apart(zoo, names, resident, memory) as system:
        full = system.replay(at_once(words(seed, "apart"))).throughput
        late = system.replay(at_rate(words(seed, "apart arrivals"), LOAD * rate)).latency(0.95)
    return {"system": system.name, "requests/s": round(full, 2), "p95 s": round(late, 3),
            "peak MB": round(system.peak / 1e6)}  # fmt: skip
