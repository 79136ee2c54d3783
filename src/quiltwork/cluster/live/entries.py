"""What the controller keeps of each job and each worker, beside what is decided on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from quiltwork.cluster.curves import CAPABILITY
from quiltwork.cluster.job import Job
from quiltwork.cluster.live.backend import WorkerOrder
from quiltwork.cluster.spec import Checkpoint, JobSpec
from quiltwork.cluster.speed import linear
from quiltwork.core.servable import Json

CHECKPOINT_S = 600.0
"""Between checkpoints of a trainable that says nothing of them."""


class JobState(StrEnum):
    """``stopping`` : it will not run again, and some of its workers are not gone yet."""

    QUEUED = "queued"
    RUNNING = "running"
    STOPPING = "stopping"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED})


@dataclass
class Entry:
    """A job that was submitted. ``outcome`` : what it will be once its workers are gone."""

    id: str
    text: str
    spec: JobSpec
    submit_s: float
    state: JobState = JobState.QUEUED
    outcome: JobState | None = None
    started_s: float | None = None
    ended_s: float | None = None
    retries: int = 0
    exit_code: int | None = None
    error: str = ""
    runs: int = 0
    """How often it was started: workers of different runs have nothing to do with each other."""
    finished: bool = False
    """Whether its present run said that all is done."""
    over: dict[str, int] = field(default_factory=dict)
    """By server, workers of its present run that have done their part and ended."""
    ordered: int = 0
    """Workers that were ever ordered for it: no two have one name."""
    metrics: dict[str, float] = field(default_factory=dict)
    steps: tuple[int, int | None] | None = None
    """Done and in all, where it says so."""

    @property
    def elastic(self) -> bool:
        """Whether its workers may come and go while it runs."""
        return self.spec.trainable is not None

    def document(self) -> dict[str, Json]:
        """What is shown of it."""
        return {
            "id": self.id,
            "name": self.spec.name,
            "team": self.spec.team,
            "state": str(self.state),
            "workers": {"min": self.spec.w_min, "max": self.spec.w_max},
            "runs": self.runs,
            "gpus_per_worker": self.spec.gpus_per_worker,
            "priority": self.spec.priority,
            "submitted": self.submit_s,
            "started": self.started_s,
            "ended": self.ended_s,
            "retries": self.retries,
            "exit_code": self.exit_code,
            "error": self.error,
            "metrics": dict(self.metrics),
            "steps": None if self.steps is None else list(self.steps),
        }


def job_of(
    spec: JobSpec,
    job_id: str,
    submit_s: float,
    gpu_types: tuple[str, ...],
    capability: Mapping[str, float] = CAPABILITY,
) -> Job:
    """What the scheduler schedules for a spec.

    A command keeps the number of workers that it starts with: nobody can tell a program that does not know of it that
    there are more. A job that names GPU types runs on those; one that names none runs on training's. A trainable always
    has checkpoints, a command only those that it tells of.
    """
    usable = spec.gpu_types or gpu_types
    most = spec.w_max if spec.trainable is not None else spec.w_min
    speed = linear({t: capability.get(t, 1.0) for t in usable}, most)
    pace = max(speed.on(t, spec.w_min) for t in usable)
    kept = spec.checkpoint or (None if spec.trainable is None else Checkpoint("", CHECKPOINT_S))
    work = None if spec.est_duration_s is None else spec.est_duration_s * pace
    return Job(
        job_id,
        submit_s,
        work or 0.0,
        speed,
        w_min=spec.w_min,
        w_max=most,
        gpus_per_worker=spec.gpus_per_worker,
        believed=work,
        fungible=spec.fungible,
        hetero=spec.heterogeneous,
        compact=False,
        checkpoint_s=None if kept is None else kept.interval_s,
        on_warning=kept is not None and kept.on_warning,
        save_s=None if kept is None else kept.takes_s,
        grace_s=spec.grace_s,
        team=spec.team,
        priority=spec.priority,
    )


@dataclass
class Worker:
    """A worker that was ordered and is not known to be gone. ``run`` : which of its job's runs it belongs to.
    ``leaving_until`` : it was asked to leave, and is stopped then."""

    id: str
    job: str
    server: str
    run: int
    order: WorkerOrder
    leaving_until: float | None = None
