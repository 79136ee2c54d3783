"""Training jobs: what one asks for, and how much work it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from quiltwork.cluster.speed import Speed
from quiltwork.core.errors import BadInputError


class Shape(NamedTuple):
    """All that decides where the gang of a job fits. Where one job does not fit, none of the same shape does."""

    gpus_per_worker: int
    workers: int
    compact: bool = True
    """The gang takes as few servers as it can: whole ones, and the rest on one."""
    fungible: bool = False
    """May run on lent servers."""


@dataclass(frozen=True, slots=True)
class Job:
    """A training job. Its base demand, ``w_min`` workers, is a gang: all or none. What is above it, up to ``w_max``, is
    flexible demand: any number, given and taken while the job runs.

    ``work`` : what there is to do, in reference worker-seconds. ``believed`` : what is thought of that when it is
    submitted, the only figure that decisions see; None where nothing is. ``hetero`` : one run may mix GPU types.
    ``checkpoint_s`` : work is kept so often; None where a preempted job begins again. ``on_warning`` : it checkpoints
    when it is told to stop, which takes ``save_s``; None for both where it is as all others of the cluster are.
    ``grace_s`` : as long after that it is made to go.
    ``start_s`` : from the start of its workers until they compute; those that are added to a run compute so much later,
    and the others meanwhile.
    """

    id: str
    submit_s: float
    work: float
    speed: Speed
    w_min: int = 1
    w_max: int = 1
    gpus_per_worker: int = 1
    believed: float | None = None
    fungible: bool = False
    hetero: bool = False
    compact: bool = True
    checkpoint_s: float | None = None
    on_warning: bool | None = None
    save_s: float | None = None
    grace_s: float = math.inf
    team: str = ""
    priority: int = 0
    start_s: float = 0.0

    def __post_init__(self) -> None:
        where = f"job {self.id}"
        if not math.isfinite(self.submit_s):
            raise BadInputError(f"submitted at {self.submit_s}", where=where)
        if not 0 <= self.work < math.inf or not (self.believed is None or 0 <= self.believed < math.inf):
            raise BadInputError("work is not a number of worker-seconds", where=where)
        if self.w_min < 1 or self.gpus_per_worker < 1:
            raise BadInputError("needs at least one worker of at least one GPU", where=where)
        if self.w_max < self.w_min:
            raise BadInputError(f"w_max {self.w_max} is less than w_min {self.w_min}", where=where)
        if self.checkpoint_s is not None and not 0 < self.checkpoint_s < math.inf:
            raise BadInputError(f"checkpoints every {self.checkpoint_s} s", where=where)
        if not (self.save_s is None or 0 <= self.save_s < math.inf) or not self.grace_s >= 0:
            raise BadInputError(f"saves in {self.save_s} s, and has {self.grace_s} s for it", where=where)
        if not 0 <= self.start_s < math.inf:
            raise BadInputError(f"takes {self.start_s} s to start", where=where)

    @property
    def elastic(self) -> bool:
        return self.w_max > self.w_min

    @property
    def shape(self) -> Shape:
        return Shape(self.gpus_per_worker, self.w_min, self.compact, self.fungible)

    def seconds(self, work: float, gpu_type: str) -> float:
        """How long ``work`` takes with ``w_min`` workers on one type; infinity where the type cannot run it."""
        speed = self.speed.on(gpu_type, self.w_min)
        return work / speed if speed else math.inf

    def believed_left(self, done: float) -> float:
        """Work that is believed to be left after ``done``; infinity where nothing is known. A job that has done more
        than was believed is thought to have as much again before it."""
        if self.believed is None:
            return math.inf
        left = self.believed - done
        return left if left > 0 else done
