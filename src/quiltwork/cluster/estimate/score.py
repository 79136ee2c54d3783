"""How good estimates were: what they said against what came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from quiltwork.cluster.demand import Demand
from quiltwork.cluster.estimate import durations
from quiltwork.cluster.estimate.demand import Boosted, Forecaster, Persistence, scored_at
from quiltwork.cluster.estimate.quantiles import coverage, pinball
from quiltwork.cluster.estimate.replaying import Replayed
from quiltwork.cluster.forecast import Forecast
from quiltwork.cluster.job_trace import Floats
from quiltwork.core.errors import BadInputError

SHORTEST_S = 1200.0
"""Demand may hold values interpolated between windows of 10 minutes and smoothed over three: a nearer one is known
from its neighbours, which is no forecast."""


@dataclass(frozen=True)
class Score:
    """coverage : share between the lowest and the highest quantile. pinball : mean over quantiles."""

    coverage: float
    pinball: float
    rank: float
    """Spearman's correlation of the median with what came."""
    told: float
    """The share of jobs that there was an estimate for, narrow enough to order by."""
    jobs: int


def score_durations(actual: Floats, made: Replayed) -> Score:
    """Of estimates of running time (n,), where there were any. Pinball in natural logarithms, so that being twice too
    long counts the same for a short job as for a long one."""
    from scipy.stats import spearmanr

    some = np.isfinite(made.high)
    if np.count_nonzero(some) < 2:
        raise BadInputError("there are fewer than two estimates", where="score")
    length, parts = np.log(actual[some]), [np.log(part[some]) for part in (made.low, made.median, made.high)]
    loss = np.mean([pinball(length, part, q) for part, q in zip(parts, durations.QUANTILES, strict=True)])
    return Score(
        coverage(length, parts[0], parts[2]),
        float(loss),
        float(spearmanr(parts[1], length).statistic),
        float(np.mean(some & (made.high <= durations.WIDEST * made.low))),
        int(np.count_nonzero(some)),
    )


@dataclass(frozen=True)
class DemandScore:
    """One forecaster at one horizon; pinball as a share of the fleet, mean over quantiles."""

    forecaster: str
    horizon_s: float
    coverage: float
    pinball: float
    times: int


def forecasters(seed: int = 0) -> Mapping[str, Forecaster]:
    """The model, and what it must beat."""
    return {
        "last value": Persistence(),
        "seasonal naive": Persistence(seasonal=True),
        "boosted quantiles": Boosted(seed=seed),
    }


def score_demand(
    series: Demand, *, fit_days: float, horizons_s: Sequence[float], among: Mapping[str, Forecaster] | None = None
) -> list[DemandScore]:
    """Each forecaster at each horizon, fitted on the first days and asked at every later time.

    Raises BadInputError for a horizon below ``SHORTEST_S`` and where nothing is left to score.
    """
    near = [horizon for horizon in horizons_s if horizon < SHORTEST_S]
    if near:
        raise BadInputError(f"{near[0]} s is less than {SHORTEST_S:.0f} s", where="horizons")
    begin_s = float(series.t_s[0]) + fit_days * 86400
    past = series.before(int(np.searchsorted(series.t_s, begin_s)))
    scores = []
    for name, forecaster in (forecasters() if among is None else among).items():
        forecaster.fit(past)
        for horizon_s in horizons_s:
            now = scored_at(series, begin_s, horizon_s)
            if not len(now):
                raise BadInputError("nothing is left to score", where="demand")
            said = forecaster.forecast(series, now, horizon_s)
            came = series.share[now + int(np.ceil(horizon_s / series.step_s))]
            loss = np.mean([pinball(came, said[:, k], q) for k, q in enumerate(forecaster.quantiles)])
            scores.append(DemandScore(name, horizon_s, coverage(came, said[:, 0], said[:, -1]), float(loss), len(now)))
    return scores


@dataclass(frozen=True)
class HeldScore:
    """A forecast as loans use it. held : the share of times at which no more was needed until ``lead_s`` later than it
    said. kept : what it said beyond the need of that time, on average, as a share of the fleet."""

    lead_s: float
    held: float
    kept: float
    times: int


def score_forecast(series: Demand, forecast: Forecast, *, begin_s: float, lead_s: float) -> HeldScore:
    """One forecast, asked at every time of a series as it comes, scored from ``begin_s`` on, and where the series does
    not repeat itself.

    Raises BadInputError for a lead below ``SHORTEST_S`` and where nothing is left to score.
    """
    if lead_s < SHORTEST_S:
        raise BadInputError(f"{lead_s} s is less than {SHORTEST_S:.0f} s", where="horizons")
    scored = {int(at) for at in scored_at(series, begin_s, lead_s)}
    if not scored:
        raise BadInputError("nothing is left to score", where="demand")
    ahead = int(np.ceil(lead_s / series.step_s))
    times, shares = series.t_s.tolist(), series.share.tolist()
    held, kept = 0, 0.0
    for at in range(max(scored) + 1):
        said = forecast(times[: at + 1], shares[: at + 1], lead_s)
        if at in scored:
            held += max(shares[at : at + ahead + 1]) <= said
            kept += said - shares[at]
    return HeldScore(lead_s, held / len(scored), kept / len(scored), len(scored))
