"""What share of its servers inference will need until those that are asked back next are there, from what it needed so
far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from quiltwork.cluster.demand import Demand
from quiltwork.core.errors import BadInputError

if TYPE_CHECKING:
    from quiltwork.cluster.estimate.demand import Boosted

QUANTILE = 0.95
STEP_S = 300.0
_DAY_S = 86_400.0
_DAYS = 14
"""Of what was seen, as much is learned from: two weeks."""


class Forecast(Protocol):
    """times, needs : when loans were decided so far (seconds), and the share that was needed then; the present last.
    lead_s : from now until a server is there that is asked back at the next decision. Returns the share that will do
    until then."""

    def __call__(self, times: Sequence[float], needs: Sequence[float], lead_s: float) -> float: ...


def persistent(times: Sequence[float], needs: Sequence[float], lead_s: float) -> float:
    """It stays as it is."""
    return needs[-1]


def rising(
    times: Sequence[float], needs: Sequence[float], lead_s: float, *, day: int = 288, quantile: float = 0.99
) -> float:
    """It rises as fast as it seldom did in the last day (``day`` decisions), and as it does now."""
    if len(needs) < 3:
        return needs[-1]
    steps = np.diff(np.asarray(needs[-day - 1 :]))
    return float(needs[-1] + max(0.0, np.quantile(steps, quantile), steps[-1]))


class LearnedQuantile:
    """As much as is needed at most until then, in ``QUANTILE`` of all cases: by trees that are grown anew each day on
    what was seen before (``estimate.demand.Boosted``); as ``rising`` says until two days were seen. Never less than
    what is needed now.

    One is for one cluster: it is told of the same times again and again, and of some more. What was seen is cut into
    steps of ``step_s`` seconds, of which each counts with the most that was needed in it.
    """

    def __init__(self, *, quantile: float = QUANTILE, step_s: float = STEP_S, seed: int = 0) -> None:
        self._quantile, self._step_s, self._seed = quantile, step_s, seed
        self._share: list[float] = []
        self._taken = 0
        self._day = round(_DAY_S / step_s)
        self._model: Boosted | None = None
        self._fitted: tuple[int, float] = (0, 0.0)
        """Steps that the model has seen, and how far it looks."""

    def __call__(self, times: Sequence[float], needs: Sequence[float], lead_s: float) -> float:
        self._take(times, needs)
        whole = (len(self._share) - 1) // self._day
        if whole < 2:
            return rising(times, needs, lead_s)
        # It brings scipy and scikit-learn, which nobody else here needs.
        from quiltwork.cluster.estimate.demand import LONGEST_S, Boosted

        horizon_s = min(max(lead_s, self._step_s), LONGEST_S)
        if self._model is None or self._fitted != (whole * self._day, horizon_s):
            self._fitted = (whole * self._day, horizon_s)
            self._model = Boosted(quantiles=(self._quantile,), seed=self._seed, longest_s=horizon_s)
            # The step that is not over yet, and those of the day that it is in, are not learned from.
            self._model.fit(self._seen(times[0], max(0, whole - _DAYS) * self._day, whole * self._day))
        seen = self._seen(times[0], len(self._share) - 2 * self._day, len(self._share))
        return max(needs[-1], float(self._model.path(seen, len(seen) - 1, horizon_s).max()))

    def _take(self, times: Sequence[float], needs: Sequence[float]) -> None:
        """Cut what is new into steps; those in which nobody looked are as the one before."""
        for at in range(self._taken, len(times)):
            step = max(int((times[at] - times[0]) // self._step_s), len(self._share) - 1)
            while len(self._share) < step:
                self._share.append(self._share[-1])
            if len(self._share) == step:
                self._share.append(needs[at])
            else:
                self._share[step] = max(self._share[step], needs[at])
        self._taken = len(times)

    def _seen(self, first_s: float, begin: int, end: int) -> Demand:
        steps = np.arange(begin, end, dtype=np.float64)
        return Demand(
            first_s + steps * self._step_s, np.asarray(self._share[begin:end]), np.zeros(len(steps), dtype=np.bool_)
        )


FORECASTS: Mapping[str, Callable[[], Forecast]] = {
    "persistent": lambda: persistent,
    "rising": lambda: rising,
    "quantile": LearnedQuantile,
}
"""Forecasts by name: each call makes one for one cluster, that has learned nothing yet."""


def forecast_named(name: str) -> Forecast:
    """Raises BadInputError for a name that is not one."""
    return FORECASTS[check_forecast(name)]()


def check_forecast(name: str) -> str:
    """``name`` where it is a forecast's. Raises BadInputError."""
    if name not in FORECASTS:
        raise BadInputError(f"{name[:40]!r} is not one of {', '.join(FORECASTS)}", where="forecast")
    return name
