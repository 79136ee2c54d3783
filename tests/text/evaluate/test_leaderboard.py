"""Ranks that the pairs bear out, and none that they do not."""

from __future__ import annotations

import numpy as np
import pytest

from quiltwork.core.errors import BadInputError
from quiltwork.text.evaluate.correlation import interval, paired_delta
from quiltwork.text.evaluate.leaderboard import leaderboard

pytest.importorskip("scipy")


@pytest.fixture
def said():
    chance = np.random.default_rng(0)
    gold = chance.uniform(0, 4, 100)
    noise = {name: chance.normal(size=100) for name in "abc"}
    return gold, {"good": gold + 0.3 * noise["a"], "as good": gold + 0.31 * noise["b"], "bad": gold + 4 * noise["c"]}


def test_what_the_pairs_cannot_tell_apart_shares_a_rank(said):
    gold, scores = said
    lines = leaderboard(scores, gold, seed=0, resamples=500)
    assert {line.name: line.rank for line in lines} == {"good": 1, "as good": 1, "bad": 3}
    assert [line.r.value for line in lines] == sorted((line.r.value for line in lines), reverse=True)


def test_intervals_and_differences_are_those_of_each_alone(said):
    gold, scores = said
    lines = {line.name: line for line in leaderboard(scores, gold, seed=5, baselines=["bad"], resamples=300)}
    assert lines["good"].r == interval(scores["good"], gold, seed=5, resamples=300)
    assert lines["good"].deltas["bad"] == paired_delta(scores["good"], scores["bad"], gold, seed=5, resamples=300)
    assert "bad" not in lines["bad"].deltas


def test_pairs_of_which_nothing_is_said_count_as_nothing_alike_and_are_counted(said):
    gold, scores = said
    holed = scores["good"].copy()
    holed[:7] = np.nan
    (line,) = leaderboard({"holed": holed}, gold, seed=0, resamples=50)
    assert line.unscored == 7
    (filled,) = leaderboard({"holed": np.nan_to_num(holed)}, gold, seed=0, resamples=50)
    assert line.r == filled.r


def test_what_cannot_be_ranked_is_refused(said):
    gold, scores = said
    with pytest.raises(BadInputError, match="'best' is not among good"):
        leaderboard(scores, gold, seed=0, baselines=["best"])
    with pytest.raises(BadInputError, match="flat: says the same of all pairs"):
        leaderboard(scores | {"flat": np.ones(100)}, gold, seed=0)
