"""How much of both clusters is in use with loans and elastic scaling, where training's own servers are full without.

Usage is over the trace's 15 days: GPU time allocated by training or needed by inference, of all GPUs of both clusters.
It is compared at the largest number of training servers of which first come first served allocates 95 %. Strictly in
order it does so at no number: while the next gang waits for whole servers, others stay empty (table
``strictly-in-order``). The baseline therefore passes over jobs that do not fit, which fills more of any cluster. The
number is sought from the headline's 172 servers down to what the largest job takes, in steps and then by bisection, on
runs of the baseline alone. Rules and labels are those of the headline (``cluster_trace``), speeds as measured.

Goodput is over the same days and GPUs: work that was done and never lost, in seconds of one V100 worker, of what all
GPUs could do, a T4 being a third of a V100. Burning work that is lost does not raise it, nor do workers that add
nothing. The rows have it also of training's own GPUs, of those and lent ones, and of the whole run (``goodput``): there
it tells how long the last job took, as all arms do the same work.

Beside the claims, on the headline's clusters: what the load changes, other rules, and other traces at the same load.
The rules' parameters were chosen on Philly's jobs outside the 15 days, to which the later ones belong; Muri's jobs are
a selection of Philly's with running times of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from quiltwork.core.bench import Claim, Context, Outcome, at_least
from quiltwork.core.errors import NotFoundError, QuiltworkError

if TYPE_CHECKING:
    from quiltwork.core.servable import Json
    from work.philly import Philly, Run

USAGE, GOODPUT = "cluster.usage_vs_fifo", "cluster.goodput_vs_fifo"
WHERE = "first 15 days, all GPUs of both clusters, training servers of which FIFO fills 95 %"
CLAIMS = (
    Claim(name=USAGE, room="cluster", title=f"{WHERE}: usage vs no loans and no scaling", reach=at_least(1.269),
          ratio="ours/baseline", unit="of all GPUs"),
    Claim(name=GOODPUT, room="cluster", title=f"{WHERE}: goodput vs no loans and no scaling", reach=at_least(1.0),
          ratio="ours/baseline", unit="of all GPUs"),
)  # fmt: skip
FULL = 0.95
LARGEST, STEP = 172, 16
STRICTLY = (4, 16, 40, 96, 150, 172)
"""Training servers on which FIFO is looked at strictly in order."""
LOADS = (150, 172, 185, 200)
ARMS = {"FIFO": "fifo", "FIFO, passing over": "fifo:backfill_depth=none", "SJF": "sjf", "ours": "lyra"}
"""By name, as ``quiltwork cluster simulate --policy`` takes them."""
RULES: Mapping[str, Mapping[str, str]] = {
    "policies": {
        "SRTF": "srtf", "Tiresias-like": "tiresias-like", "Gandiva": "gandiva", "AFS-like": "afs-like",
        "Pollux-like": "pollux-like", "opportunistic": "opportunistic",
        "ours, but the paper's choices": "lyra-paper:elastic=marginal",
    },
    "waiting": {
        "SJF": "sjf", "SJF, ageing": "sjf:ageing=1", "SJF, reserving after an hour per worker": "sjf:starvation_s=3600",
    },
    "reclaiming": {
        "jobs per emptied server": "sjf+loan:base_on=lent,reclaim=emptied",
        "work lost per emptied server": "sjf+loan:base_on=lent,reclaim=work",
        "server fraction": "sjf+loan:base_on=lent,reclaim=server_fraction",
        "fewest jobs": "sjf+loan:base_on=lent,reclaim=count",
        "random": "sjf+loan:base_on=lent,reclaim=random",
    },
}  # fmt: skip
"""By table: others' rules after their papers, and one of ours changed."""


def run(context: Context) -> Mapping[str, Outcome]:
    """The size, both sides there, then loads and other traces."""
    from quiltwork.cluster.study.arms import arm_of
    from work.philly import GPUS, Philly

    if context.data is None or not (context.data / "cluster" / "jobs").is_dir():
        raise NotFoundError("needs the trace", where="cluster/jobs", hint="set QUILTWORK_DATA to the data's folder")
    world = Philly(context.data, True, count=1500 if context.quick else None)
    rows: list[dict[str, Json]] = []

    def arm(name: str, servers: int, table: str, on: Philly = world, **about: Json) -> Run:
        context.progress(f"{table}: {name} on {servers} servers")
        done = on.run(arm_of(RULES.get(table, ARMS)[name]).rules, train=servers)
        rows.append({"table": table, **about, "training servers": servers, "arm": name} | figures(done))
        return done

    def filled(servers: int) -> float:
        return arm("FIFO, passing over", servers, "size").metrics.usage_train

    for servers in STRICTLY[-1:] if context.quick else STRICTLY:
        arm("FIFO", servers, "strictly-in-order")
    least = -(-int(world.trace.gpus.max()) // GPUS)
    size = largest_full(filled, least, 12 if context.quick else LARGEST, STEP)
    sides = {name: arm(name, size, "usage") for name in ARMS}
    if not context.quick:
        for servers in LOADS:
            for name in ARMS:
                arm(name, servers, "load-sweep")
        for table, arms in RULES.items():
            for name in arms:
                arm(name, LARGEST, table)
        for title, other in _others(world).items():
            for name in ARMS:
                arm(name, LARGEST, "other-traces", other, trace=title)
    baseline, ours = sides["FIFO, passing over"], sides["ours"]
    details: dict[str, Json] = {
        "training servers": size, "FIFO fills": baseline.metrics.usage_train, "infer": baseline.infer,
        "usage, of FIFO strictly in order": ours.metrics.usage_all / sides["FIFO"].metrics.usage_all,
        "goodput, of FIFO strictly in order": ours.useful.all / sides["FIFO"].useful.all,
    }  # fmt: skip
    both: dict[str, Callable[[Run], float]] = {USAGE: lambda r: r.metrics.usage_all, GOODPUT: lambda r: r.useful.all}
    return {
        name: Outcome(ours=[of(ours)], baseline=[of(baseline)], details=details, rows=rows) for name, of in both.items()
    }


def largest_full(filled: Callable[[int], float], least: int, largest: int, step: int) -> int:
    """The most servers, from ``largest`` down to ``least``, of which so many are filled that it counts as full.

    What is filled need not fall with every server more: looked at are steps downwards until one is full, and then
    halves of the last step. Raises QuiltworkError where no step is full.
    """
    beyond = largest + 1
    for full in (*range(largest, least, -step), least):
        if filled(full) >= FULL:
            break
        beyond = full
    else:
        raise QuiltworkError(f"no size is {FULL:.0%} full", where=f"{least} to {largest} training servers")
    while beyond - full > 1:
        middle = (full + beyond) // 2
        full, beyond = (middle, beyond) if filled(middle) >= FULL else (full, middle)
    return full


def figures(done: Run) -> dict[str, Json]:
    """An arm's figures, those that a load changes."""
    row = done.row()
    kept = ("queue mean s", "p95", "jct mean s", "jct p95", "max slowdown", "usage train", "usage all")
    more: dict[str, Json] = {
        "goodput of the days": round(done.useful.all, 4), "of training's own": round(done.useful.own, 4),
        "of own and lent": round(done.useful.with_lent, 4), "goodput": row["goodput"], "preempted": row["preempted"],
        "shortfall": row["shortfall"], "cpu s": row["cpu s"],
    }  # fmt: skip
    return {name: row[name] for name in kept} | more


def _others(world: Philly) -> dict[str, Philly]:
    from work.other_traces import muri, philly_after

    found = {"Philly, after the 15 days": philly_after(world.data), "Muri, trace 2": muri(world.data)}
    return {title: replace(world, other=trace) for title, trace in found.items()}
