"""The Philly trace and its labels, read plainly: what the simulator's tests run."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Mapping
from dataclasses import dataclass, field

CAPABILITY = {"V100": 1.0, "T4": 1 / 3}


@dataclass(frozen=True)
class Traced:
    id: str
    submit_s: float
    gpus: int
    duration_s: float
    team: str = ""
    draws: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Labels:
    fungible: list[bool]
    hetero: list[bool]
    checkpointed: list[bool]
    w_min: list[int]
    w_max: list[int]
    model: list[int]


def read_philly(data_dir, count=None):
    """The first ``count`` jobs of the 15-day trace."""
    jobs = []
    with gzip.open(data_dir / "cluster/jobs/trace15d_50390.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            draws = {name[2:]: float(value) for name, value in row.items() if name.startswith("u_")}
            jobs.append(
                Traced(
                    row["job_id"],
                    float(row["submit_s"]),
                    int(row["num_gpus"]),
                    float(row["duration_s"]),
                    row["vc"],
                    draws,
                )
            )
            if len(jobs) == count:
                break
    return jobs


def read_need(data_dir, column="m-small_frac"):
    """The share of its servers that inference needs, every 300 s."""
    with gzip.open(data_dir / "cluster/inference/inference_demand_5min_15d.csv.gz", "rt") as file:
        return [float(row[column]) for row in csv.DictReader(file)]


def label(jobs, *, fungible=0.21, elastic=0.05, checkpointed=0.0, stretch=2):
    """Elastic are those with most GPU time among the jobs over ten minutes, up to twice the workers asked for."""
    long = sorted((j for j in jobs if j.duration_s > 600), key=lambda j: -j.gpus * j.duration_s)
    grows = {j.id for j in long[: round(elastic * len(jobs))]}
    return Labels(
        [j.draws["fungible"] < fungible for j in jobs],
        [True] * len(jobs),
        [j.draws["ckpt"] < checkpointed for j in jobs],
        [j.gpus for j in jobs],
        [j.gpus * stretch if j.id in grows else j.gpus for j in jobs],
        [int(j.id) % 5 if j.id in grows else -1 for j in jobs],
    )
