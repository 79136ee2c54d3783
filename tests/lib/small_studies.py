"""Small traces and studies: jobs and inference's need as files, as a user has them."""

from __future__ import annotations

import random

from quiltwork.cluster.demand import read_demand
from quiltwork.cluster.study import Fleet, Study
from quiltwork.cluster.traces import read_jobs

HEADER = "job_id,submit_s,num_gpus,duration_s,vc"


def write_jobs(folder, rows=None, *, count=120, seed=3, header=HEADER):
    """A CSV of jobs: the given rows, or some that keep two servers of 8 GPUs busy."""
    path = folder / "jobs.csv"
    if rows is None:
        chance, now, rows = random.Random(seed), 0.0, []
        for i in range(count):
            now += chance.expovariate(1 / 400)
            gpus = chance.choice([1, 1, 1, 2, 4, 8, 12])
            rows.append(f"j{i},{now:.1f},{gpus},{chance.lognormvariate(7, 1.2):.1f},team{i % 3}")
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def write_need(folder, shares=None):
    """A CSV of inference's need every 300 s: a third and three quarters of its servers, two hours each in turn."""
    path = folder / "need.csv"
    shares = [0.34] * 24 + [0.75] * 24 if shares is None else shares
    path.write_text("\n".join(["t_s,small_frac", *(f"{300 * i},{share}" for i, share in enumerate(shares))]) + "\n")
    return path


def small_study(folder, **options):
    """Two training and four inference servers under the jobs of ``write_jobs``."""
    demand = read_demand(write_need(folder), "small")
    return Study(read_jobs(write_jobs(folder)), Fleet(2, 4), demand, **options)
