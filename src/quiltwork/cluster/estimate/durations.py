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
_FIRST_FIT = 300
_RATE = 0.03
_LEAST = 0.01
"""No side of an interval is narrower than one in a hundred."""
_LONGEST = math.log(1e12)


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


class _Told(NamedTuple):
    """What was said of a job before its interval was widened, in logarithms of seconds."""

    source: Literal["history", "model"]
    median: float
    below: float
    above: float


class _Width:
    """How much wider than said an interval must be, on each side, to hold what it should.

    Whatever ends outside widens it and whatever ends inside narrows it, so that one in ten lies beyond each end
    (adaptive conformal inference, Gibbs and Candès 2021): habits change, and jobs that end soon are seen first.
    """

    def __init__(self) -> None:
        self.below = self.above = 1.0

    def saw(self, told: _Told, length: float) -> None:
        self.below *= _step(told.median - length > self.below * told.below, QUANTILES[0])
        self.above *= _step(length - told.median > self.above * told.above, 1 - QUANTILES[2])


def _step(missed: bool, share: float) -> float:
    return math.exp(_RATE * ((1 if missed else 0) - share))


class Durations:
    """Estimates of running time that learn from each job that ends.

    window : jobs that the model is fitted on, the last that ended. It is fitted again whenever a quarter as many
    as it was fitted on have ended since.
    """

    def __init__(self, *, seed: int = 0, window: int = 20_000) -> None:
        self._model = QuantileModel(QUANTILES, seed=seed)
        self._fitted = 0
        self._since = 0
        self._ended: deque[tuple[Floats, float]] = deque(maxlen=window)
        self._running: dict[str, tuple[Submitted, Floats, _Told | None]] = {}
        self._kinds: defaultdict[tuple[str, str, int], deque[float]] = defaultdict(lambda: deque(maxlen=_HISTORY))
        self._teams: dict[str, _Team] = {}
        self._widths = {"history": _Width(), "model": _Width()}

    def submitted(self, job: Submitted) -> Estimate:
        """A job comes: what is thought of it."""
        team = self._team(job.team)
        features = team.features(job)
        told = self._by_history(job) or self._by_model(features)
        self._running[job.id] = (job, features, told)
        if told is None:
            return UNKNOWN
        width = self._widths[told.source]
        low, high = told.median - width.below * told.below, told.median + width.above * told.above
        return Estimate(math.exp(low), math.exp(told.median), math.exp(min(high, _LONGEST)), told.source)

    def ended(self, job_id: str, duration_s: float) -> None:
        """A job that was submitted ran so long to its end. One that is unknown is passed over."""
        known = self._running.pop(job_id, None)
        if known is None or duration_s <= 0:
            return
        job, features, told = known
        length = math.log(duration_s)
        if told is not None:
            self._widths[told.source].saw(told, length)
        self._kinds[job.team, job.name, job.gpus].append(length)
        self._team(job.team).ended(length)
        self._ended.append((features, length))
        self._since += 1

    def dropped(self, job_id: str) -> None:
        """A job that was submitted will never end: it was cancelled or failed, and tells nothing."""
        self._running.pop(job_id, None)

    def _by_history(self, job: Submitted) -> _Told | None:
        """From jobs of its own kind alone, or None where these are too few or too unlike."""
        past = self._kinds.get((job.team, job.name, job.gpus), ())
        if len(past) < _ENOUGH:
            return None
        told = _told("history", np.quantile(np.array(past), QUANTILES))
        return told if told.below + told.above <= math.log(WIDEST) else None

    def _by_model(self, features: Floats) -> _Told | None:
        """From the model, fitted anew where that is due; None before enough jobs have ended."""
        if self._since >= max(_FIRST_FIT, self._fitted // 4):
            rows, lengths = zip(*self._ended, strict=True)
            self._model.fit(np.stack(rows), np.array(lengths))
            self._fitted, self._since = len(rows), 0
        return _told("model", self._model.predict(features[None])[0]) if self._fitted else None

    def _team(self, name: str) -> _Team:
        team = self._teams.get(name)
        if team is None:
            team = self._teams[name] = _Team(len(self._teams))
        return team


def _told(source: Literal["history", "model"], quantiles: Floats) -> _Told:
    low, median, high = quantiles.tolist()
    return _Told(source, median, max(median - low, _LEAST), max(high - median, _LEAST))


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
    for job in jobs:
        while running and running[0][0] <= job.submit_s:
            _, job_id, duration_s = heapq.heappop(running)
            estimates.ended(job_id, duration_s)
        made.append(estimates.submitted(Submitted(job.id, job.submit_s, job.gpus, job.team)))
        heapq.heappush(running, (job.submit_s + job.duration_s, job.id, job.duration_s))
    low, median, high = (np.array([estimate[part] for estimate in made], dtype=np.float64) for part in range(3))
    return Replayed(low, median, high, tuple(estimate.source for estimate in made))
