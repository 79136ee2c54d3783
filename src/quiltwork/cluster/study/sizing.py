"""How many servers it takes: the same jobs on clusters of several sizes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from quiltwork.cluster.changes import NO_QUOTAS
from quiltwork.cluster.demand import Demand
from quiltwork.cluster.simulate.metrics import Metrics
from quiltwork.cluster.study.arms import Arm, arms_of
from quiltwork.cluster.study.comparison import run_arms
from quiltwork.cluster.study.study import Study, need_of, world_of
from quiltwork.core.errors import BadInputError
from quiltwork.core.progress import Say, ignore
from quiltwork.core.servable import Json

_IDLE = Demand(np.array([0.0, 300.0]), np.zeros(2), np.zeros(2, dtype=np.bool_))
"""Inference needs nothing."""


@dataclass(frozen=True)
class Point:
    """One arm on one size. ``lent`` : inference's servers that are always on loan, where that was asked."""

    train: int
    lent: int | None
    arm: str
    metrics: Metrics
    wall_s: float


@dataclass(frozen=True)
class Sizing:
    """All points, sizes rising within each arm and number of lent servers."""

    points: tuple[Point, ...]
    queue_s: float | None
    notes: tuple[str, ...]

    def holds(self, point: Point) -> bool | None:
        """Whether the mean queue is as short as was asked; None where nothing was."""
        return None if self.queue_s is None else point.metrics.queue_mean_s <= self.queue_s

    def answers(self) -> list[tuple[str, int | None, int | None]]:
        """For each arm and number of lent servers, the fewest training servers that hold the queue, as all larger
        numbers that were tried do; None where the largest does not. Empty where no queue was asked for."""
        if self.queue_s is None:
            return []
        found: dict[tuple[str, int | None], int | None] = {}
        failed: set[tuple[str, int | None]] = set()
        for point in reversed(self.points):
            key = (point.arm, point.lent)
            found.setdefault(key, None)
            if not self.holds(point):
                failed.add(key)
            elif key not in failed:
                found[key] = point.train
        return [(arm, lent, train) for (arm, lent), train in reversed(found.items())]

    def document(self) -> dict[str, Json]:
        return {
            "queue_s": self.queue_s,
            "notes": list(self.notes),
            "answers": [{"arm": a, "lent": lent, "train": train} for a, lent, train in self.answers()],
            "points": [
                {"arm": p.arm, "train": p.train, "lent": p.lent, "holds": self.holds(p)}
                | {"metrics": p.metrics.document(), "wall_s": p.wall_s}
                for p in self.points
            ],
        }


def whatif(
    study: Study,
    train: Sequence[int],
    policies: Sequence[str | Arm],
    *,
    lend: Sequence[int] = (),
    queue_s: float | None = None,
    changes: Sequence[str] = (),
    quotas: Mapping[str, int] = NO_QUOTAS,
    clock: Callable[[], float] = time.perf_counter,
    progress: Say = ignore,
) -> Sizing:
    """Simulate the study with each number of training servers: all that ``quiltwork cluster whatif`` does.

    lend : so many servers of inference's type, on loan all the time, instead of what the study says of inference.
    queue_s : the mean queue that is to be held. The jobs are the same at every size: one that is too large for the
    smallest is refused, or left out at all of them.

    Raises BadInputError.
    """
    if not train:
        raise BadInputError("no number of servers is given", where="train")
    for name, values in (("train", train), ("lend", lend)):
        if len(set(values)) != len(values):
            raise BadInputError("a number of servers is given twice", where=name)
    if lend and study.demand is not None:
        raise BadInputError("servers that are always on loan leave no demand to follow", where="lend",
                            hint="either --lend or --inference")  # fmt: skip
    if queue_s is not None and not 0 <= queue_s < float("inf"):
        raise BadInputError(f"{queue_s} is not a length of time", where="queue")
    arms = [_lending(arm) if lend else arm for arm in arms_of(policies, changes, quotas)]
    smallest = replace(study.fleet, train=min(train), infer=0 if lend else study.fleet.infer)
    progress("estimating running times" if study.estimates == "learned" else "preparing the jobs")
    base = world_of(replace(study, fleet=smallest))
    points: list[Point] = []
    for lent in (*sorted(lend),) or (None,):
        demand = study.demand if lent is None else _IDLE if lent else None
        for size in sorted(train):
            fleet = replace(smallest, train=size, infer=smallest.infer if lent is None else lent)
            at = replace(study, fleet=fleet, demand=demand)
            world = replace(base, servers=fleet.servers(), need=need_of(demand, base.settings.loans_every_s))
            what = f"{size} servers" if lent is None else f"{size} servers and {lent} lent"

            def say(phrase: str, what: str = what) -> None:
                progress(f"{what}: {phrase}")

            for outcome, _ in run_arms(at, world, arms, clock=clock, progress=say):
                points.append(Point(size, lent, outcome.arm.name, outcome.metrics, outcome.wall_s))
    names = [arm.name for arm in arms]
    points.sort(key=lambda p: (names.index(p.arm), -1 if p.lent is None else p.lent, p.train))
    return Sizing(tuple(points), queue_s, base.notes)


def _lending(arm: Arm) -> Arm:
    """The arm where whatever inference has is on loan at once and for good."""
    return replace(arm, rules=replace(arm.rules, loaning=True, headroom=0.0, hysteresis=0.0, min_lease_s=0.0))
