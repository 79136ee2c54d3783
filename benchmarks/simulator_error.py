"""The simulator held against real runs of agents: worst relative error of p50, p95 and throughput.

Real are agents in processes, paced: real letters, queues and decisions, and batches that take as long as measured
tables say (the 30 M body, one thread; measured first, by themselves). Three agents hold a model twice, one that shares
its lower segment, and one that shares nothing. The simulator gets the same tables, links, requests and policies. Four
constants (what the front and the agents do besides batches) are fitted to bursts of requests on an idle crew under the
default policy; none of the runs that are reported is among them.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING

from quiltwork.core.bench import Claim, Context, Outcome, at_most
from work.fleet import BODY_30M, SMALL_BODY, three_apps
from work.stock import stock

if TYPE_CHECKING:
    from pathlib import Path

    from quiltwork.core.servable import Json
    from quiltwork.serving.profiles.measured import Measured
    from work.paced import Asked, PacedFleet, PacedRun
    from work.twin import Constants, Figures, Observed, Policy, World

LOADS = "serving.simulator_error_loads"
POLICIES = "serving.simulator_error_policies"
CLAIMS = (
    Claim(name=LOADS, room="serving",
          title="1 + worst of |simulated - real| / real over p50, p95, throughput; at 0.4, 0.6 and 0.8 of saturation",
          reach=at_most(1.10), ratio="ours/baseline", unit="x", parity=False),
    Claim(name=POLICIES, room="serving",
          title="1 + worst of |simulated - real| / real over p50, p95, throughput; two policies not calibrated on",
          reach=at_most(1.10), ratio="ours/baseline", unit="x", parity=False),
)  # fmt: skip
SHARES_OF_SATURATION = (0.4, 0.6, 0.8)
HELD_OUT_AT = 0.6
SECONDS, REPEATS = 15.0, 5
BURSTS, BURST_REPEATS = (1, 2, 4, 8), 3
FACTORS = (3.0, 1.7, 1.3, 1.1)
"""Steps of the fit, the coarsest first."""
FLOOD = 100
"""Requests at one moment: as fast as the simulator answers these is saturation."""


def run(context: Context) -> Mapping[str, Outcome]:
    """Table, calibration, then each reported point several times on both sides."""
    import torch

    from quiltwork.serving.agents.serve import BEAT_S
    from quiltwork.serving.agents.settings import AgentSettings
    from work.twin import CHUNK, JITTER_S, LIMITS, LINK, Policy, fit, of_real, poisson, simulated, world_of

    quick = context.quick
    shape = SMALL_BODY if quick else BODY_30M
    fleet = three_apps(context.scratch / "fleet", seed=context.seed, shape=shape)
    zoo = context.scratch / "zoo"
    stock(zoo, fleet)
    models = [app.name for app in fleet.apps]
    context.progress("profile")
    torch.set_num_threads(1)
    measured = profile(zoo, models[0], quick=quick)
    world = world_of(zoo, models, measured)
    repeats = 2 if quick else REPEATS
    seconds = 1.0 if quick else SECONDS

    default, held_out = Policy(), {"kv: owner only": Policy(kv="owner"),
                                   "first come, first served": Policy(first_come_first_served=True)}  # fmt: skip
    crew = open_crew(zoo, world, default, kv_bytes=1 << 24 if quick else 1 << 29)
    try:
        context.progress("calibration")
        observed = calibrate(crew, models, shape.vocab, context.seed, quick=quick)
        constants, residual = fit(observed, partial(mean_latency, world), factors=(2.0, 1.2) if quick else FACTORS)
        saturation = saturated(world, models, constants, shape.vocab, FLOOD // 5 if quick else FLOOD)
        work = {
            share: poisson(models, share * saturation, seconds, shape.vocab, f"reported/{share}/{context.seed}")
            for share in SHARES_OF_SATURATION
        }
        real: dict[float, list[PacedRun]] = {share: [] for share in work}
        for turn in range(repeats):  # in turn, so that what changes on the machine changes for all
            for share, requests in work.items():
                context.progress(f"{share} of saturation, {turn + 1} of {repeats}")
                real[share].append(crew.replay(requests))
    finally:
        crew.close()

    def both(name: str, policy: Policy, share: float, runs: Sequence[PacedRun]) -> dict[str, Json]:
        ours = simulated(world, work[share], policy, constants, runs=repeats, seed=f"late/{context.seed}")
        return row(name, share, ours, [of_real(run) for run in runs], max(run.cpu_s / run.seconds for run in runs))

    rows = [both("default", default, share, real[share]) for share in work]

    for name, policy in held_out.items():
        crew = open_crew(zoo, world, policy, kv_bytes=1 << 24 if quick else 1 << 29)
        try:
            warm(crew, models, shape.vocab)
            runs = []
            for turn in range(repeats):
                context.progress(f"{name}, {turn + 1} of {repeats}")
                runs.append(crew.replay(work[HELD_OUT_AT]))
        finally:
            crew.close()
        rows.append(both(name, policy, HELD_OUT_AT, runs))

    details: dict[str, Json] = {
        "constants_s": {**asdict(constants)},
        "constants_from": "bursts of requests on an idle crew, default policy; see calibration",
        "calibration": [{"requests": len(o.requests), "models": sorted({r.model for r in o.requests}),
                         "real_mean_s": o.mean_s, "simulated_mean_s": mean_latency(world, o.requests, constants)}
                        for o in observed],
        "calibration_residual": residual,
        "saturation_requests_per_s": saturation,
        "requests": {str(share): len(requests) for share, requests in work.items()},
        "given": {"beat_s": BEAT_S, "link_latency_s": LINK.latency_s, "link_bytes_per_s": LINK.bytes_per_s,
                  "horizon": AgentSettings().horizon, "late_s": JITTER_S, "prefill_chunk": CHUNK, **asdict(LIMITS)},
        "profile": dict(measured.conditions),
    }  # fmt: skip
    split = {LOADS: rows[: len(work)], POLICIES: rows[len(work) :]}
    return {
        name: Outcome(ours=[1.0 + max(float(str(r["worst error"])) for r in part)], baseline=[1.0], rows=part,
                      details=details)
        for name, part in split.items()
    }  # fmt: skip


def profile(zoo: Path, model: str, *, quick: bool) -> Measured:
    """Block times of the body, one thread; all models have its shapes."""
    import time

    import torch

    from quiltwork.core.names import ModelRef
    from quiltwork.layers.protocol import Placement
    from quiltwork.serving.profiles.measure import Sizes, measure
    from quiltwork.serving.profiles.measured import Measured
    from quiltwork.zoo import Zoo

    rows = (1, 2, 4, 8, 16, 32, 64, 96)
    sizes = Sizes(rows=rows, context=64, repeats=3) if quick else Sizes(rows=rows, context=128, repeats=15)
    with Zoo(zoo) as opened:
        chain = opened.chain(ModelRef(model))
        blocks = measure(chain, opened.read, Placement(torch.device("cpu"), torch.float32), clock=time.perf_counter,
                         sizes=sizes)  # fmt: skip
    return Measured(blocks, {"threads": torch.get_num_threads(), "repeats": sizes.repeats, "rows": list(rows)})


def open_crew(zoo: Path, world: World, policy: Policy, *, kv_bytes: int) -> PacedFleet:
    """Agents in processes that hold what the world says."""
    from work.paced import PacedFleet
    from work.twin import AGENTS, CHUNK

    return PacedFleet(zoo, world.holders, world.profiles, policy.live(), agents=len(AGENTS), kv_bytes=kv_bytes,
                      prefill_chunk=CHUNK)  # fmt: skip


def warm(crew: PacedFleet, models: Sequence[str], vocab: int) -> None:
    """What happens once in a process happens before anything is counted."""
    from work.twin import bursts

    for burst in bursts(models, (2,), vocab, "warm"):
        crew.replay(burst)


def calibrate(crew: PacedFleet, models: Sequence[str], vocab: int, seed: int, *, quick: bool) -> list[Observed]:
    """Bursts on an idle crew, each ended before the next begins."""
    from work.twin import Observed, bursts

    warm(crew, models, vocab)
    sizes, repeats = (BURSTS[:2], 1) if quick else (BURSTS, BURST_REPEATS)
    work = bursts(models, sizes, vocab, f"calibration/{seed}", answer=6 if quick else 20)
    seen: list[list[float]] = [[] for _ in work]
    for _ in range(repeats):
        for means, burst in zip(seen, work, strict=True):
            means.append(statistics.fmean(one.latency for one in crew.replay(burst).answered))
    return [Observed(tuple(burst), statistics.median(means)) for burst, means in zip(work, seen, strict=True)]


def mean_latency(world: World, requests: Sequence[Asked], constants: Constants) -> float:
    """Of simulated requests under the default policy."""
    from work.twin import Policy

    return statistics.fmean(f.latency for f in world.simulate(requests, Policy(), constants).finished)


def saturated(world: World, models: Sequence[str], constants: Constants, vocab: int, count: int) -> float:
    """Requests per second that the simulator answers where they all come at once."""
    from work.twin import Policy, poisson

    flood = [replace(asked, at=0.0) for asked in poisson(models, 1.0, count, vocab, "saturation")]
    return world.simulate(flood, Policy(), constants).throughput


def row(policy: str, share: float, ours: Sequence[Figures], real: Sequence[Figures], cores: float) -> dict[str, Json]:
    """Both sides beside each other, medians with their spread over runs; ``cores`` that the real runs kept busy."""
    from work.twin import median

    errors = median(ours).errors(median(real))
    found: dict[str, Json] = {"policy": policy, "of saturation": share}
    for name, error in errors.items():
        for side, figures in (("sim", ours), ("real", real)):
            values = [getattr(f, name) for f in figures]
            found[f"{name} {side}"] = f"{statistics.median(values):.4g} [{min(values):.4g}-{max(values):.4g}]"
        found[f"{name} error"] = round(error, 4)
    found["worst error"] = round(max(errors.values()), 4)
    found["real cores"] = round(cores, 2)
    return found
