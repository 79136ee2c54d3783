"""What starting, changing and leaving cost on a live cluster, read off a run; and the simulator given the same."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from quiltwork.cluster.job import Job
from quiltwork.cluster.live.entries import job_of
from quiltwork.cluster.log import AGAIN, Action, Row
from quiltwork.cluster.policy.rules import Rules
from quiltwork.cluster.running import Delays
from quiltwork.cluster.server import Server
from quiltwork.cluster.simulate import Settings, simulate
from quiltwork.cluster.spec import parse_spec
from quiltwork.cluster.speed import Speed
from work.live_run import LiveRun, Took
from work.paced_jobs import BATCH, COMMAND_STEP_S, GPU, SAMPLE_S, PacedJob

LEFT_S = 10.0
"""A start on a server that nobody was asked to leave for so long had to wait for nobody."""


@dataclass(frozen=True)
class Costs:
    """All in seconds. step_s : of a step, by workers. trainable_s, command_s : of a job beside its steps: from the
    start of its workers to its first step, and from its last to its end. Others : as in ``Delays`` and ``Settings``.
    """

    step_s: Mapping[int, float]
    trainable_s: float
    command_s: float
    restart_s: float
    pause_s: float
    leave_s: float
    return_s: float

    def step(self, workers: int) -> float:
        """As measured; where nobody had so many workers, as it was made to take."""
        return self.step_s.get(workers, BATCH * SAMPLE_S / workers)

    @property
    def delays(self) -> Delays:
        return Delays(self.restart_s, self.pause_s, self.leave_s, keep_on_stop=True)


@dataclass(frozen=True)
class _Start:
    """One start of a job, what it took beside steps, and how long before somebody was asked to leave its servers."""

    trainable: bool
    again: bool
    took_s: float
    left_s: float


def costs_of(run: LiveRun, jobs: Sequence[PacedJob]) -> Costs:
    """Means over everything of its kind that happened in a run; 0 for what did not happen."""
    by_name = {job.name: job for job in jobs}
    step_s = _step_times(run.steps.values())
    known = Costs(step_s, 0, 0, 0, 0, 0, 0)
    starts = _starts(run, by_name, known)
    ends = {row.job: row.time for row in run.rows if row.action is Action.END}
    finish = _mean(ends[job] - steps[-1].at for job, steps in run.steps.items() if steps)
    first = {
        kind: _mean(s.took_s for s in starts if s.trainable is kind and not s.again and s.left_s > LEFT_S)
        for kind in (True, False)
    }
    return Costs(
        step_s,
        first[True] + finish,
        first[False],
        max(0.0, _mean(s.took_s - first[s.trainable] for s in starts if s.again and s.left_s > LEFT_S)),
        _mean(_pauses(run.steps.values(), known)),
        max(0.0, _mean(s.took_s - first[s.trainable] for s in starts if not s.again and s.left_s < 0.01)),
        _mean(_returns(run.rows)),
    )


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return statistics.fmean(found) if found else 0.0


def _step_times(steps: Iterable[Sequence[Took]]) -> dict[int, float]:
    """Medians over steps that nothing happened in."""
    found: defaultdict[int, list[float]] = defaultdict(list)
    for took in steps:
        for before, after in pairwise(took):
            if before.workers == after.workers and after.done == before.done + 1:
                found[after.workers].append(after.at - before.at)
    return {workers: statistics.median(seconds) for workers, seconds in sorted(found.items())}


def _pauses(steps: Iterable[Sequence[Took]], known: Costs) -> list[float]:
    """How much longer than a step the first one after a change of workers took."""
    return [
        after.at - before.at - known.step(after.workers)
        for took in steps
        for before, after in pairwise(took)
        if before.workers != after.workers and after.at - before.at < LEFT_S
    ]


def _starts(run: LiveRun, jobs: Mapping[str, PacedJob], known: Costs) -> list[_Start]:
    asked: defaultdict[int, float] = defaultdict(lambda: -LEFT_S * 1000)
    found = []
    for i, row in enumerate(run.rows):
        if row.action in (Action.SCALE_IN, Action.PREEMPT):
            asked.update({server: row.time for server, _ in row.servers})
        elif row.action is Action.START:
            job = jobs[run.names[row.job]]
            over = next(r for r in run.rows[i + 1 :] if r.job == row.job and r.action in (Action.END, Action.PREEMPT))
            took = _trainable_start(run.steps[row.job], job, row.time, over.time, known) if job.trainable else (
                _command_start(run.begun[row.job], job, row.time, over) if over.action is Action.END else None
            )  # fmt: skip
            if took is not None:
                left = row.time - max(asked[server] for server, _ in row.servers)
                found.append(_Start(job.trainable, row.reason == AGAIN, took, left))
    return found


def _trainable_start(steps: Sequence[Took], job: PacedJob, start: float, over: float, known: Costs) -> float | None:
    """Until all of the gang computed, less what the steps until then would have taken it."""
    here = [took for took in steps if start < took.at <= over]
    for count, took in enumerate(here, 1):
        if took.workers >= job.w_min:
            return took.at - start - count * known.step(job.w_min)
    return None


def _command_start(begun: Sequence[tuple[float, int]], job: PacedJob, start: float, over: Row) -> float:
    """The whole of its run, less its steps."""
    done = min(done for at, done in begun if start < at <= over.time)
    return over.time - start - (job.steps - done) * COMMAND_STEP_S


def _returns(rows: Sequence[Row]) -> list[float]:
    """From asking a server back until it was empty."""
    asked: dict[int, float] = {}
    found = []
    for row in rows:
        if row.action is Action.RECLAIM:
            asked |= {server: row.time for server, _ in row.servers}
        elif row.action is Action.RETURN:
            found.append(row.time - asked.pop(row.servers[0][0]))
    return found


def simulated(
    servers: Sequence[Server],
    jobs: Sequence[PacedJob],
    needs: Sequence[float],
    rules: Rules,
    costs: Costs,
    *,
    share_every_s: float,
    loans_every_s: float,
) -> list[Row]:
    """The decision log of the same jobs under virtual time."""
    settings = Settings(
        gpu_types=(GPU,), delays=costs.delays, return_s=costs.return_s, loans_every_s=loans_every_s,
        share_every_s=share_every_s, forecast="persistent",
    )  # fmt: skip
    return simulate(servers, [_job(job, costs) for job in jobs], rules, need=needs, settings=settings)


def _job(job: PacedJob, costs: Costs) -> Job:
    """What the live controller believes of it, and what it will really do."""
    known = job_of(parse_spec(job.spec(Path())), job.name, job.at, (GPU,))
    if not job.trainable:
        return replace(known, work=job.steps * COMMAND_STEP_S * job.w_min, start_s=costs.command_s)
    curve = tuple(costs.step(1) / costs.step(n) for n in range(1, job.w_max + 1))
    return replace(known, work=job.steps * costs.step(1), speed=Speed({GPU: curve}), start_s=costs.trainable_s)


def jct_of(rows: Sequence[Row]) -> dict[str, float]:
    """From submission to the end, by job."""
    submitted = {row.job: row.time for row in rows if row.action is Action.SUBMIT}
    return {row.job: row.time - submitted[row.job] for row in rows if row.action is Action.END}


def queue_of(rows: Sequence[Row]) -> dict[str, float]:
    """From submission to the first start, by job."""
    submitted = {row.job: row.time for row in rows if row.action is Action.SUBMIT}
    queue: dict[str, float] = {}
    for row in rows:
        if row.action is Action.START:
            queue.setdefault(row.job, row.time - submitted[row.job])
    return queue
