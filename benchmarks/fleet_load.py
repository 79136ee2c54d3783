"""The fleet under load: latency below saturation and throughput with a full queue, both sides under one memory cap.

The baseline is transformers' continuous batching, one manager per model, models loaded on demand and the least
recently used unloaded; LoRAs are merged models on disk, so that it never merges. It is measured with all sixteen
applications in memory first: 0.6 of that is the cap. Each system's own loader is told the cap; the peaks are checked.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from quiltwork.core.bench import Claim, Context, Outcome, at_least, at_most
from quiltwork.core.errors import QuiltworkError
from work.answers import Comparison
from work.continuous import ContinuousSettings
from work.fleet import merged, sixteen_apps
from work.ours import stock
from work.reference import Reference
from work.replay import Replayed, Request
from work.side import Side
from work.sweep import sweep
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
CAP, LOAD, APPS = 0.6, 0.7, 16
ENGINE_SHARE = 0.75
"""Share of the cap that the engine may fill with weights and KV; the rest is for what arithmetic needs in passing."""


@dataclass(frozen=True)
class Tuned:
    """A candidate of the baseline's sweep."""

    settings: ContinuousSettings
    threads: int

    def label(self) -> str:
        """One cell of the sweep's table."""
        return f"{self.settings.label()}, {self.threads} threads per model"


@dataclass
class System:
    """One side: how to replay on it, its process, and its peak memory above the imports in bytes."""

    side: Side
    peak: int = 0

    def replay(self, timed: list[Request]) -> Replayed:
        """Serve timed requests, watching memory."""
        with self.side.peak_pss(every=0.1) as peak:
            done: Replayed = self.side.call("replay", timed)
        self.peak = max(self.peak, peak.bytes - self.side.floor_pss)
        return done


def candidates(cores: int, quick: bool) -> list[Tuned]:
    """Threads, batch sizes and attention."""
    first = ContinuousSettings()
    if quick:
        return [Tuned(first, cores)]
    return [
        Tuned(first, cores),
        Tuned(first, 1),
        Tuned(ContinuousSettings(attention="eager"), cores),
        Tuned(ContinuousSettings(requests=8, batch_tokens=128), cores),
        Tuned(ContinuousSettings(requests=8, batch_tokens=128), 1),
        Tuned(ContinuousSettings(requests=32, batch_tokens=512), cores),
    ]


def run(context: Context) -> Mapping[str, Outcome]:
    """Three shuffles of who is popular; each system in a process of its own, one after the other for each shuffle."""
    count, seeds = (60, (context.seed,)) if context.quick else (600, tuple(context.seed + i for i in range(3)))
    cores = os.cpu_count() or 1
    fleet = sixteen_apps(context.scratch / "fleet", seed=context.seed)
    names, vocab = [app.name for app in fleet.apps], fleet.shape.vocab
    traces = {s: requests(context.data, names, vocab, count=count, seed=s) for s in seeds}
    folders = {app.name: app.path for app in merged(fleet, context.scratch / "merged").apps}
    zoo = context.scratch / "zoo"
    stock(zoo, fleet)

    best, rows = _tune(context, folders, traces[seeds[0]], vocab, cores)

    @contextmanager
    def baseline(resident: int):  # type: ignore[no-untyped-def]
        with Side("work.continuous:ContinuousFleet", threads=best.threads, models=folders, resident=resident,
                  settings=best.settings) as side:  # fmt: skip
            yield System(side)

    def words(seed: int, phase: str) -> list[Request]:
        return renamed(traces[seed], phase, vocab)

    context.progress("the baseline's need")
    with baseline(APPS) as roomy:
        roomy_rate = roomy.replay(at_once(words(seeds[0], "need"))).throughput
        need = roomy.peak
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
            "baseline": stack.enter_context(baseline(resident)),
            "ours": System(stack.enter_context(Side("work.ours:OurModels", threads=cores, zoo=zoo, models=names,
                                                    memory_bytes=memory))),
        }  # fmt: skip
        _warm(systems, words(seeds[0], "warm")[:32])
        for seed in seeds:
            _phase(context, systems, at_once(words(seed, "full queue")), f"full queue, shuffle {seed}",
                   lambda done: done.throughput, rate, reference, compared[THROUGHPUT])  # fmt: skip
            timed = at_rate(words(seed, "arrivals"), LOAD * rate["baseline"][-1])
            _phase(context, systems, timed, f"arrivals, shuffle {seed}",
                   lambda done: done.latency(0.95), p95, reference, compared[P95])  # fmt: skip
        for name, system in systems.items():
            rows.append({"system": f"{name}, {CAP}x", "requests/s": [round(r, 2) for r in rate[name]],
                         "p95 s": [round(p, 3) for p in p95[name]], "peak MB": round(system.peak / 1e6)})  # fmt: skip
            if system.peak > cap:
                raise QuiltworkError(f"{name} took {system.peak} bytes of {cap}", where="memory cap")
    if not context.quick:
        rows.append(_apart(zoo, names, resident, cores, words, seeds[0], rate["baseline"][0]))
    details: dict[str, object] = {
        "requests": count, "shuffles": list(seeds), "cap_bytes": cap, "need_bytes": need, "resident_models": resident,
        "engine_memory_bytes": memory, "peaks": {name: system.peak for name, system in systems.items()},
        "baseline_settings": best.label(), "load": LOAD,
    }  # fmt: skip
    return {
        claim: Outcome(ours=values["ours"], baseline=values["baseline"], answers_equal=compared[claim].equal,
                       details=details | {"answers": compared[claim].summary()}, rows=rows)
        for claim, values in ((P95, p95), (THROUGHPUT, rate))
    }  # fmt: skip


def _tune(
    context: Context, folders: dict[str, Path], trace: list[Request], vocab: int, cores: int
) -> tuple[Tuned, list[dict[str, object]]]:
    """The baseline's best settings for a full queue, all applications in memory."""
    turn = iter(range(1_000_000))
    with Side("work.continuous:ContinuousFleet", threads=cores, models=folders, resident=APPS) as side:
        return sweep(
            context, "continuous batching", candidates(cores, context.quick),
            lambda c: side.call("configure", c.settings, c.threads),
            lambda: side.call("replay", at_once(renamed(trace[:120], f"sweep {next(turn)}", vocab))),
            clock="wall_s", repeats=1,
        )  # fmt: skip


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
    """Replay the same requests on each system and keep a figure of each; compare their answers."""
    replies = {}
    for name, system in systems.items():
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
    cores: int,
    words: Callable[[int, str], list[Request]],
    seed: int,
    rate: float,
) -> dict[str, object]:
    """Our engine, one per application, as many of them in memory as the baseline's models."""
    with Side("work.ours:OurModelsApart", threads=cores, zoo=zoo, models=names, resident=resident,
              kv_bytes=1 << 26) as side:  # fmt: skip
        system = System(side)
        full = median([system.replay(at_once(words(seed, "apart"))).throughput])
        late = system.replay(at_rate(words(seed, "apart arrivals"), LOAD * rate)).latency(0.95)
    return {"system": "our engine, one per app", "requests/s": round(full, 2), "p95 s": round(late, 3),
            "peak MB": round(system.peak / 1e6)}  # fmt: skip
