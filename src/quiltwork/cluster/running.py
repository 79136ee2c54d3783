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
    its present speed from all others of the cluster. ``coming`` : workers among ``counts`` that do not compute yet:
    from when they do, their GPU type, how many. ``later`` : speeds from then on, the soonest first.
    """

    __slots__ = (
        *("base", "began", "coming", "counts", "done", "flex", "flexible"),
        *("flexing", "job", "later", "rate", "resumed", "since", "turn"),
    )

    def __init__(
        self, job: Job, base: Placement, counts: list[int], usable: tuple[bool, ...], done: float, began: float
    ) -> None:
        self.job, self.base, self.counts = job, base, counts
        self.flexible = Flexible(job.speed, tuple(counts), job.w_max - job.w_min, job.gpus_per_worker, usable)
        self.flex: dict[int, int] = {}
        self.flexing = [0] * len(counts)
        self.coming: list[tuple[float, int, int]] = []
        self.later: list[tuple[float, float]] = []
        self.rate = 0.0
        self.began = self.since = began
        self.done = self.resumed = done
        self.turn = 0

    def settle(self, now: float) -> None:
        """Count what was done up to now."""
        while self.later and self.later[0][0] <= now:
            then, rate = self.later.pop(0)
            self._settle(then)
            self.rate = rate
        self._settle(now)

    def _settle(self, now: float) -> None:
        if now > self.since:
            self.done += self.rate * (now - self.since)
            self.since = now

    def done_by(self, now: float) -> float:
        """Work done by now, in reference worker-seconds."""
        done, since, rate = self.done, self.since, self.rate
        for then, faster in self.later:
            if then > now:
                break
            if then > since:
                done, since = done + rate * (then - since), then
            rate = faster
        return done + rate * (now - since) if now > since else done

    def ends_at(self, left: float) -> float:
        """When so much more work than ``done`` will be done, as things are."""
        since, rate = self.since, self.rate
        for then, faster in self.later:
            if then > since:
                if rate * (then - since) >= left:
                    break
                left, since = left - rate * (then - since), then
            rate = faster
        return since + left / rate

    def come(self, at: float, gpu_type: int, workers: int) -> None:
        """Workers that were added compute from then on. Those who are still coming are waited for together."""
        at = max(at, *(was for was, _, _ in self.coming), at)
        self.coming = [*((at, t, n) for _, t, n in self.coming), (at, gpu_type, workers)]

    def go(self, gpu_type: int, workers: int) -> None:
        """Workers leave: the newest of that type, which may not compute yet."""
        for i in reversed(range(len(self.coming))):
            at, t, n = self.coming[i]
            if t == gpu_type and workers:
                going = min(n, workers)
                workers -= going
                self.coming[i] = (at, t, n - going)

    def retime(self, gpu_types: Sequence[str], turn: int) -> None:
        """After its workers changed and its work was settled."""
        self.turn = turn
        self.later = []
        if not self.coming:
            self.rate = self.job.speed.of(self.counts, gpu_types)
            return
        self.coming = [(at, t, n) for at, t, n in self.coming if at > self.since and n]
        computing = list(self.counts)
        for _, t, n in self.coming:
            computing[t] -= n
        self.rate = self.job.speed.of(computing, gpu_types)
        for at, t, n in self.coming:
            computing[t] += n
            self.later.append((at, self.job.speed.of(computing, gpu_types)))

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
