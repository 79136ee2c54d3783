"""Work that jobs did in a run's first days and that was not lost later, from its decision log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quiltwork.cluster.job import Job
from quiltwork.cluster.log import AGAIN, Action, Row
from quiltwork.cluster.running import Delays

_WORKERS_CHANGE = (Action.SCALE_OUT, Action.SCALE_IN)


@dataclass
class _Course:
    """How far a job is: ``done`` up to ``since``, at ``rate`` from there on; ``since`` may lie ahead."""

    done: float = 0.0
    since: float = 0.0
    rate: float = 0.0

    def by(self, now: float) -> float:
        return self.done + self.rate * max(0.0, now - self.since)

    def settle(self, now: float, then: float) -> None:
        self.done, self.since = self.by(now), max(self.since, then)


def useful_work(
    log: Sequence[Row], jobs: Sequence[Job], until_s: float, gpu_types: tuple[str, str], delays: Delays | None = None
) -> float:
    """Reference worker-seconds done by ``until_s`` (of the log's clock) that no later preemption threw away.

    gpu_types : of training's own servers and of lent ones. delays : those of the run. A job that ended in time counts
    with all its work; one that was under way with what it had done, or less where it fell back behind that later.
    """
    delays = delays or Delays()
    of = {job.id: job for job in jobs}
    courses: dict[str, _Course] = {}
    kept: dict[str, float] = {}
    useful: dict[str, float] = {}
    cut = False
    for row in log:
        if not cut and row.time > until_s:
            cut = True
            useful |= {name: course.by(until_s) for name, course in courses.items()}
        if row.action is Action.START:
            began = row.time + (delays.restart_s if row.reason == AGAIN else 0.0)
            courses[row.job] = _Course(kept.get(row.job, 0.0), began, _rate(of[row.job], row.gpus, gpu_types))
        elif row.action in _WORKERS_CHANGE:
            course = courses[row.job]
            course.settle(row.time, row.time + delays.pause_s)
            course.rate = _rate(of[row.job], row.gpus, gpu_types)
        elif row.action is Action.PREEMPT:
            left = kept[row.job] = courses.pop(row.job).by(row.time) - row.cost
            if not cut:
                useful[row.job] = left
            elif row.job in useful:
                useful[row.job] = min(useful[row.job], left)
        elif row.action is Action.END and courses.pop(row.job, None) is not None and not cut:
            useful[row.job] = row.cost
    if not cut:
        useful |= {name: course.by(until_s) for name, course in courses.items()}
    return sum(useful.values())


def _rate(job: Job, gpus: tuple[int, int], gpu_types: tuple[str, str]) -> float:
    """Reference workers' speed of what a job holds."""
    return job.speed.of([held // job.gpus_per_worker for held in gpus], gpu_types)
