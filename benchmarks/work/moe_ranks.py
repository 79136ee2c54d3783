"""Data-parallel training whose ranks run one after the other in one process, each timed by its own CPU seconds.

There may be fewer cores than ranks, and neighbours on them; wall time of ranks side by side would then tell of those.
Shares, gradients and their mean are what as many workers compute. What all ranks wait for is the dearest of them.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from quiltwork.core.servable import Json
from quiltwork.core.trainable import Setup, mean_of
from quiltwork.moe.training.training import MoETraining


@dataclass
class Course:
    """What a run found."""

    excess: list[float] = field(default_factory=list)
    """Of steps that were timed again: max / mean CPU seconds of ranks - 1."""
    lengths: list[float] = field(default_factory=list)
    """Of those steps: longest / mean length of their samples."""
    predicted: list[float] = field(default_factory=list)
    """Of every share that was timed again: predicted cost, and beside it in ``took`` its CPU seconds."""
    took: list[float] = field(default_factory=list)
    path_s: list[float] = field(default_factory=list)
    """By point of the validation curve: CPU seconds that all ranks waited for so far, and beside it its loss."""
    loss: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """steps : of all. probed_from : from this step on ``probes`` of them, evenly taken, are timed ``repeats`` times."""

    ranks: int
    steps: int
    probed_from: int
    probes: int
    repeats: int
    points: int


def train(config: Mapping[str, Json], out: Path, seed: int, run: Run, clock: Callable[[], float]) -> Course:
    """Train with ``config``; probing changes nothing of it."""
    training = MoETraining(clock)
    # One step more than is taken: the result is not wanted. The curve is taken here.
    more = {"out": str(out), "steps": run.steps + 1, "validate_every": run.steps + 1}
    training.setup(Setup(dict(config) | more, seed))
    training.resize(0, run.ranks)
    course, path = Course(), 0.0
    probed = set(np.linspace(run.probed_from, run.steps - 1, run.probes).astype(int).tolist())
    points = set(np.linspace(0, run.steps, run.points + 1).astype(int).tolist()[1:])
    for step in range(run.steps):
        shares = np.array_split(training.next_samples(), run.ranks)
        if step in probed:
            _probe(training, shares, run.repeats, clock, course)
        spent, parts = [], []
        for share in shares:
            begun = clock()
            parts.append(training.gradients(share))
            spent.append(clock() - begun)
        mean = mean_of(parts)
        begun = clock()
        training.apply(mean)
        path += max(spent) + (clock() - begun if step else 0.0)  # the first one also validates
        if step + 1 in points:
            course.path_s.append(path)
            course.loss.append(training.valid_loss())
    return course


def _probe(
    training: MoETraining, shares: list[np.ndarray], repeats: int, clock: Callable[[], float], course: Course
) -> None:
    """Each rank's share in turn, over and over, and the median of its times: the least of them varies more."""
    times: list[list[float]] = [[] for _ in shares]
    for _ in range(repeats):
        for share, mine in zip(shares, times, strict=True):
            begun = clock()
            training.gradients(share)
            mine.append(clock() - begun)
    each = [statistics.median(mine) for mine in times]
    course.excess.append(max(each) / statistics.fmean(each) - 1)
    own = np.sum(training.objective.lengths("train"), axis=0)
    ids = np.concatenate(shares)
    course.lengths.append(float(own[ids].max() / own[ids].mean()))
    if training.curriculum is not None:
        course.predicted += [float(training.curriculum.costs[share].sum()) for share in shares]
        course.took += each


def cpu_clock() -> float:
    """Of this process."""
    return time.process_time()


def path_to(course: Course, target: float) -> float | None:
    """Seconds until the loss first falls to ``target``, between points by a line; None where it never does."""
    before: tuple[float, float] | None = None
    for seconds, loss in zip(course.path_s, course.loss, strict=True):
        if loss <= target:
            if before is None:
                return seconds
            share = (before[1] - target) / (before[1] - loss)
            return before[0] + share * (seconds - before[0])
        before = seconds, loss
    return None
