"""How long a job will run, from jobs that have ended: its own kind's history, a model, or nothing.

Whoever schedules says when a job is submitted and when one ends; nothing else is seen, so no estimate knows more than
could be known when it was made.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from quiltwork.cluster.estimate.quantiles import QuantileModel
from quiltwork.cluster.job_trace import Floats

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


class Told(NamedTuple):
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

    def saw(self, told: Told, length: float) -> None:
        self.below *= _step(told.median - length > self.below * told.below, QUANTILES[0])
        self.above *= _step(length - told.median > self.above * told.above, 1 - QUANTILES[2])


def _step(missed: bool, share: float) -> float:
    return math.exp(_RATE * ((1 if missed else 0) - share))


class Past:
    """What jobs that have ended tell of those that come, and the model that is fitted on them."""

    def __init__(self, seed: int, window: int) -> None:
        self._model = QuantileModel(QUANTILES, seed=seed)
        self._since = 0
        self._ended: deque[tuple[Floats, float]] = deque(maxlen=window)
        self._kinds: defaultdict[tuple[str, str, int], deque[float]] = defaultdict(lambda: deque(maxlen=_HISTORY))
        self._teams: dict[str, _Team] = {}
        self.fitted = 0
        """Jobs that the model is fitted on; 0 before there is one."""

    def features(self, job: Submitted) -> Floats:
        """(f,) of a job that comes now, in the order in which jobs come."""
        return self._team(job.team).features(job)

    def learn(self, job: Submitted, features: Floats, length: float) -> None:
        """A job ended after so many seconds, as a logarithm."""
        self._kinds[job.team, job.name, job.gpus].append(length)
        self._team(job.team).ended(length)
        self._ended.append((features, length))
        self._since += 1

    def of_kind(self, job: Submitted) -> Told | None:
        """From jobs of its own kind alone, or None where these are too few or too unlike."""
        past = self._kinds.get((job.team, job.name, job.gpus), ())
        if len(past) < _ENOUGH:
            return None
        told = _told("history", np.quantile(np.array(past), QUANTILES))
        return told if told.below + told.above <= math.log(WIDEST) else None

    @property
    def due(self) -> bool:
        """Whether the model is to be fitted before it is asked again."""
        return self._since >= max(_FIRST_FIT, self.fitted // 4)

    def fit(self) -> None:
        rows, lengths = zip(*self._ended, strict=True)
        self._model.fit(np.stack(rows), np.array(lengths))
        self.fitted, self._since = len(rows), 0

    def by_model(self, features: Sequence[Floats]) -> list[Told]:
        """Of jobs by their features; none where there are none. Whoever asks has looked whether there is a model."""
        return [_told("model", quantiles) for quantiles in self._model.predict(np.stack(features))] if features else []

    def _team(self, name: str) -> _Team:
        team = self._teams.get(name)
        if team is None:
            team = self._teams[name] = _Team(len(self._teams))
        return team


class Widths:
    """How much wider than said the intervals of each source must be."""

    def __init__(self) -> None:
        self._of = {"history": _Width(), "model": _Width()}

    def estimate(self, told: Told | None) -> Estimate:
        if told is None:
            return UNKNOWN
        width = self._of[told.source]
        low, high = told.median - width.below * told.below, told.median + width.above * told.above
        return Estimate(math.exp(low), math.exp(told.median), math.exp(min(high, _LONGEST)), told.source)

    def saw(self, told: Told | None, length: float) -> None:
        if told is not None:
            self._of[told.source].saw(told, length)


class Durations:
    """Estimates of running time that learn from each job that ends.

    window : jobs that the model is fitted on, the last that ended. It is fitted again whenever a quarter as many
    as it was fitted on have ended since.
    """

    def __init__(self, *, seed: int = 0, window: int = 20_000) -> None:
        self._past, self._widths = Past(seed, window), Widths()
        self._running: dict[str, tuple[Submitted, Floats, Told | None]] = {}

    def submitted(self, job: Submitted) -> Estimate:
        """A job comes: what is thought of it."""
        past = self._past
        features = past.features(job)
        told = past.of_kind(job)
        if told is None:
            if past.due:
                past.fit()
            told = past.by_model([features])[0] if past.fitted else None
        self._running[job.id] = (job, features, told)
        return self._widths.estimate(told)

    def ended(self, job_id: str, duration_s: float) -> None:
        """A job that was submitted ran so long to its end. One that is unknown is passed over."""
        known = self._running.pop(job_id, None)
        if known is None or duration_s <= 0:
            return
        job, features, told = known
        length = math.log(duration_s)
        self._widths.saw(told, length)
        self._past.learn(job, features, length)

    def dropped(self, job_id: str) -> None:
        """A job that was submitted will never end: it was cancelled or failed, and tells nothing."""
        self._running.pop(job_id, None)


def _told(source: Literal["history", "model"], quantiles: Floats) -> Told:
    low, median, high = quantiles.tolist()
    return Told(source, median, max(median - low, _LEAST), max(high - median, _LEAST))


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
