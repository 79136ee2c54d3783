"""The 15-day trace as the cluster's benchmarks run it: jobs, labels, speeds, inference's need.

Elastic are the 5 % of jobs with most GPU time among those over ten minutes, from the workers they asked for to twice as
many; those whose draw is below 0.21 may use lent servers; nobody checkpoints; running times are known. Speeds are
linear, a T4 being a third of a V100, or those measured by Sia's authors: each elastic job has one of five models'.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from quiltwork.cluster.curves import CAPABILITY, MODELS, read_sia_curves
from quiltwork.cluster.demand import read_demand
from quiltwork.cluster.job import Job
from quiltwork.cluster.job_trace import JobTrace
from quiltwork.cluster.labels import LabelRules, label
from quiltwork.cluster.log import Row
from quiltwork.cluster.policy.rules import Rules, rules_named
from quiltwork.cluster.simulate import Metrics, Settings, jobs_of, metrics, simulate, two_clusters
from quiltwork.cluster.simulate.metrics import Lives, lives
from quiltwork.cluster.traces import read_jobs
from work.useful import useful_work

TRAIN, INFER, GPUS = 172, 202, 8
TYPES = ("V100", "T4")
DAY_S = 86_400.0


class Useful(NamedTuple):
    """Useful work in a run's first days, as a share of what GPUs could do in that time if each ran a job of one worker:
    all of both clusters, training's own, training's own and lent ones while they were lent."""

    all: float
    own: float
    with_lent: float


@dataclass(frozen=True)
class Run:
    """What one arm did, and the processor time that simulating it took."""

    metrics: Metrics
    lives: Lives
    log: Sequence[Row]
    jobs: Sequence[Job] = field(repr=False)
    train: int
    infer: int
    days: float
    cpu_s: float

    @cached_property
    def useful(self) -> Useful:
        """Work of those days that was not lost, of what there was to do it with."""
        start, span = self.lives.submitted[0], min(self.days * DAY_S, self.metrics.seconds)
        work = useful_work(self.log, self.jobs, start + span, TYPES)
        own, slow = self.train * GPUS * span, CAPABILITY[TYPES[1]]
        lent = self.metrics.gpu_days * DAY_S / self.metrics.usage_whitelist - own
        return Useful(work / (own + slow * self.infer * GPUS * span), work / own, work / (own + slow * lent))

    def row(self) -> dict[str, object]:
        """Its figures, for a table."""
        found = self.metrics
        return {
            "queue mean s": round(found.queue_mean_s, 1), "p50": round(found.queue_p50_s, 1),
            "p95": round(found.queue_p95_s, 1), "p99": round(found.queue_p99_s, 1),
            "jct mean s": round(found.jct_mean_s), "jct p50": round(found.jct_p50_s), "jct p95": round(found.jct_p95_s),
            "max slowdown": round(found.slowdown_max, 1), "usage train": round(found.usage_train, 4),
            "usage all": round(found.usage_all, 4), "goodput": round(found.goodput, 4),
            "goodput of the days": round(self.useful.all, 4),
            "preempted": found.preemptions, "lost GPU-h": round(found.lost_worker_s / 3600, 1),
            "loans": found.loans, "shortfall": round(found.shortfall, 7), "cpu s": round(self.cpu_s, 1),
        }  # fmt: skip


@dataclass(frozen=True)
class Philly:
    """The trace, from the data folder. mixing : what is left of a run over two GPU types. believed : running time that
    is thought of each job, the true one where None. count : only its first jobs. other : jobs of another trace, whose
    days are those in which they are submitted."""

    data: Path
    curves: bool
    rules: LabelRules = field(default_factory=LabelRules)
    mixing: float = 1.0
    believed_s: tuple[float, ...] | None = None
    checkpoint_s: float = 600.0
    count: int | None = None
    other: JobTrace | None = None

    @property
    def days(self) -> float:
        return 15.0 if self.other is None else float(self.other.submit_s[-1] / DAY_S)

    @cached_property
    def trace(self) -> JobTrace:
        found = self.other
        if found is None:
            found = read_jobs(self.data / "cluster/jobs/trace15d_50390.csv.gz")
        return found if self.count is None else found[: self.count]

    @cached_property
    def need(self) -> list[float]:
        path = self.data / "cluster/inference/inference_demand_5min_15d.csv.gz"
        needed: list[float] = read_demand(path, "m-small").share.tolist()
        return needed

    @cached_property
    def jobs(self) -> list[Job]:
        measured: Sequence[Mapping[str, Sequence[float]]] | None = None
        if self.curves:
            by_model = read_sia_curves(self.data / "cluster/profiles/sia")
            measured = [by_model[model] for model in MODELS]
        labels = label(self.trace, self.rules)
        return jobs_of(self.trace, labels, CAPABILITY, curves=measured, believed_s=self.believed_s,
                       mixing=self.mixing, checkpoint_s=self.checkpoint_s)  # fmt: skip

    def run(
        self, policy: str | Rules, *, train: int = TRAIN, infer: int = INFER, settings: Settings | None = None,
        **changes: object,
    ) -> Run:  # fmt: skip
        """One arm, to the last job's end."""
        rules = rules_named(policy, **changes) if isinstance(policy, str) else replace(policy, **changes)  # type: ignore[arg-type]
        jobs, need = self.jobs, self.need
        servers = two_clusters(train, infer)
        began = time.process_time()
        log = simulate(servers, jobs, rules, need=need, settings=settings)
        cpu = time.process_time() - began
        return Run(metrics(log, days=self.days), lives(log), log, jobs, train, infer, self.days, cpu)

    def estimated(self) -> Philly:
        """The same with running times that are learned from jobs that have ended."""
        from quiltwork.cluster.estimate.replaying import replay

        told = replay(self.trace)
        # A job of which nothing is known counts as one of the longest.
        believed = np.where(np.isfinite(told.median), told.median, 1e9)
        return replace(self, believed_s=tuple(believed.tolist()))
