"""Traces beside the 15 days: Philly's jobs before and after those, and Muri's second, each at the same load.

Times of submission are stretched until the jobs offer as many GPUs' work as the 15 days do, so that they mean the same
for a cluster of the same size; running times and GPUs are the trace's.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np

from quiltwork.cluster.job_trace import JobTrace
from quiltwork.cluster.traces import read_jobs

OFFERED = 1364.0
"""GPUs that would be busy on average if no job of the 15 days waited."""
BEGAN = datetime(2017, 9, 4, 10, 30, 41)
"""When Philly's first job was submitted."""
FIRST, COUNT = datetime(2017, 10, 2), 50_390
"""The 15 days' jobs: so many from here on."""


def philly_before(data: Path) -> JobTrace:
    """Those that were submitted before the 15 days: whoever sets a policy's parameters looks at these."""
    whole, first = _philly(data)
    return at_load(whole[:first])


def philly_after(data: Path) -> JobTrace:
    """Those that were submitted after them."""
    whole, first = _philly(data)
    return at_load(whole[first + COUNT :])


def muri(data: Path) -> JobTrace:
    """Muri's trace 2, a selection of Philly's jobs with other running times; its times are milliseconds."""
    with (data / "cluster/peer_workloads/muri_trace2.csv").open(newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: float(row["submit_time"]))
    found = JobTrace(
        np.array([row["job_id"] for row in rows]),
        np.array([float(row["submit_time"]) / 1e3 for row in rows]),
        np.array([int(row["num_gpu"]) for row in rows]),
        np.array([max(float(row["duration"]) / 1e3, 1.0) for row in rows]),
        ("",),
        np.zeros(len(rows), dtype=np.int32),
        {},
    )
    return at_load(found)


def at_load(trace: JobTrace, offered: float = OFFERED) -> JobTrace:
    """The same jobs, submitted so fast that they offer so many GPUs' work; the first at 0."""
    submit_s = trace.submit_s - trace.submit_s[0]
    work = float((trace.gpus * trace.duration_s).sum())
    return replace(trace, submit_s=submit_s * (work / offered / submit_s[-1]))


def _philly(data: Path) -> tuple[JobTrace, int]:
    """All jobs, and the place of the first of the 15 days."""
    whole = read_jobs(data / "cluster/jobs/philly_jobs_82247.csv.gz")
    return whole, int(np.searchsorted(whole.submit_s, (FIRST - BEGAN).total_seconds()))
