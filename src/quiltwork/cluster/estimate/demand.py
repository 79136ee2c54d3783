"""How many servers inference will need, as quantiles over the minutes to come.

Three forecasters of one shape: fitted on a series up to some time, then asked about what comes after any later time,
seeing the series up to then. Times are steps of the series, evenly spaced.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from quiltwork.cluster.demand import Demand
from quiltwork.cluster.estimate.quantiles import QuantileModel
from quiltwork.cluster.job_trace import Floats, Ints
from quiltwork.core.errors import BadInputError

QUANTILES = (0.05, 0.5, 0.95)
LONGEST_S = 7200.0
_DAY = 86400.0
_LAGS_S = (0.0, 600.0, 1200.0, 1800.0, 3600.0, 7200.0)


class Forecaster(Protocol):
    """Says what share of the servers is needed after a time, having seen the series up to that time."""

    quantiles: tuple[float, ...]

    def fit(self, past: Demand) -> None:
        """Learn from a series. Raises BadInputError where it is too short."""
        ...

    def forecast(self, seen: Demand, now: Ints, horizon_s: float) -> Floats:
        """The shares needed ``horizon_s`` after each of the times at positions ``now``: (n, quantiles).

        Of ``seen`` only what is at and before each position is looked at. Raises BadInputError for a horizon that is
        not above 0, or longer than two hours, and for a position before the second day.
        """
        ...


class Persistence:
    """What is needed now, and how far that was off so far; or what was needed at the same time a day before."""

    def __init__(self, *, seasonal: bool = False, quantiles: Sequence[float] = QUANTILES) -> None:
        self.quantiles = tuple(quantiles)
        self._seasonal = seasonal
        self._past: Demand | None = None

    def fit(self, past: Demand) -> None:
        _day(past)
        self._past = past

    def forecast(self, seen: Demand, now: Ints, horizon_s: float) -> Floats:
        if self._past is None:
            raise BadInputError("was not fitted", where="forecast")
        ahead = _ahead(seen, now, horizon_s)
        day = _day(seen)
        past = np.arange(day, len(self._past) - ahead)
        off = self._past.share[past + ahead] - self._say(self._past, past, ahead, day)
        return np.clip(self._say(seen, now, ahead, day)[:, None] + np.quantile(off, self.quantiles), 0, 1)

    def _say(self, seen: Demand, now: Ints, ahead: int, day: int) -> Floats:
        return seen.share[now + ahead - day] if self._seasonal else seen.share[now]


class Boosted:
    """Quantile trees on what was needed lately, a day before, and the time of day.

    calibration : the share of the series' end that the trees are not grown on, but by which each quantile is moved to
    where it should have been. longest_s : it looks so far ahead.
    """

    def __init__(
        self,
        *,
        quantiles: Sequence[float] = QUANTILES,
        calibration: float = 0.2,
        seed: int = 0,
        longest_s: float = LONGEST_S,
    ) -> None:
        self.quantiles = tuple(quantiles)
        self._longest_s = longest_s
        self._calibration = calibration
        self._model = QuantileModel(quantiles, seed=seed)
        self._moves: dict[int, Floats] = {}

    def fit(self, past: Demand) -> None:
        day = _day(past)
        longest = math.ceil(self._longest_s / past.step_s)
        cut = len(past) - math.floor(self._calibration * (len(past) - day))
        steps = range(1, longest + 1)
        rows, targets = zip(*(_examples(past, np.arange(day, cut - ahead), ahead) for ahead in steps), strict=True)
        self._model.fit(np.concatenate(rows), np.concatenate(targets))
        self._moves = {ahead: np.zeros(len(self.quantiles)) for ahead in steps}
        for ahead in steps:
            features, target = _examples(past, np.arange(cut, len(past) - ahead), ahead)
            if len(target):
                off = target[:, None] - self._model.predict(features)
                self._moves[ahead] = np.array([np.quantile(off[:, k], q) for k, q in enumerate(self.quantiles)])

    def forecast(self, seen: Demand, now: Ints, horizon_s: float) -> Floats:
        ahead = self._steps_ahead(seen, now, horizon_s)
        change = self._model.predict(_features(seen, now, ahead)) + self._moves[ahead]
        return np.clip(np.sort(seen.share[now][:, None] + change, axis=1), 0, 1)

    def path(self, seen: Demand, now: int, horizon_s: float) -> Floats:
        """The shares needed at each step up to ``horizon_s`` after the one at position ``now``: (steps, quantiles).
        Raises what ``forecast`` raises."""
        at = np.array([now])
        steps = range(1, self._steps_ahead(seen, at, horizon_s) + 1)
        features = np.concatenate([_features(seen, at, ahead) for ahead in steps])
        change = self._model.predict(features) + np.stack([self._moves[ahead] for ahead in steps])
        said: Floats = np.clip(np.sort(seen.share[now] + change, axis=1), 0, 1)
        return said

    def _steps_ahead(self, seen: Demand, now: Ints, horizon_s: float) -> int:
        if not self._moves:
            raise BadInputError("was not fitted", where="forecast")
        ahead = _ahead(seen, now, horizon_s)
        if ahead not in self._moves:
            raise BadInputError(f"was fitted for {self._longest_s:g} s", where="horizon")
        return ahead


def _examples(past: Demand, now: Ints, ahead: int) -> tuple[Floats, Floats]:
    """Features and how much more is needed so many steps later than now."""
    return _features(past, now, ahead), past.share[now + ahead] - past.share[now]


def _features(seen: Demand, now: Ints, ahead: int) -> Floats:
    """(n, f), from what is at and before each position; a day has been seen before each."""
    day = _day(seen)
    share = seen.share
    level = share[now]
    lags = [share[now - _steps(seen, lag)] - level for lag in _LAGS_S[1:]]
    before = [share[now + ahead - day + more] - share[now - day] for more in (-_steps(seen, 600.0), 0)]
    later = np.minimum(now + ahead - day + _steps(seen, 600.0), now)
    before.append(share[later] - share[now - day])
    hour = (seen.t_s[now] + ahead * seen.step_s) % _DAY / 3600
    columns = [np.full(len(now), float(ahead)), level, *lags, *before, share[now - day] - level, hour]
    return np.stack(columns, axis=1)


def _steps(seen: Demand, seconds: float) -> int:
    return round(seconds / seen.step_s)


def _day(seen: Demand) -> int:
    """The steps of a day. Raises BadInputError where the series has less than two."""
    day = _steps(seen, _DAY)
    if len(seen) < 2 * day:
        raise BadInputError("spans less than two days", where="demand")
    return day


def _ahead(seen: Demand, now: Ints, horizon_s: float) -> int:
    if not 0 < horizon_s <= LONGEST_S:
        raise BadInputError(f"{horizon_s} s is not above 0 and up to {LONGEST_S:.0f} s", where="horizon")
    if len(now) and now.min() < _steps(seen, _DAY):
        raise BadInputError("a day must have been seen before", where="forecast")
    return math.ceil(horizon_s / seen.step_s)


def scored_at(series: Demand, begin_s: float, horizon_s: float) -> npt.NDArray[np.int64]:
    """Positions from which a forecast may be scored: from ``begin_s``, where what comes is neither past the end nor a
    repetition, nor is anything between."""
    ahead = _ahead(series, np.array([], dtype=np.int64), horizon_s)
    now = np.arange(len(series) - ahead)
    return now[(series.t_s[now] >= begin_s) & ~series.extended[now + ahead]]
