"""The three ways to judge a fitted hybrid, on made-up scores and on the authors' own scores of BIOSSES."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from quiltwork.core.errors import BadInputError
from quiltwork.text.evaluate.correlation import pearson
from quiltwork.text.evaluate.gold import read_biosses
from quiltwork.text.evaluate.protocols import held_out, judged, stratified

pytest.importorskip("scipy")


def drawn(n, k, seed, noise):
    chance = np.random.default_rng(seed)
    gold = chance.uniform(0, 4, n)
    return gold[:, None] / 4 + noise * chance.normal(size=(n, k)), gold


@pytest.mark.parametrize("n", [100, 171, 37])
def test_every_fold_has_its_share_of_every_level(n):
    gold = np.repeat(np.arange(5.0), -(-n // 5))[:n]
    folds = stratified(gold, 0)
    counts = np.bincount(folds, minlength=10)
    assert counts.max() - counts.min() <= 1
    order = np.argsort(gold, kind="stable")
    means = [gold[folds == f].mean() for f in range(10)]
    assert np.ptp(means) < 1
    assert sorted(order) == list(range(n))
    assert (stratified(gold, 0) == folds).all()
    assert (stratified(gold, 1) != folds).any()


def test_no_pair_is_rated_by_a_regression_that_has_seen_it():
    scores, gold = drawn(40, 2, 0, 0.1)
    folds = stratified(gold, 0)
    before = held_out("ab", scores, gold, folds, 0.0)
    changed = gold.copy()
    changed[folds == 3] = 4 - changed[folds == 3]
    after = held_out("ab", scores, changed, folds, 0.0)
    assert (before[folds == 3] == after[folds == 3]).all()
    assert (before[folds != 3] != after[folds != 3]).any()


def test_what_fits_noise_is_pointed_at():
    scores, gold = drawn(60, 12, 1, 1.0)
    noisy = judged("abcdefghijkl", scores, gold, seeds=range(5))
    assert noisy.overfitted
    assert noisy.in_sample > noisy.pooled.mean
    scores, gold = drawn(200, 1, 2, 0.1)
    assert not judged("a", scores, gold, seeds=range(5)).overfitted


def test_transfer_is_the_correlation_of_ratings_fitted_elsewhere():
    scores, gold = drawn(60, 1, 3, 0.1)
    found = judged("a", scores, gold, seeds=[0], other=drawn(80, 1, 4, 0.1))
    # One score with a positive weight: whatever the fit, the correlation is the score's own, but for the scale's ends.
    assert found.transfer == pytest.approx(pearson(scores[:, 0], gold), abs=0.02)
    assert judged("a", scores, gold, seeds=[0]).transfer is None


def test_too_few_pairs_for_ten_folds_are_refused():
    with pytest.raises(BadInputError, match="29 pairs in 10 folds"):
        judged("a", *drawn(29, 1, 0, 0.1), seeds=[0])


@pytest.mark.realdata
def test_the_papers_supervised_figure_is_of_the_first_kind(data_dir):
    """On the six scores that Blagec et al. name, P1 is about their .871, and no figure on pairs left out is."""
    with (data_dir / "text" / "biosses" / "sentences-and-calculated-similarities.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = ["Jaccard", "Qgram", "Sent2vec", "PV-DM", "Skip-thoughts", "Skip-gram max pooling"]
    scores = np.array([[float(row[name]) for name in names] for row in rows])
    found = judged(names, scores, read_biosses(data_dir / "text").gold, seeds=range(12))
    assert found.fold_means.mean == pytest.approx(0.863, abs=0.006)
    assert found.pooled.mean == pytest.approx(0.8425, abs=0.004)
    assert found.leave_one_out == pytest.approx(0.842, abs=0.002)
    assert found.in_sample == pytest.approx(0.8655, abs=0.002)
    assert found.overfitted
