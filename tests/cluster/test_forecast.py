"""What inference will need until servers that are asked back are there."""

from __future__ import annotations

import numpy as np
import pytest

from quiltwork.cluster.demand import read_demand
from quiltwork.cluster.estimate.score import score_forecast
from quiltwork.cluster.forecast import FORECASTS, LearnedQuantile, forecast_named, persistent, rising
from quiltwork.cluster.log import Action
from quiltwork.cluster.policy.rules import rules_named
from quiltwork.cluster.scheduler import Scheduler
from quiltwork.cluster.server import Pool, Server
from quiltwork.cluster.simulate.settings import Settings
from quiltwork.cluster.state import Cluster
from quiltwork.core.errors import BadInputError

STEP, DAY = 1800.0, 48


def waves(days, seed=0):
    """Day and night, every half hour."""
    t = np.arange(days * DAY) * STEP
    noise = np.random.default_rng(seed).normal(0, 0.01, len(t))
    return t.tolist(), np.clip(0.5 + 0.3 * np.sin(2 * np.pi * t / 86_400) + noise, 0, 1).tolist()


def asked(forecast, times, needs, begin, end, lead_s=3600.0):
    return [forecast(times[: at + 1], needs[: at + 1], lead_s) for at in range(begin, end)]


def test_a_name_that_is_none_is_answered_with_those_that_are():
    with pytest.raises(BadInputError, match="'clear' is not one of persistent, rising, quantile"):
        forecast_named("clear")
    with pytest.raises(BadInputError, match="is not one of"):
        Settings(forecast="clear")
    assert all(forecast_named(name)([0.0], [0.3], 60.0) == 0.3 for name in FORECASTS)


def test_until_two_days_were_seen_nothing_was_learned():
    times, needs = waves(2)
    learned = LearnedQuantile(step_s=STEP)
    assert asked(learned, times, needs, 0, 2 * DAY) == asked(rising, times, needs, 0, 2 * DAY)


@pytest.mark.slow
def test_it_knows_the_morning_and_hangs_on_nothing_that_comes_later():
    times, needs = waves(6)
    said = asked(LearnedQuantile(step_s=STEP), times, needs, 0, 5 * DAY)
    other = [*needs[: 4 * DAY], *[0.0] * (2 * DAY)]
    assert asked(LearnedQuantile(step_s=STEP), times, other, 0, 4 * DAY) == said[: 4 * DAY]
    assert all(say >= needed for say, needed in zip(said, needs, strict=False))
    held = kept = 0
    for at in range(3 * DAY, 5 * DAY):
        held += max(needs[at : at + 3]) <= said[at]
        kept += max(needs[at : at + 3]) <= persistent(times[: at + 1], needs[: at + 1], 3600.0)
    assert held > 0.85 * 2 * DAY > kept
    # In the evening, when need falls, it keeps hardly more than what is needed now.
    falling = range(4 * DAY + 14, 4 * DAY + 34)
    assert np.mean([said[at] - needs[at] for at in falling]) < 0.03


@pytest.mark.slow
def test_a_controller_that_comes_back_knows_what_was_needed_before():
    """From the log: the same forecast as one that was there all the time, hours without anybody included."""
    times, needs = waves(4)
    del times[DAY : DAY + 9], needs[DAY : DAY + 9]
    servers = [Server("t", "V100", 1, Pool.TRAIN), *[Server(f"i{n}", "V100", 1, Pool.INFER) for n in range(10)]]
    seen = []

    def scheduler_of(cluster):
        made = LearnedQuantile(step_s=STEP)

        def forecast(times, needs, lead_s):
            seen.append(made(times, needs, lead_s))
            return seen[-1]

        return Scheduler(cluster, rules_named("lyra"), forecast=forecast, loans_every_s=STEP, return_s=STEP)

    cluster = Cluster(servers, ("V100",))
    scheduler = scheduler_of(cluster)
    for now, need in zip(times, needs, strict=True):
        scheduler.loans(now, need)
        cluster.note(Action.NEED, cost=need * 10, gain=need * 10)
    again = Cluster(servers, ("V100",))
    again.replay(cluster.log[len(servers) :], {})
    for each in (scheduler, scheduler_of(again)):
        each.loans(times[-1] + STEP, 0.5)
    assert seen[-1] == pytest.approx(seen[-2])
    assert seen[-1] > 0.5


@pytest.mark.realdata
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_on_the_published_series_it_holds_as_often_as_it_says(data_dir):
    series = read_demand(data_dir / "cluster/inference/inference_demand_5min_15d.csv.gz", "m-small").before(8 * 288)
    with pytest.raises(BadInputError, match="horizon"):
        score_forecast(series, persistent, begin_s=3 * 86_400.0, lead_s=600.0)
    learned = score_forecast(series, LearnedQuantile(), begin_s=3 * 86_400.0, lead_s=1500.0)
    still = score_forecast(series, persistent, begin_s=3 * 86_400.0, lead_s=1500.0)
    assert learned.times == still.times == 5 * 288 - 5
    assert still.held < 0.5
    assert 0.88 < learned.held < 0.99
    assert learned.kept < 0.1
