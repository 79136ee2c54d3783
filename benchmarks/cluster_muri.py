"""Our simulator held against Muri's public one: the same workload, cluster and policy should give the same times.

Both schedule by shortest remaining time and preempt. Work is Muri's own (trace 3: 992 jobs; 8 servers of 8 GPUs), as is
what an iteration takes (``work.muri``); its overhead at each start is set to 0, ours at a restart is 0, and what a
preempted job has done is kept. The figure is the mean job completion time: the worse of ratio and inverse, so that
being faster counts as much against us as being slower. Muri's code is named by the variable QUILTWORK_MURI.

One thing is not the same: at each event Muri places all jobs anew, as if moving cost nothing; ours stay where they are
until they are preempted. Where many long jobs of one GPU run beside jobs of whole servers (trace 1, in the rows), those
keep servers that Muri clears, and the means differ.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from quiltwork.core.bench import Claim, Context, Outcome, at_most, read
from quiltwork.core.errors import NotFoundError, QuiltworkError

if TYPE_CHECKING:
    from quiltwork.core.servable import Json

JCT = "cluster.muri_srtf_jct"
CLAIMS = (
    Claim(name=JCT, room="cluster",
          title="mean completion time by shortest remaining time on Muri's trace 3, vs Muri's simulator: the worse of "
                "ratio and inverse",
          reach=at_most(1.01), ratio="ours/baseline", unit="x"),
)  # fmt: skip
REPORTED, BESIDE = "muri_trace3", ("muri_trace1",)
RECORDS = Path(__file__).parent / "records"


def run(context: Context) -> Mapping[str, Outcome]:
    """Both simulators on the same jobs; the rows tell of another trace as well."""
    from work.muri import VARIABLE, completion_times, identity, simulator

    try:
        folder = simulator(os.environ)
    except NotFoundError as missing:
        raise NotFoundError(f"{missing.what}; {last(RECORDS)}", where=missing.where, hint=missing.hint) from missing
    if context.data is None:
        raise NotFoundError("Muri's workload is not here", where="QUILTWORK_DATA")
    rows: list[dict[str, Json]] = []
    ratios: dict[str, float] = {}
    for name in (REPORTED,) if context.quick else (REPORTED, *BESIDE):
        trace = context.data / "cluster" / "peer_workloads" / f"{name}.csv"
        context.progress(f"{name}: {VARIABLE}")
        theirs, seconds = completion_times(folder, trace, context.scratch, os.environ)
        context.progress(f"{name}: ours")
        ours, own_seconds = simulated(context, trace)
        if ours.keys() != theirs.keys():
            raise QuiltworkError("the simulators did not end the same jobs", where=name)
        ratios[name] = statistics.fmean(ours.values()) / statistics.fmean(theirs.values())
        same = sum(abs(ours[job] / theirs[job] - 1) < 1e-3 for job in ours)
        for system, times, took in (("Muri's simulator", theirs, seconds), ("ours", ours, own_seconds)):
            rows.append({"trace": name, "system": system, **figures(list(times.values())), "wall s": round(took, 3),
                         "jobs the same to 0.1 %": same})  # fmt: skip
    ratio = ratios[REPORTED]
    details: dict[str, Json] = {"ratios": dict(ratios), "peer": identity(folder)}
    return {JCT: Outcome(ours=[max(ratio, 1 / ratio)], baseline=[1.0], rows=rows, details=details)}


def simulated(context: Context, trace: Path) -> tuple[dict[str, float], float]:
    """Seconds from submission to the end of each job by our simulator, and seconds it took."""
    from quiltwork.cluster.policy.rules import rules_named
    from quiltwork.cluster.running import Delays
    from quiltwork.cluster.simulate import Settings, simulate, two_clusters
    from quiltwork.cluster.simulate.metrics import lives
    from work.muri import GPU_TYPE, GPUS, NODES, jobs

    work = jobs(trace)
    settings = Settings(gpu_types=(GPU_TYPE,), delays=Delays(restart_s=0.0, keep_on_stop=True))
    servers = two_clusters(NODES, 0, gpus=GPUS, types=(GPU_TYPE, GPU_TYPE))
    began = context.clock()
    log = simulate(servers, work, rules_named("srtf"), settings=settings)
    seconds = context.clock() - began
    lived = lives(log)
    return dict(zip(lived.ids, lived.jcts, strict=True)), seconds


def figures(times: Sequence[float]) -> dict[str, Json]:
    cuts = statistics.quantiles(times, n=100, method="inclusive")
    return {"jobs": len(times), "mean JCT s": round(statistics.fmean(times), 1), "p50": round(cuts[49], 1),
            "p99": round(cuts[98], 1)}  # fmt: skip


def last(records: Path) -> str:
    """What the last record says, in a clause."""
    path = records / f"{JCT}.json"
    if not path.exists():
        return "it was never measured"
    record = read(path)
    return f"last measured {record.started[:10]}: {record.outcome.ours[0]:.4f}x"
