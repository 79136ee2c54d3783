"""llama.cpp's server against ours, both over HTTP, in fp32, under one memory cap.

It serves the base and its LoRAs from one process, an adapter named by each request, and every other application from a
process of its own; or all of them, LoRAs merged, through its router. Arrangement, slots, threads and waiting are swept.
Needs a ``llama-server``: QUILTWORK_LLAMA_SERVER is its path.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from quiltwork.core.bench import Claim, Context, Outcome, at_least
from quiltwork.core.errors import NotFoundError, QuiltworkError
from work.answers import Comparison
from work.azure import CAP, ENGINE_SHARE, OURS, Azure, apart, azure, check_cap, fitting, need
from work.fleet import BODY_30M
from work.gguf_export import SPECIAL, write_adapter, write_model
from work.reference import Reference
from work.replay import Replayed, Request
from work.settings import ContinuousSettings, LlamaSettings
from work.side import Side
from work.system import System, answers, asked, conditions, in_turn, warm_up
from work.workload import at_once

THROUGHPUT = "serving.llama_throughput"
CLAIMS = (
    Claim(name=THROUGHPUT, room="serving", title="throughput with a full queue; 16 mixed apps, Azure conv trace, fp32, "
          "memory cap 0.6x, both over HTTP, vs llama.cpp server", reach=at_least(1.2), ratio="ours/baseline",
          unit="requests/s", parity=False),
)  # fmt: skip
VARIABLE = "QUILTWORK_LLAMA_SERVER"
AGAINST = "llama.cpp server"
LLAMA = "llama"
SHAPE = BODY_30M
NEED = "work.continuous:ContinuousFleet"


@dataclass(frozen=True)
class Counts:
    """Requests of a phase, of the sweep's, of those one at a time."""

    phase: int
    sweep: int
    single: int


QUICK = Counts(24, 8, 4)
FULL = Counts(200, 32, 24)


def candidates(cores: int, resident: int, quick: bool) -> list[LlamaSettings]:
    """Arrangement, slots, threads, waiting."""
    if quick:
        return [LlamaSettings(4), LlamaSettings(2, resident=resident)]
    return [
        LlamaSettings(4),
        LlamaSettings(8),
        LlamaSettings(16),
        LlamaSettings(8, threads=cores),
        LlamaSettings(8, poll=0),
        LlamaSettings(8, threads=cores, poll=0),
        LlamaSettings(8, flash="off"),
        LlamaSettings(4, resident=resident),
        LlamaSettings(4, threads=cores, poll=0, resident=resident),
    ]


def run(context: Context) -> Mapping[str, Outcome]:
    """Three shuffles of who is popular, both servers in turn; then one request at a time."""
    binary = llama_server(os.environ)
    cores = os.cpu_count() or 1
    counts = QUICK if context.quick else FULL
    seeds = (context.seed,) if context.quick else tuple(context.seed + i for i in range(3))
    work = azure(context, count=counts.phase, seeds=seeds, shape=SHAPE)
    context.progress("the cap: continuous batching with all in memory")
    cap = int(CAP * need(NEED, ContinuousSettings(), work, cores))
    memory = int(ENGINE_SHARE * cap)
    logs = context.scratch / "logs"
    logs.mkdir()
    context.progress("GGUF files")
    models, adapters = export(work, context.scratch)
    rates: dict[str, list[float]] = {LLAMA: [], OURS: []}
    compared = Comparison()
    with ExitStack() as stack:
        reference = stack.enter_context(Reference(work.whole))
        llama = System(
            stack.enter_context(Side("work.http:LlamaServers", threads=1, binary=binary, base=work.fleet.base.name,
                                     models=models, adapters=adapters, logs=logs)),
            AGAINST,
        )  # fmt: skip
        best, sweep = _tune(
            context, llama.side, work, counts, cap, candidates(cores, fitting(work, memory), context.quick)
        )
        llama.settings = best.label()
        ours = System(
            stack.enter_context(Side("work.http:OurServer", threads=cores, zoo=work.zoo, models=work.names,
                                     memory_bytes=memory, compute_threads=cores, logs=logs)),
            f"{OURS}, over HTTP", f"{len(work.names)} apps in memory, {cores} threads",
        )  # fmt: skip
        ours.side.floor_pss += ours.side.call("floor")
        systems = {LLAMA: llama, OURS: ours}
        warm_up(systems, work.words(seeds[0], "warm")[:16])
        for turn, seed in enumerate(seeds):
            timed = at_once(work.words(seed, "full queue"))
            done = {}
            for name in in_turn(list(systems), turn):
                context.progress(f"full queue, shuffle {seed}: {systems[name].name}")
                done[name] = systems[name].full_queue(timed)
                rates[name].append(done[name].throughput)
            theirs = answers(done[LLAMA])
            mine = {name: with_special(tokens, theirs[name]) for name, tokens in answers(done[OURS]).items()}
            compared.add(reference.compare(asked(timed), mine, theirs))
        for system in systems.values():
            check_cap(system, cap)
        rows = [system.row(AGAINST) for system in systems.values()]
        sides = conditions(systems)
        rows += _single(context, work, systems, counts.single, cores)
    if not context.quick:
        with apart(work.zoo, work.names, fitting(work, memory), memory) as alone:
            context.progress(alone.name)
            alone.full_queue(at_once(work.words(seeds[0], "apart")))
            rows.append(alone.row(AGAINST))
    details: dict[str, object] = {
        "requests": counts.phase, "shuffles": list(seeds), "cap_bytes": cap, "engine_memory_bytes": memory,
        "peaks": {name: system.peak for name, system in systems.items()}, "baseline_settings": best.label(),
        "answers": compared.summary(), "sides": sides,
    }  # fmt: skip
    return {
        THROUGHPUT: Outcome(ours=rates[OURS], baseline=rates[LLAMA], answers_equal=compared.equal, details=details,
                            rows=rows + sweep)
    }  # fmt: skip


def llama_server(environment: Mapping[str, str]) -> Path:
    """Where it is. Raises NotFoundError where the variable names no file."""
    path = environment.get(VARIABLE, "")
    if not Path(path).is_file():
        raise NotFoundError(
            "no llama-server to measure against", where=f"{VARIABLE}={path}",
            hint="build the target llama-server of llama.cpp (Release, GGML_NATIVE) and set the variable to its path",
        )  # fmt: skip
    return Path(path).resolve()


def export(work: Azure, folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Every application as a whole model, and the LoRAs as adapters too: application -> file."""
    whole, loras = folder / "gguf", folder / "gguf-lora"
    for made in (whole, loras):
        made.mkdir()
    models = {app: whole / f"{app}.gguf" for app in work.names}
    for app, path in models.items():
        write_model(work.whole[app], path)
    adapters = {app.name: loras / f"{app.name}.gguf" for app in work.fleet.apps if app.kind == "lora"}
    for app, path in adapters.items():
        write_adapter(work.fleet.app(app).path, path, work.fleet.shape.heads)
    return models, adapters


def with_special(visible: list[int], full: list[int]) -> list[int]:
    """Tokens read from text, which lacks special ones, with those of another answer put back in their places."""
    tokens: list[int] = []
    rest = iter(visible)
    for token in full:
        following = token if token < SPECIAL else next(rest, None)
        if following is None:
            break
        tokens.append(following)
    return tokens + list(rest)


def _tune(
    context: Context, side: Side, work: Azure, counts: Counts, cap: int, tried: list[LlamaSettings]
) -> tuple[LlamaSettings, list[dict[str, object]]]:
    """The fastest settings that stay below the cap; the servers run with them then."""
    some = at_once(work.words(next(iter(work.traces)), "sweep", counts.sweep))
    rates: dict[LlamaSettings, float] = {}
    rows: list[dict[str, object]] = []
    for settings in tried:
        context.progress(f"{AGAINST}: {settings.label()}")
        side.call("configure", settings)
        system = System(side)
        rate = system.replay(some).throughput
        if system.peak <= cap:
            rates[settings] = rate
        rows.append({"table": "sweep", "system": AGAINST, "settings": settings.label(), "requests/s": round(rate, 2),
                     "peak MB": round(system.peak / 1e6), "within the cap": system.peak <= cap})  # fmt: skip
    if not rates:
        raise QuiltworkError("no settings stay below the memory cap", where=AGAINST)
    best = max(rates, key=rates.__getitem__)
    side.call("configure", best)
    rows[tried.index(best)]["chosen for"] = "full queue"
    return best, rows


def _single(
    context: Context, work: Azure, systems: Mapping[str, System], count: int, cores: int
) -> list[dict[str, object]]:
    """Requests of the base alone, one after the other: tokens per second of each server."""
    words = work.words(next(iter(work.traces)), "one at a time", count)
    some = [replace(request, app=work.fleet.base.name) for request in words]
    rows: list[dict[str, object]] = []
    for settings in (LlamaSettings(2, threads=cores), LlamaSettings(2, threads=1)):
        context.progress(f"one at a time: {AGAINST}, {settings.label()}")
        systems[LLAMA].side.call("configure", settings)
        rows.append(_alone(systems[LLAMA], some, settings.label()))
    context.progress("one at a time: ours")
    rows.append(_alone(systems[OURS], some, systems[OURS].settings))
    return rows


def _alone(system: System, some: list[Request], settings: str) -> dict[str, object]:
    done: Replayed = system.side.call("unloaded", some)
    tokens = sum(len(reply.tokens) for reply in done.replies.values())
    rate = round(tokens / done.seconds)
    return {"table": "one-at-a-time", "against": AGAINST, "system": system.name, "tokens/s": rate,
            "p50 s": round(done.latency(0.5), 4), "settings": settings}  # fmt: skip
