"""The simulator held against a live cluster: the mean over jobs of |simulated - live| / live completion time.

Live is everything: controller, store, link, supervisors of 16 servers with two slots each, a keeper for every worker,
checkpoints; elastic jobs and gangs of trainables by the elastic trainer, and commands. Inference's need is a script, so
that six of the servers change hands all the time: jobs grow, shrink and are stopped. Steps are paced: a little
arithmetic, and a wait for the rest of the step's time, so that two cores are enough for all of it; the processor time
of all processes stands in the details.

Step times and what starting, changing and leaving cost are read off another run, of other jobs on the same cluster,
before; the jobs that are reported run once, since they take over ten minutes.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from quiltwork.core.bench import Claim, Context, Outcome, at_most

if TYPE_CHECKING:
    from collections.abc import Sequence

    from quiltwork.cluster.log import Row
    from quiltwork.core.servable import Json
    from work.live_run import LiveRun
    from work.paced_jobs import PacedJob

ERROR = "cluster.simulator_error"
CLAIMS = (
    Claim(name=ERROR, room="cluster",
          title="1 + mean over jobs of |simulated - live| / live completion time; 48 paced jobs, 16 emulated servers",
          reach=at_most(1.05), ratio="ours/baseline", unit="x", parity=False),
)  # fmt: skip
TRAIN, INFER, SLOTS = 10, 6, 2
JOBS, CALIBRATION_JOBS = 48, 24
REPORTED_S, CALIBRATION_S = (10.0, 40.0, 240.0), (10.0, 40.0, 140.0)
"""Between arrivals on average, and the shortest and longest job."""
TICKS, LIMIT_S = 1000, 1800.0
SHARE_EVERY_S, LOANS_EVERY_S = 15.0, 10.0
DECLARED_S = 1e9
"""What jobs say of their steps counts no more often: both sides go by the running times that were declared, since a
simulated job says nothing."""


def run(context: Context) -> Mapping[str, Outcome]:
    """Calibrate, run the jobs that are reported, simulate them."""
    from quiltwork.cluster.live.settings import Settings
    from quiltwork.cluster.policy.rules import rules_named
    from quiltwork.cluster.running import Delays
    from work.live_costs import costs_of, simulated
    from work.live_run import run_live
    from work.paced_jobs import GPU, need_of, paced_jobs, servers_of

    quick, seed = context.quick, context.seed
    servers = servers_of(2, 1, SLOTS) if quick else servers_of(TRAIN, INFER, SLOTS)
    rules, needs = rules_named("lyra", min_lease_s=0.0), need_of(TICKS)

    def live(name: str, jobs: list[PacedJob], delays: Delays) -> LiveRun:
        settings = Settings(rules=rules, gpu_types=(GPU,), capability={GPU: 1.0}, delays=delays, forecast="persistent",
                            loans_every_s=LOANS_EVERY_S, share_every_s=SHARE_EVERY_S,
                            progress_every_s=DECLARED_S)  # fmt: skip
        return run_live(context.scratch / name, servers, jobs, needs, settings, limit_s=LIMIT_S,
                        say=lambda said: context.progress(f"{name}: {said}"))  # fmt: skip

    others = paced_jobs(*((4, f"calibration/{seed}", 1.0, 4.0, 8.0) if quick else
                          (CALIBRATION_JOBS, f"calibration/{seed}", *CALIBRATION_S)))  # fmt: skip
    calibration = live("calibration", others, Delays(restart_s=5.0, pause_s=0.5, keep_on_stop=True))
    costs = costs_of(calibration, others)
    jobs = paced_jobs(*((5, f"reported/{seed}", 1.0, 4.0, 8.0) if quick else (JOBS, f"reported/{seed}", *REPORTED_S)))
    real = live("reported", jobs, costs.delays)
    found = simulated(servers, jobs, needs, rules, costs, share_every_s=SHARE_EVERY_S, loans_every_s=LOANS_EVERY_S)
    rows = _rows(jobs, real, found)
    error = statistics.fmean(float(str(row["error"])) for row in rows)
    details: dict[str, Json] = {
        "calibrated on": f"{len(others)} other jobs",
        "costs": asdict(costs) | {"step_s": {str(n): s for n, s in costs.step_s.items()}},
        "live": _happened(real.rows), "simulated": _happened(found), "calibration": _happened(calibration.rows),
        "seconds": {"calibration": calibration.seconds, "reported": real.seconds},
        "cores busy": {"calibration": calibration.cores, "reported": real.cores},
        "median error": statistics.median(float(str(row["error"])) for row in rows),
        "mean completion": {"live": statistics.fmean(float(str(row["live s"])) for row in rows),
                            "simulated": statistics.fmean(float(str(row["simulated s"])) for row in rows)},
        "reported runs": "one: it takes over ten minutes",
    }  # fmt: skip
    return {ERROR: Outcome(ours=[1.0 + error], baseline=[1.0], rows=rows, details=details)}


def _rows(jobs: Sequence[PacedJob], real: LiveRun, found: Sequence[Row]) -> list[dict[str, Json]]:
    """Both sides of every job."""
    from work.live_costs import jct_of, queue_of

    id_of = {name: job for job, name in real.names.items()}
    took, waited, waited_there = jct_of(found), queue_of(found), queue_of(real.rows)
    rows: list[dict[str, Json]] = []
    for job in jobs:
        live_s, simulated_s = real.jct_s[id_of[job.name]], took[job.name]
        rows.append({
            "job": job.name, "kind": "trainable" if job.trainable else "command",
            "workers": f"{job.w_min}-{job.w_max}", "at s": round(job.at, 1),
            "steps s": round(job.steps * job.step_s, 1),
            "live queue s": round(waited_there[id_of[job.name]], 2), "simulated queue s": round(waited[job.name], 2),
            "live s": round(live_s, 2), "simulated s": round(simulated_s, 2),
            "error": round(abs(simulated_s - live_s) / live_s, 4),
        })  # fmt: skip
    return rows


def _happened(rows: Sequence[Row]) -> dict[str, Json]:
    """How often what was decided."""
    counted = Counter(str(row.action) for row in rows)
    return {name: counted[name] for name in ("start", "scale_out", "scale_in", "preempt", "loan", "reclaim", "return")}
