"""The paper's cluster, simulated by the serving policies: per-model provisioning, adapters on shared bases, blocks.

Device times are measured operator times; attention and the vocabulary projection are modelled (``serving/profiles``).
Every arm gets the same policies and the best of the same small sweep of its settings: who runs the cluster knows who is
popular, so each shuffle is tuned for by itself, on other requests than those that are reported.

Utilisation is ``Outcome.efficiency``: the share of the devices' busy time that was needed. At equal offered work and
equal devices the *busy* share falls where batches are better filled, so that it could not show a gain; it stands in the
rows, with the product of both and the devices used. Rows of the part ``alone`` are what no queueing at all would leave:
every request by itself on a device. Those of the part ``fewer devices`` show what the time that sharing saves is worth
where it is not spent on shorter waits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from quiltwork.core.bench import Claim, Context, Outcome, at_least, at_most
from quiltwork.core.errors import QuiltworkError

if TYPE_CHECKING:
    from quiltwork.serving.simulate import Outcome as Simulated
    from quiltwork.serving.simulate import Settings
    from quiltwork.serving.simulate.arms import Arm
    from work.cluster import Bed

P95 = "serving.cluster_p95"
UTILISATION = "serving.cluster_utilisation"
WORK = (
    "simulated 12 A100, 20 apps on Llama-2-7B and internlm-20B, 0.8x of per-model saturation, vs per-model provisioning"
)
CLAIMS = (
    Claim(name=P95, room="serving", title=f"p95 latency; {WORK}", reach=at_most(0.665), ratio="ours/baseline",
          unit="s"),
    Claim(name=UTILISATION, room="serving", title=f"needed share of the devices' busy time; {WORK}",
          reach=at_least(1.201), ratio="ours/baseline", unit="of busy time"),
)  # fmt: skip
LOAD = 0.8
HOPS_US = (20, 50, 100, 200, 500)


def run(context: Context) -> Mapping[str, Outcome]:
    """Tune each arm, find where per-model provisioning saturates, compare below it; then sensitivity and scale."""
    from quiltwork.serving.simulate.arms import Arm
    from quiltwork.serving.simulate.planning import saturation
    from work.cluster import bed

    quick = context.quick
    world = bed(context, 120 if quick else 1600)
    seeds = [context.seed + i for i in range(1 if quick else 3)]
    rates = (4.0, 8.0) if quick else (7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 13.0, 14.0, 16.0, 18.0, 20.0)
    rows: list[dict[str, object]] = []
    settings = {(arm, seed): _tuned(context, world, arm, 10.0, seed, rows) for seed in seeds for arm in Arm}

    knees: dict[Arm, list[float]] = {arm: [] for arm in Arm}
    for arm in Arm:
        for seed in seeds if arm is Arm.MODELS else seeds[:1]:
            context.progress(f"saturation of {arm}, shuffle {seed}")
            knee, swept = saturation(rates, lambda r, a=arm, s=seed: world.run(a, r, s, settings[a, s]))  # type: ignore[misc]
            knees[arm].append(knee)
            rows += [{"part": "saturation", "arm": str(arm), "shuffle": seed} | _rounded(row) for row in swept]
    if not all(knees[Arm.MODELS]):
        if not quick:
            raise QuiltworkError("per-model provisioning keeps up with no rate of the sweep", where="saturation")
        knees[Arm.MODELS] = [rates[0]] * len(seeds)

    p95: dict[Arm, list[float]] = {arm: [] for arm in Arm}
    used: dict[Arm, list[float]] = {arm: [] for arm in Arm}
    for seed, knee in zip(seeds, knees[Arm.MODELS], strict=True):
        tokens = set()
        for arm in Arm:
            context.progress(f"{arm} at {LOAD} x {knee}, shuffle {seed}")
            found, _ = world.run(arm, LOAD * knee, seed, settings[arm, seed])
            p95[arm].append(found.latency(0.95))
            used[arm].append(found.efficiency)
            tokens.add((found.tokens, len(found.refused)))
            rows.append({"part": "compared", "arm": str(arm), "shuffle": seed, "rate": LOAD * knee} | _figures(found))
            rows.append({"part": "alone", "arm": str(arm), "shuffle": seed,
                         "p95": round(world.alone(arm, seed, settings[arm, seed], 0.95), 3)})  # fmt: skip
        if len(tokens) != 1:
            raise QuiltworkError("the arms did not generate the same tokens", where=f"shuffle {seed}")
    rate = LOAD * knees[Arm.MODELS][0]
    if not quick:
        context.progress("fewer devices; models without swapping")
        found, _ = world.run(Arm.BLOCKS, rate, seeds[0], settings[Arm.BLOCKS, seeds[0]], servers=3)
        rows.append({"part": "fewer devices", "arm": "blocks", "rate": rate} | _figures(found))
        found, _ = world.run(Arm.MODELS, rate, seeds[0], replace(settings[Arm.MODELS, seeds[0]], swap=False))
        rows.append({"part": "sensitivity", "arm": "models, no swapping"} | _figures(found))
    for name, changed in _ablation(settings[Arm.BLOCKS, seeds[0]], quick):
        context.progress(f"blocks, {name}")
        rows.append({"part": "sensitivity", "arm": f"blocks, {name}"}
                    | _figures(world.run(Arm.BLOCKS, rate, seeds[0], changed)[0]))  # fmt: skip
    if not quick:
        best = {arm: settings[arm, seeds[0]] for arm in Arm}
        rows += _scale(context, world, rate, best, seeds[0])
    details: dict[str, object] = {
        "requests": len(world.trace), "shuffles": seeds, "load": LOAD,
        "saturation": {str(arm): found for arm, found in knees.items()},
        "settings": {f"{arm}, shuffle {seed}": _named(s) for (arm, seed), s in settings.items()},
        "modelled": "attention: bytes or arithmetic by data sheet; head: bytes by data sheet",
        "ratio_to_adapters": [b / a for b, a in zip(p95[Arm.BLOCKS], p95[Arm.ADAPTERS], strict=True)],
    }  # fmt: skip
    return {
        claim: Outcome(ours=values[Arm.BLOCKS], baseline=values[Arm.MODELS], answers_equal=None, details=details,
                       rows=rows)
        for claim, values in ((P95, p95), (UTILISATION, used))
    }  # fmt: skip


def _tuned(context: Context, world: Bed, arm: Arm, rate: float, seed: int, rows: list[dict[str, object]]) -> Settings:
    """The settings of an arm with the lowest p95 for a shuffle, on requests that are not reported."""
    from quiltwork.serving.policy.queueing import QueueLimits

    base = replace(world.world.settings, limits=QueueLimits(rows=512, sequences=256), prefill_chunk=256)
    placings = (
        {"provisioning": "settled", "power": 1.0, "replicate": False, "kv": "owner"},
        {"provisioning": "settled", "power": 1.0, "replicate": False, "kv": "best"},
        {"provisioning": "settled", "power": 3.0, "replicate": False, "kv": "owner"},
        {"provisioning": "settled", "power": 3.0, "replicate": False, "kv": "best"},
        {"provisioning": "chains", "fill": 0.2, "kv": "owner"},
        {"provisioning": "segments", "fill": 0.5, "kv": "owner"},
    )
    candidates = [replace(base, admission="steps", slack=0.3, **placing) for placing in placings]  # type: ignore[arg-type]
    measured: list[float] = []
    for candidate in candidates[:2] if context.quick else candidates:
        context.progress(f"settings of {arm}: {_named(candidate)}")
        found, _ = world.run(arm, rate, seed, candidate, tuning=True)
        measured.append(found.latency(0.95))
        rows.append(
            {"part": "tuning", "arm": str(arm), "shuffle": seed, **_named(candidate), "p95": round(measured[-1], 3)}
        )
    return candidates[measured.index(min(measured))]


def _ablation(settings: Settings, quick: bool) -> list[tuple[str, Settings]]:
    """Ours with one thing changed: dearer and cheaper hops, what is modelled, each feature off."""
    changed = [(f"hop {us} us", replace(settings, hop_s=us * 1e-6)) for us in (HOPS_US[:1] if quick else HOPS_US)]
    if quick:
        return changed
    changed += [(f"adapters cost {share:.0%}", replace(settings, attached_share=share)) for share in (0.0, 0.25, 0.5)]
    changed += [(f"kv: {kv}", replace(settings, kv=kv)) for kv in ("owner", "best", "move") if kv != settings.kv]
    changed += [
        ("admitted by the moment", replace(settings, admission="moment")),
        ("no dispatch by cost", replace(settings, by_cost=False)),
        ("no priorities", replace(settings, priorities=False)),
        ("prompts in whole chunks", replace(settings, slack=float("inf"))),
        ("no swapping", replace(settings, swap=False)),
        ("placed chain by chain", replace(settings, provisioning="chains", fill=0.2)),
        ("placed without locality", replace(settings, provisioning="segments", locality=False)),
    ]
    return changed


def _scale(
    context: Context, paper: Bed, rate: float, settings: Mapping[Arm, Settings], seed: int
) -> list[dict[str, object]]:
    """More devices at a rate that grows with them, and more tenants on the paper's cluster."""
    from quiltwork.serving.simulate.arms import Arm
    from work.cluster import bed

    rows: list[dict[str, object]] = []
    for times in (2, 4, 8):
        for arm in (Arm.MODELS, Arm.BLOCKS):
            context.progress(f"{12 * times} devices: {arm}")
            found, _ = paper.run(arm, rate * times, seed, settings[arm], servers=4 * times)
            rows.append({"part": "devices", "arm": str(arm), "rate": rate * times} | _figures(found))
    for tenants in (20, 100, 500, 4000):
        many = bed(context, 600, tenants=tenants)
        for arm in (Arm.MODELS, Arm.BLOCKS):
            context.progress(f"{tenants} tenants: {arm}")
            found, _ = many.run(arm, rate / 2, seed, settings[arm])
            rows.append({"part": "tenants", "arm": str(arm), "tenants": tenants, "rate": rate / 2} | _figures(found))
    return rows


def _figures(found: Simulated) -> dict[str, object]:
    return {
        "p50": round(found.latency(0.5), 3), "p95": round(found.latency(0.95), 3), "p99": round(found.latency(0.99), 3),
        "ttft p95": round(found.ttft(0.95), 3), "requests/s": round(found.throughput, 3),
        "efficiency": round(found.efficiency, 4), "busy": round(found.busy_share, 4),
        "needed of provisioned": round(found.useful_share, 4), "devices used": found.devices_used,
        "weights GB": round(found.peak_weight_bytes / 1e9), "KV GB": round(found.peak_kv_bytes / 1e9),
        "moved GB": round(found.moved_bytes / 1e9), "hops/token": round(found.hops_per_token, 4),
        "loads": found.loads, "preempted": found.preemptions, "refused": len(found.refused),
    }  # fmt: skip


def _named(settings: Settings) -> dict[str, object]:
    return {"provisioning": settings.provisioning, "power": settings.power, "kv": settings.kv}


def _rounded(row: Mapping[str, object]) -> dict[str, object]:
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in row.items()}
