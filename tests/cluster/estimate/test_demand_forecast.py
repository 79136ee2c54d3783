"""Forecasts of the servers that inference will need."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from quiltwork.cluster.demand import Demand, read_demand
from quiltwork.cluster.estimate.demand import Boosted, Persistence, scored_at
from quiltwork.cluster.estimate.score import score_demand
from quiltwork.core.errors import BadInputError

STEP = 300.0
DAY = 288


def waves(days, seed=0, noise=0.01):
    """Day and night, some days higher than others."""
    t = np.arange(days * DAY) * STEP
    rng = np.random.default_rng(seed)
    height = rng.uniform(0.15, 0.3, days).repeat(DAY)
    share = 0.5 + height * np.sin(2 * np.pi * t / 86400) + rng.normal(0, noise, len(t))
    return Demand(t, np.clip(share, 0, 1), np.zeros(len(t), dtype=bool))


FORECASTERS = [Persistence, lambda: Persistence(seasonal=True), pytest.param(Boosted, marks=pytest.mark.slow)]


@pytest.mark.parametrize("make", FORECASTERS)
def test_quantiles_rise_and_are_shares(make):
    series = waves(5)
    forecaster = make()
    forecaster.fit(series.before(4 * DAY))
    said = forecaster.forecast(series, np.arange(4 * DAY, 5 * DAY - 24), 3600.0)
    assert said.shape == (DAY - 24, 3)
    assert np.all(np.diff(said, axis=1) >= 0)
    assert said.min() >= 0
    assert said.max() <= 1


@pytest.mark.parametrize("make", FORECASTERS)
def test_a_forecast_hangs_on_nothing_that_comes_later(make):
    series = waves(5)
    changed = replace(series, share=np.where(np.arange(len(series)) > 4 * DAY + 50, 0.0, series.share))
    forecaster = make()
    forecaster.fit(series.before(4 * DAY))
    for horizon_s in (300.0, 1200.0, 7200.0):
        now = np.array([4 * DAY, 4 * DAY + 50])
        np.testing.assert_array_equal(
            forecaster.forecast(series, now, horizon_s), forecaster.forecast(changed, now, horizon_s)
        )


@pytest.mark.parametrize("make", FORECASTERS)
def test_a_forecast_needs_no_more_than_what_was_seen(make):
    series = waves(5)
    forecaster = make()
    forecaster.fit(series.before(4 * DAY))
    now = np.array([4 * DAY + 50])
    seen = series.before(4 * DAY + 51)
    np.testing.assert_array_equal(forecaster.forecast(seen, now, 7200.0), forecaster.forecast(series, now, 7200.0))


@pytest.mark.slow
def test_the_model_beats_both_baselines_where_days_repeat_with_other_heights():
    scores = {(s.forecaster, s.horizon_s): s for s in score_demand(waves(9), fit_days=7, horizons_s=(3600.0, 7200.0))}
    for horizon_s in (3600.0, 7200.0):
        model = scores["boosted quantiles", horizon_s]
        assert 0.75 < model.coverage <= 1
        assert model.pinball < scores["last value", horizon_s].pinball
        assert model.pinball < scores["seasonal naive", horizon_s].pinball


def test_nothing_is_scored_where_the_series_repeats_itself():
    series = waves(4)
    series = replace(series, extended=np.arange(len(series)) >= 3 * DAY)
    now = scored_at(series, 2 * 86400.0, 1800.0)
    assert (now.min(), now.max()) == (2 * DAY, 3 * DAY - 7)


def test_horizons_that_are_known_from_their_neighbours_are_not_scored():
    with pytest.raises(BadInputError, match=r"horizons: 600\.0 s is less than 1200 s"):
        score_demand(waves(4), fit_days=3, horizons_s=(600.0,))


@pytest.mark.parametrize("horizon_s", [0.0, -5.0, 7201.0, float("nan")])
def test_horizons_out_of_range_are_refused(horizon_s):
    forecaster = Persistence()
    forecaster.fit(waves(3))
    with pytest.raises(BadInputError, match="horizon"):
        forecaster.forecast(waves(3), np.array([2 * DAY]), horizon_s)


@pytest.mark.parametrize("make", FORECASTERS)
def test_what_was_not_fitted_or_seen_for_a_day_cannot_be_asked(make):
    with pytest.raises(BadInputError, match="was not fitted"):
        make().forecast(waves(3), np.array([2 * DAY]), 1200.0)
    with pytest.raises(BadInputError, match="spans less than two days"):
        make().fit(waves(1))
    forecaster = make()
    forecaster.fit(waves(4))
    with pytest.raises(BadInputError, match="a day must have been seen"):
        forecaster.forecast(waves(4), np.array([5]), 1200.0)


@pytest.mark.realdata
@pytest.mark.slow
def test_forecasts_of_the_published_series_beat_both_baselines(data_dir):
    series = read_demand(data_dir / "cluster/inference/inference_demand_5min_15d.csv.gz", "m-small")
    horizons = (1200.0, 1800.0, 3600.0, 7200.0)
    scores = {(s.forecaster, s.horizon_s): s for s in score_demand(series, fit_days=10, horizons_s=horizons)}
    for horizon_s in horizons:
        model = scores["boosted quantiles", horizon_s]
        assert model.pinball < min(scores[name, horizon_s].pinball for name in ("last value", "seasonal naive"))
        assert 0.8 < model.coverage < 0.98
