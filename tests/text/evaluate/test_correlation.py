"""Correlations, their intervals, and differences of two: against SciPy, and on cases whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.core.errors import BadInputError
from quiltwork.text.evaluate.correlation import auc, interval, paired_delta, pearson, spearman

pytest.importorskip("scipy")


def noisy(n, noise, seed):
    chance = np.random.default_rng(seed)
    gold = chance.uniform(0, 4, n)
    return gold, gold + noise * chance.normal(size=n)


def test_both_are_what_scipy_says():
    from scipy.stats import pearsonr, spearmanr

    gold, scores = noisy(60, 1.0, 0)
    gold = np.round(gold)  # with ties
    assert pearson(scores, gold) == pytest.approx(pearsonr(scores, gold).statistic, abs=1e-12)
    assert spearman(scores, gold) == pytest.approx(spearmanr(scores, gold).statistic, abs=1e-12)


def test_ranks_see_only_the_order():
    gold, scores = noisy(40, 0.5, 1)
    assert spearman(np.exp(scores), gold) == pytest.approx(spearman(scores, gold))
    assert pearson(3 * scores - 7, gold) == pytest.approx(pearson(scores, gold))


def test_what_does_not_vary_has_no_correlation():
    assert np.isnan(pearson(np.full(5, 0.1), np.arange(5.0)))


@pytest.mark.parametrize("wrong", [[1.0, np.nan, 2.0], [1.0, 2.0], [1.0, 2.0, 3.0, 4.0]])
def test_what_cannot_be_correlated_is_refused(wrong):
    with pytest.raises(BadInputError, match="correlation"):
        pearson(np.array(wrong), np.arange(3.0))


def test_an_interval_holds_the_true_correlation_about_as_often_as_it_says():
    truth = 1 / np.sqrt(2)
    hits = 0
    for seed in range(60):
        chance = np.random.default_rng(seed)
        a = chance.normal(size=80)
        found = interval(a, a + chance.normal(size=80), seed=0, resamples=400)
        hits += found.interval.contains(truth)
    assert 50 <= hits <= 60


def test_the_same_seed_gives_the_same_interval_however_many_are_drawn_at_once(monkeypatch):
    gold, scores = noisy(50, 1.0, 2)
    once = interval(scores, gold, seed=3, resamples=300)
    monkeypatch.setattr("quiltwork.text.evaluate.correlation._AT_ONCE", 50 * 7)
    assert interval(scores, gold, seed=3, resamples=300) == once
    assert interval(scores, gold, seed=4, resamples=300) != once


def test_pairs_are_drawn_for_both_at_once():
    gold, scores = noisy(50, 1.0, 5)
    same = paired_delta(scores, scores, gold, seed=0, resamples=300)
    assert (same.value, same.interval.low, same.interval.high) == (0.0, 0.0, 0.0)
    better = paired_delta(gold + 0.01 * scores, scores, gold, seed=0, resamples=300)
    assert better.interval.low > 0
    assert better.value == pytest.approx(pearson(gold + 0.01 * scores, gold) - pearson(scores, gold))


def test_a_difference_of_nothing_but_chance_has_zero_in_its_interval():
    gold, _ = noisy(100, 1.0, 6)
    chance = np.random.default_rng(7)
    one, other = (gold + chance.normal(size=100) for _ in range(2))
    assert paired_delta(one, other, gold, seed=0, resamples=500).interval.contains(0.0)


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=12),
    st.lists(st.integers(0, 5), min_size=1, max_size=12),
)
def test_auc_counts_the_pairs_in_right_order(positive, negative):
    counted = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
    assert auc(np.array(positive, float), np.array(negative, float)) == pytest.approx(np.mean(counted))


def test_auc_of_nothing_is_refused():
    with pytest.raises(BadInputError, match="0 scores against 1"):
        auc(np.array([]), np.array([1.0]))
