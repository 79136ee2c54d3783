"""What a report draws agrees with the figures that are computed otherwise."""

import base64
import zlib

import numpy as np
import pytest
from small_clusters import job, run
from small_studies import small_study

from quiltwork.cluster.log import Action
from quiltwork.cluster.policy.rules import rules_named
from quiltwork.cluster.server import Pool, Server
from quiltwork.cluster.simulate.metrics import lives, metrics
from quiltwork.cluster.simulate.simulation import simulate
from quiltwork.cluster.study.series import BINS, MOST_ROWS, Window, shares_within, story_of
from quiltwork.cluster.study.study import world_of


def cells(story):
    packed = zlib.decompress(base64.b64decode(story["servers"]["cells"]))
    return np.frombuffer(packed, dtype=np.uint8).reshape(len(story["servers"]["names"]), story["bins"])


def test_a_bin_holds_the_mean_of_what_changes_within_it():
    window = Window(100.0, 10.0, 4)
    times, deltas = np.array([0.0, 105.0, 130.0, 200.0]), np.array([2.0, 4.0, -6.0, 9.0])
    assert window.means(times, deltas).tolist() == [4.0, 6.0, 6.0, 0.0]
    assert window.sums(times, deltas).tolist() == [4.0, 0.0, 0.0, -6.0]
    both = window.grid(np.array([0, 1, 1, 0]), times, deltas, 2)
    assert both.tolist() == [[2.0] * 4, [2.0, 4.0, 4.0, -2.0]]


def test_shares_within_rise_to_one():
    shares = shares_within(np.array([0.0, 1.0, 10.0, 1e12]))
    assert (shares[0], shares[19], shares[20], shares[-1]) == (0.5, 0.5, 0.75, 0.75)


@pytest.fixture
def busy(tmp_path):
    world = world_of(small_study(tmp_path))
    return simulate(world.servers, world.jobs, rules_named("lyra"), need=world.need, settings=world.settings)


def test_pools_over_time_are_the_usage_of_the_metrics(busy):
    story = story_of(busy, days=15)
    told = metrics(busy, days=15)
    own, lent, need = (np.mean(story[name]) for name in ("own", "lent", "need"))
    assert own / story["train_gpus"] == pytest.approx(told.usage_train, abs=2e-3)
    assert (own + lent + need) / (story["train_gpus"] + story["infer_gpus"]) == pytest.approx(told.usage_all, abs=2e-3)
    assert sum(story["lends"]) == told.loans
    assert sum(story["preempted"]) == told.preemptions
    assert sum(story["asked_back"]) == sum(row.after for row in busy if row.action is Action.RECLAIM)
    jobs = lives(busy)
    assert np.mean(story["waiting"]) * BINS * story["bin_s"] == pytest.approx(sum(jobs.waits), rel=0.01)
    assert story["queue"][0] == pytest.approx(np.mean(np.array(jobs.queues) <= 1), abs=1e-5)


def test_each_servers_row_adds_up_to_its_pool(busy):
    story = story_of(busy, days=15)
    grid = cells(story).astype(float)
    train = np.array([pool == "train" for pool in story["servers"]["pools"]])
    assert train.tolist() == [True] * 2 + [False] * 4
    assert grid[train].mean() / 255 == pytest.approx(np.mean(story["own"]) / story["train_gpus"], abs=5e-3)
    lent = grid[~train] // 16 / 15
    assert lent.mean() == pytest.approx(np.mean(story["on_loan"]) / story["infer_gpus"], abs=1e-2)
    used = lent * (grid[~train] % 16 / 15)
    assert used.mean() == pytest.approx(np.mean(story["lent"]) / story["infer_gpus"], abs=2e-2)


def test_many_servers_are_drawn_several_in_a_row():
    servers = [Server(f"t{i}", "V100", 8, Pool.TRAIN) for i in range(1000)]
    log = simulate(servers, [job("a", 0, 100, 8000)], rules_named("fifo"))
    story = story_of(log, days=15)
    assert len(story["servers"]["names"]) <= MOST_ROWS
    assert story["servers"]["names"][0] == "t0 to t4"
    assert (cells(story) == 255).all()


def test_what_lies_beyond_the_days_that_are_told_is_left_out():
    log = run([job("a", 0, 100, 8), job("b", 50, 100, 8)], "fifo")
    story = story_of(log, days=100 / 86_400)
    assert (story["bin_s"] * BINS, story["end_s"]) == (pytest.approx(100), 200)
    assert set(story["own"]) == {8}
    assert np.mean(story["waiting"]) == pytest.approx(0.5)
    assert story["infer_gpus"] == 0
