"""Every figure of a run, from its decision log alone (Aryl, section 7)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quiltwork.cluster.log import Action, Row
from quiltwork.cluster.server import Pool
from quiltwork.core.errors import BadInputError

DAY_S = 86_400.0


@dataclass
class Lives:
    """What became of each job, in order of submission: seconds of the clock, and of each other.

    ``queues`` : from submission to the first start. ``waits`` : without running, in all. ``alone`` : what it takes with
    what it asked for and no wait.
    """

    ids: list[str] = field(default_factory=list)
    gpus: list[int] = field(default_factory=list)
    submitted: list[float] = field(default_factory=list)
    queues: list[float] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    jcts: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    preemptions: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Metrics:
    """The figures of one run. Usage is over the days that were asked for; all else until the last job ended.

    ``usage_train`` : allocated of training's own GPUs. ``usage_whitelist`` : allocated of training's own and lent ones.
    ``usage_all`` : allocated by training, or needed by inference, of all GPUs of both clusters. ``productive`` : share
    of allocated GPU time whose work was not lost. ``goodput`` : useful reference worker-seconds in those days' run, of
    what training's own GPUs could do in the whole run's length. ``shortfall`` : unmet of needed inference server time.
    """

    jobs: int
    seconds: float
    queue_mean_s: float
    queue_p50_s: float
    queue_p95_s: float
    queue_p99_s: float
    wait_mean_s: float
    jct_mean_s: float
    jct_p50_s: float
    jct_p95_s: float
    jct_p99_s: float
    slowdown_mean: float
    slowdown_max: float
    usage_train: float
    usage_whitelist: float
    usage_all: float
    gpu_days: float
    lost_worker_s: float
    useful_worker_s: float
    goodput: float
    preemptions: int
    preempted_jobs: int
    reclaims: int
    collateral_servers: int
    loans: int
    returns: int
    scale_outs: int
    scale_ins: int
    shortfall: float

    def document(self) -> dict[str, Any]:
        return dict(self.__dict__)


def lives(log: Sequence[Row]) -> Lives:
    """Each job's queue, wait and completion. Raises BadInputError where the log ends before a job does."""
    found = Lives()
    place: dict[str, int] = {}
    last: dict[str, float] = {}
    for row in log:
        at = place.get(row.job)
        if row.action is Action.SUBMIT:
            place[row.job] = len(found.ids)
            found.ids.append(row.job)
            found.submitted.append(row.time)
            found.alone.append(row.gain)
            for column in (found.queues, found.jcts):
                column.append(math.nan)
            found.gpus.append(0)
            found.waits.append(0.0)
            found.preemptions.append(0)
            last[row.job] = row.time
        elif at is None:
            continue
        elif row.action is Action.START:
            found.waits[at] += row.time - last[row.job]
            if math.isnan(found.queues[at]):
                found.queues[at] = row.time - found.submitted[at]
                found.gpus[at] = sum(row.gpus)
        elif row.action is Action.PREEMPT:
            found.preemptions[at] += 1
            last[row.job] = row.time
        elif row.action is Action.END:
            found.jcts[at] = row.time - found.submitted[at]
    if any(map(math.isnan, found.jcts)):
        unfinished = found.ids[next(i for i, jct in enumerate(found.jcts) if math.isnan(jct))]
        raise BadInputError("the log ends before the job does", where=f"job {unfinished}")
    return found


def metrics(log: Sequence[Row], *, days: float = 15.0) -> Metrics:
    """All figures of a log of a run that ended. ``days`` : of usage, from the first submission on."""
    jobs = lives(log)
    if not jobs.ids:
        raise BadInputError("no job was submitted", where="log")
    start = jobs.submitted[0]
    span = min(days * DAY_S, log[-1].time - start) or 1.0
    usage = _usage(log, start, start + span)
    useful = sum(row.cost for row in log if row.action is Action.END)
    lost = sum(row.cost for row in log if row.action is Action.PREEMPT)
    of = {action: sum(1 for row in log if row.action is action) for action in Action}
    queue, jct = np.asarray(jobs.queues), np.asarray(jobs.jcts)
    slowdown = jct / np.maximum(jobs.alone, 1e-9)
    whole = max(log[-1].time - start, 1e-9)
    own = sum(row.after for row in log if row.action is Action.SERVER and row.reason == Pool.TRAIN)
    return Metrics(
        jobs=len(jobs.ids),
        seconds=whole,
        queue_mean_s=float(queue.mean()),
        queue_p50_s=_at(queue, 50),
        queue_p95_s=_at(queue, 95),
        queue_p99_s=_at(queue, 99),
        wait_mean_s=float(np.mean(jobs.waits)),
        jct_mean_s=float(jct.mean()),
        jct_p50_s=_at(jct, 50),
        jct_p95_s=_at(jct, 95),
        jct_p99_s=_at(jct, 99),
        slowdown_mean=float(slowdown.mean()),
        slowdown_max=float(slowdown.max()),
        usage_train=usage.train,
        usage_whitelist=usage.whitelist,
        usage_all=usage.all,
        gpu_days=usage.gpu_s / DAY_S,
        lost_worker_s=lost,
        useful_worker_s=useful,
        goodput=useful / (own * whole),
        preemptions=of[Action.PREEMPT],
        preempted_jobs=sum(1 for n in jobs.preemptions if n),
        reclaims=of[Action.RECLAIM],
        collateral_servers=int(sum(row.gain for row in log if row.action is Action.RECLAIM)),
        loans=of[Action.LOAN],
        returns=of[Action.RETURN],
        scale_outs=of[Action.SCALE_OUT],
        scale_ins=of[Action.SCALE_IN],
        shortfall=shortfall(log),
    )


def _at(values: NDArray[np.float64], percent: float) -> float:
    return float(np.percentile(values, percent))


@dataclass(frozen=True)
class _Usage:
    train: float
    whitelist: float
    all: float
    gpu_s: float


def _usage(log: Sequence[Row], start: float, end: float) -> _Usage:
    """Shares of GPU time between two times."""
    gpus = {row.servers[0][0]: row.after for row in log if row.action is Action.SERVER}
    own = sum(row.after for row in log if row.action is Action.SERVER and row.reason == Pool.TRAIN)
    every = sum(gpus.values())
    per_infer = max((row.after for row in log if row.action is Action.SERVER and row.reason == Pool.INFER), default=0)
    held: dict[str, tuple[int, int]] = {}
    on_own = on_lent = lent = 0
    need = 0.0
    area_own = area_lent = area_list = area_need = 0.0
    last = start
    for row in log:
        now = min(max(row.time, start), end)
        if now > last:
            area_own += on_own * (now - last)
            area_lent += on_lent * (now - last)
            area_list += (own + lent) * (now - last)
            area_need += need * (now - last)
            last = now
        if row.time > end:
            break
        action = row.action
        if action in (Action.START, Action.SCALE_IN, Action.SCALE_OUT, Action.END, Action.PREEMPT):
            before = held.get(row.job, (0, 0))
            on_own += row.gpus[0] - before[0]
            on_lent += row.gpus[1] - before[1]
            held[row.job] = row.gpus
        elif action is Action.LOAN:
            lent += gpus[row.servers[0][0]]
        elif action is Action.RETURN:
            lent -= gpus[row.servers[0][0]]
        elif action is Action.NEED:
            need = (row.cost + row.gain) / 2 * per_infer
    span = end - start
    return _Usage(
        area_own / (own * span),
        (area_own + area_lent) / area_list if area_list else 0.0,
        (area_own + area_lent + area_need) / (every * span),
        area_own + area_lent,
    )


def shortfall(log: Sequence[Row]) -> float:
    """Inference's unmet share of its needed server time: the need goes in a straight line between two points."""
    held = sum(1 for row in log if row.action is Action.SERVER and row.reason == Pool.INFER)
    need: tuple[float, float, float] | None = None
    points = [row for row in log if row.action in (Action.NEED, Action.LOAN, Action.RETURN)]
    needs = [row for row in points if row.action is Action.NEED]
    if len(needs) < 2:
        return 0.0
    step = needs[1].time - needs[0].time
    unmet = needed = 0.0
    last = needs[0].time
    for row in points:
        if need is not None and row.time > last:
            at, first, then = need
            a = first + (then - first) * (last - at) / step
            b = first + (then - first) * (row.time - at) / step
            needed += (a + b) / 2 * (row.time - last)
            unmet += _above(a - held, b - held) * (row.time - last)
        last = row.time
        if row.action is Action.NEED:
            need = (row.time, row.cost, row.gain)
        else:
            held += 1 if row.action is Action.RETURN else -1
    return unmet / needed if needed else 0.0


def _above(a: float, b: float) -> float:
    """The mean of what is above 0 on a straight line from a to b."""
    if a <= 0 and b <= 0:
        return 0.0
    if a >= 0 and b >= 0:
        return (a + b) / 2
    top = max(a, b)
    return top * top / (2 * abs(a - b))
