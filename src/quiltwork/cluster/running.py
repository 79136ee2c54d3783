"""A running job: its workers by server and by GPU type, and how far it is believed to be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from quiltwork.cluster.job import Job
from quiltwork.cluster.policy.flexing import Flexible
from quiltwork.cluster.policy.placing import Placement
from quiltwork.core.errors import BadInputError


@dataclass(frozen=True)
class Delays:
    """What changes are believed to cost, in seconds. ``restart_s`` : a job that was stopped computes nothing for so
    long when it runs again, beside what starting takes it anyway. ``pause_s`` : nor does one whose workers change.
    ``leave_s`` : from asking a worker to leave until its GPU is free; who is to have that GPU starts so much later.
    ``keep_on_stop`` : a job checkpoints on the warning, whether or not it does so otherwise; that takes ``save_s``.
    (Both where the job itself does not say.) ``deadline_s`` : from the warning until whoever is still there is made to
    go."""

    restart_s: float = 63.0
    pause_s: float = 0.0
    leave_s: float = 0.0
    keep_on_stop: bool = False
    save_s: float = 0.0
    deadline_s: float = math.inf

    def __post_init__(self) -> None:
        for name in ("restart_s", "pause_s", "leave_s", "save_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise BadInputError(f"{getattr(self, name)} is not a number of seconds", where=name)
        if not self.deadline_s >= 0:
            raise BadInputError(f"{self.deadline_s} is not a number of seconds", where="deadline_s")

    def saves(self, job: Job) -> bool:
        """Whether a job that is warned has its work on the disk before it is made to go. A checkpoint that takes longer
        is none: what came after the one before is lost."""
        warned = self.keep_on_stop if job.on_warning is None else job.on_warning
        takes_s = self.save_s if job.save_s is None else job.save_s
        return warned and takes_s <= min(self.deadline_s, job.grace_s)


class Run:
    """One run of a job, from its start until it ends or is stopped.

    ``base`` : where its base workers are. ``flex`` : flexible workers by server. ``counts``, ``flexing`` : all workers
    and flexible ones by GPU type. ``began`` : when it began to compute. ``since`` : ``done`` is counted up to here;
    later than now where it computes nothing until then. ``resumed`` : what was done when it began. ``turn`` : tells
    its present speed from all others of the cluster. ``coming`` : workers among ``counts`` that do not compute yet, by
    GPU type; all of them do from ``come_at`` on, infinity where nobody is coming, and its speed is ``faster`` then.
    """

    __slots__ = (
        *("base", "began", "come_at", "coming", "counts", "done", "faster", "flex", "flexible"),
        *("flexing", "job", "rate", "resumed", "since", "turn"),
    )

    def __init__(
        self, job: Job, base: Placement, counts: list[int], usable: tuple[bool, ...], done: float, began: float
    ) -> None:
        self.job, self.base, self.counts = job, base, counts
        self.flexible = Flexible(job.speed, tuple(counts), job.w_max - job.w_min, job.gpus_per_worker, usable)
        self.flex: dict[int, int] = {}
        self.flexing = [0] * len(counts)
        self.coming = [0] * len(counts)
        self.come_at = math.inf
        self.rate = self.faster = 0.0
        self.began = self.since = began
        self.done = self.resumed = done
        self.turn = 0

    def settle(self, now: float) -> None:
        """Count what was done up to now."""
        if self.come_at <= now:
            self._settle(self.come_at)
            self.rate = self.faster
            self._all_compute()
        self._settle(now)

    def _settle(self, now: float) -> None:
        if now > self.since:
            self.done += self.rate * (now - self.since)
            self.since = now

    def done_by(self, now: float) -> float:
        """Work done by now, in reference worker-seconds."""
        done, since, rate = self.done, self.since, self.rate
        if self.come_at <= now:
            if self.come_at > since:
                done, since = done + rate * (self.come_at - since), self.come_at
            rate = self.faster
        return done + rate * (now - since) if now > since else done

    def ends_at(self, left: float) -> float:
        """When so much more work than ``done`` will be done, as things are."""
        since, rate = self.since, self.rate
        if self.come_at < math.inf:
            if self.come_at > since:
                before = rate * (self.come_at - since)
                if before >= left:
                    return since + left / rate
                left, since = left - before, self.come_at
            rate = self.faster
        return since + left / rate

    def come(self, at: float, gpu_type: int, workers: int) -> None:
        """Workers that were added compute from then on. Those who are still coming are waited for together."""
        self.come_at = at if self.come_at == math.inf else max(self.come_at, at)
        self.coming[gpu_type] += workers

    def go(self, gpu_type: int, workers: int) -> None:
        """Workers leave: those of that type first that do not compute yet."""
        self.coming[gpu_type] -= min(workers, self.coming[gpu_type])

    def retime(self, gpu_types: Sequence[str], turn: int) -> None:
        """After its workers changed and its work was settled."""
        self.turn = turn
        self.rate = self.job.speed.of(self.counts, gpu_types)
        if self.come_at == math.inf:
            return
        if self.come_at <= self.since or not any(self.coming):
            self._all_compute()
            return
        computing = [n - later for n, later in zip(self.counts, self.coming, strict=True)]
        self.rate, self.faster = self.job.speed.of(computing, gpu_types), self.rate

    def _all_compute(self) -> None:
        self.come_at, self.coming = math.inf, [0] * len(self.coming)

    def kept(self, now: float, delays: Delays, *, warned: bool = True) -> float:
        """Work that is not lost where it is stopped now: all, where it is warned and checkpoints in time; else what its
        last checkpoint holds."""
        done = self.done_by(now)
        if warned and delays.saves(self.job):
            return done
        every = self.job.checkpoint_s
        if every is None:
            return 0.0
        if now <= self.began:
            return self.resumed
        return max(self.resumed, done - self.rate * ((now - self.began) % every))

    def loss(self, now: float, delays: Delays) -> float:
        """GPU-seconds that stopping it now throws away: what is not kept, and starting again."""
        lost = self.done_by(now) - self.kept(now, delays)
        gpus = sum(self.counts) * self.job.gpus_per_worker
        return (lost / self.rate + delays.restart_s) * gpus
