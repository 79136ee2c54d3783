"""How long a job will run, from jobs that have ended: its own kind's history, a model, or nothing.

Whoever schedules says when a job is submitted and when one ends; nothing else is seen, so no estimate knows more than
could be known when it was made.
"""

from __future__ import annotations

import heapq
import math
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from quiltwork.cluster.estimate.quantiles import QuantileModel
from quiltwork.cluster.job_trace import Floats, TraceJob

QUANTILES = (0.1, 0.5, 0.9)
WIDEST = 10.0
"""An interval that is wider than this, from lowest to highest as a ratio, tells nothing to order jobs by."""
_HISTORY = 20
_ENOUGH = 5
_HOUR, _DAY = 3600.0, 86400.0
_TEAM = 0
_MOST_TEAMS = 255
_FIRST_FIT = 300


class Submitted(NamedTuple):
    """What is known of a job when it is submitted."""

    id: str
    submit_s: float
    gpus: int
    team: str = ""
    name: str = ""
    """What its owner calls it: jobs of one name, team and size are one kind."""


class Estimate(NamedTuple):
    """Running time in seconds: the quantiles ``QUANTILES`` of what is thought."""

    low: float
    median: float
    high: float
    source: Literal["history", "model", "none"]

    @property
    def tells(self) -> bool:
        """Whether it is narrow enough to order jobs by; a job that it does not tell of counts by attained service."""
        return self.source != "none" and self.high <= WIDEST * self.low


UNKNOWN = Estimate(0.0, math.inf, math.inf, "none")


class Durations:
    """Estimates of running time that learn from each job that ends.

    window : jobs that the model is fitted on, the last that ended. It is fitted again whenever a tenth as many as it
    was fitted on have ended since.
    """

    def __init__(self, *, seed: int = 0, window: int = 20_000) -> None:
        self._model = QuantileModel(QUANTILES, seed=seed, categorical=[_TEAM])
        self._fitted = 0
        self._since = 0
        self._ended: deque[tuple[Floats, float]] = deque(maxlen=window)
        self._running: dict[str, tuple[Submitted, Floats]] = {}
        self._kinds: defaultdict[tuple[str, str, int], deque[float]] = defaultdict(lambda: deque(maxlen=_HISTORY))
        self._teams: dict[str, _Team] = {}

    def submitted(self, job: Submitted) -> Estimate:
        """A job comes: what is thought of it. Raises nothing for teams and names never heard of."""
        self.learn()
        features = self.note(job)
        return self.history(job) or self.by_model(features[None])[0]

    def ended(self, job_id: str, duration_s: float) -> None:
        """A job that was submitted ran so long to its end. One that is unknown is passed over."""
        known = self._running.pop(job_id, None)
        if known is None or duration_s <= 0:
            return
        job, features = known
        length = math.log(duration_s)
        self._kinds[job.team, job.name, job.gpus].append(length)
        self._team(job.team).ended(length)
        self._ended.append((features, length))
        self._since += 1

    def dropped(self, job_id: str) -> None:
        """A job that was submitted will never end: it was cancelled or failed, and tells nothing."""
        self._running.pop(job_id, None)

    def note(self, job: Submitted) -> Floats:
        """A job comes: its features (f,), as they are known now."""
        features = self._team(job.team).features(job)
        self._running[job.id] = (job, features)
        return features

    def history(self, job: Submitted) -> Estimate | None:
        """From jobs of its own kind alone, or None where these are too few or too unlike."""
        past = self._kinds.get((job.team, job.name, job.gpus), ())
        if len(past) < _ENOUGH:
            return None
        low, median, high = np.exp(np.quantile(np.array(past), QUANTILES)).tolist()
        found = Estimate(low, median, high, "history")
        return found if found.tells else None

    def due(self) -> bool:
        """Whether so many jobs have ended that the model is to be fitted before it is asked again."""
        return self._since >= max(_FIRST_FIT, self._fitted // 10)

    def learn(self) -> None:
        """Fit the model anew, if that is due."""
        if self.due():
            rows, lengths = zip(*self._ended, strict=True)
            self._model.fit(np.stack(rows), np.array(lengths))
            self._fitted, self._since = len(rows), 0

    def by_model(self, features: Floats) -> list[Estimate]:
        """From the model as it is: (n, f) features, n estimates."""
        if not self._fitted:
            return [UNKNOWN] * len(features)
        return [Estimate(low, median, high, "model") for low, median, high in np.exp(self._model.predict(features))]

    def _team(self, name: str) -> _Team:
        team = self._teams.get(name)
        if team is None:
            team = self._teams[name] = _Team(min(len(self._teams), _MOST_TEAMS - 1))
        return team


class _Team:
    """What is known of a team's habits."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._last: deque[float] = deque(maxlen=5)
        self._submits: deque[float] = deque(maxlen=1000)
        self._sizes: deque[int] = deque(maxlen=5)

    def features(self, job: Submitted) -> Floats:
        while self._submits and self._submits[0] < job.submit_s - _HOUR:
            self._submits.popleft()
        gap = job.submit_s - self._submits[-1] if self._submits else math.nan
        row = np.array(
            [
                self._number,
                math.log2(job.gpus),
                job.submit_s % _DAY / _HOUR,
                job.submit_s // _DAY % 7,
                len(self._submits),
                gap,
                self._last[-1] if self._last else math.nan,
                sorted(self._last)[len(self._last) // 2] if self._last else math.nan,
                np.mean([size == job.gpus for size in self._sizes]) if self._sizes else math.nan,
            ]
        )
        self._submits.append(job.submit_s)
        self._sizes.append(job.gpus)
        return row

    def ended(self, length: float) -> None:
        self._last.append(length)


@dataclass(frozen=True, eq=False)
class Replayed:
    """A trace's estimates in the order of submission: (n,) each, in seconds."""

    low: Floats
    median: Floats
    high: Floats
    sources: tuple[str, ...]


def replay(jobs: Iterable[TraceJob], estimates: Durations | None = None) -> Replayed:
    """What would have been thought of each job of a trace when it came, had each run as soon as it came.

    A job's own running time, and those of jobs that had not ended, play no part in its estimate.
    """
    estimates = Durations() if estimates is None else estimates
    running: list[tuple[float, str, float]] = []
    made: list[Estimate] = []
    asked: list[tuple[int, Floats]] = []

    def answer() -> None:
        if asked:
            found = estimates.by_model(np.stack([features for _, features in asked]))
            for (index, _), estimate in zip(asked, found, strict=True):
                made[index] = estimate
            asked.clear()

    for job in jobs:
        while running and running[0][0] <= job.submit_s:
            _, job_id, duration_s = heapq.heappop(running)
            estimates.ended(job_id, duration_s)
        if estimates.due():
            # Those that came before are told by the model as it was.
            answer()
            estimates.learn()
        submitted = Submitted(job.id, job.submit_s, job.gpus, job.team)
        features = estimates.note(submitted)
        history = estimates.history(submitted)
        made.append(history or UNKNOWN)
        if history is None:
            asked.append((len(made) - 1, features))
        heapq.heappush(running, (job.submit_s + job.duration_s, job.id, job.duration_s))
    answer()
    low, median, high = (np.array([estimate[part] for estimate in made], dtype=np.float64) for part in range(3))
    return Replayed(low, median, high, tuple(estimate.source for estimate in made))
