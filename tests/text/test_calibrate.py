"""Ratings with intervals: that they rise, cover what they promise on pairs like those of the fit, and are kept."""

from __future__ import annotations

import json

import numpy as np
import pytest

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.text.calibrate import (
    Calibration,
    _rank,
    fit_calibration,
    load_calibration,
    save_calibration,
    shipped_calibration,
)
from quiltwork.text.evaluate.candidates import words
from quiltwork.text.evaluate.gold import read_ctr


def said(n, seed, noise=0.5):
    """Scores from 0 to 1 and what people say: more for larger ones, with ``noise``, on the scale."""
    chance = np.random.default_rng(seed)
    scores = chance.uniform(size=n)
    return scores, np.clip(4 * scores + noise * chance.normal(size=n), 0, 4)


@pytest.mark.parametrize("kind", ["linear", "isotonic"])
def test_nine_of_ten_new_pairs_lie_in_the_interval(kind):
    if kind == "isotonic":
        pytest.importorskip("sklearn")
    shares = []
    for seed in range(25):
        fitted = fit_calibration("s", *said(120, seed), seed=seed, kind=kind)
        scores, gold = said(400, 1000 + seed)
        rated = fitted(scores)
        shares.append(float(((rated.low <= gold) & (gold <= rated.high)).mean()))
    assert 0.89 <= np.mean(shares) <= 0.94


def test_with_a_confidence_nine_of_ten_fits_cover_what_they_promise():
    def held(confidence):
        shares = []
        for seed in range(200):
            fitted = fit_calibration("s", *said(120, seed), seed=seed, confidence=confidence)
            scores, gold = said(2000, 1000 + seed)
            rated = fitted(scores)
            shares.append(float(((rated.low <= gold) & (gold <= rated.high)).mean()))
        return float((np.array(shares) >= 0.9).mean())

    assert held(None) < 0.8, "coverage on average is no promise of each fit"
    assert held(0.9) >= 0.88


@pytest.mark.parametrize(
    ("pairs", "rank"),
    # The least k with P(Binomial(n, .9) < k) >= .9, by scipy.stats.binom.ppf(.9, n, .9) + 1.
    [(44, 22), (60, 30), (172, 82), (2000, 913)],
)
def test_the_margin_of_a_sure_interval_is_the_least_that_the_binomial_allows(pairs, rank):
    assert _rank(pairs // 2, 0.9, 0.9) == rank


def test_too_few_pairs_cannot_be_sure():
    scores, gold = said(40, 0)
    assert fit_calibration("s", scores, gold, seed=0).confidence is None
    with pytest.raises(BadInputError, match="40 pairs are too few for an interval of 90% with a confidence of 90%"):
        fit_calibration("s", scores, gold, seed=0, confidence=0.9)
    with pytest.raises(BadInputError, match=r"confidence 1\.5: each is between 0 and 1"):
        fit_calibration("s", scores, gold, seed=0, confidence=1.5)


def test_a_sure_interval_is_kept_and_one_of_an_older_file_is_read(tmp_path):
    fitted = fit_calibration("s", *said(200, 0), seed=0, confidence=0.9)
    path = tmp_path / "sure.json"
    save_calibration(fitted, path)
    assert load_calibration(path) == fitted
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**document, "confidence": 2}), encoding="utf-8")
    with pytest.raises(BadInputError, match="cannot be sure to 2"):
        load_calibration(path)
    del document["confidence"]
    path.write_text(json.dumps(document), encoding="utf-8")
    assert load_calibration(path).confidence is None


@pytest.mark.parametrize("kind", ["linear", "isotonic"])
def test_ratings_rise_with_scores_and_stay_on_the_scale(kind):
    if kind == "isotonic":
        pytest.importorskip("sklearn")
    fitted = fit_calibration("s", *said(80, 0), seed=0, kind=kind)
    rated = fitted(np.linspace(-1, 2, 50))
    for part in (rated.value, rated.low, rated.high):
        assert (np.diff(part) >= 0).all()
        assert part.min() >= 0
        assert part.max() <= 4
    assert (rated.low <= rated.value).all()
    assert (rated.value <= rated.high).all()


def test_a_linear_one_holds_nothing_of_the_pairs_but_a_line_and_a_margin():
    fitted = fit_calibration("s", *said(80, 0, noise=0.0), seed=0)
    assert fitted.ratings == (0.0, 4.0)
    assert fitted.scores == pytest.approx((0.0, 1.0), abs=1e-9)
    assert fitted.margin == pytest.approx(0, abs=1e-9)


def test_of_a_score_of_nothing_nothing_is_said():
    fitted = fit_calibration("s", *said(80, 0), seed=0)
    rated = fitted(np.array([np.nan, 0.5]))
    assert np.isnan([rated.value[0], rated.low[0], rated.high[0]]).all()
    assert np.isfinite(rated.value[1])


def test_pairs_without_a_score_are_left_out_of_the_fit():
    scores, gold = said(80, 0)
    more = np.concatenate([scores, [np.nan] * 5]), np.concatenate([gold, [4.0] * 5])
    assert fit_calibration("s", *more, seed=0) == fit_calibration("s", scores, gold, seed=0)


def test_a_surer_interval_is_wider_and_the_seed_deals_the_halves():
    narrow, wide = (fit_calibration("s", *said(80, 0), seed=0, coverage=c) for c in (0.6, 0.95))
    assert narrow.margin < wide.margin
    assert fit_calibration("s", *said(80, 0), seed=1) != fit_calibration("s", *said(80, 0), seed=0)


def test_what_cannot_be_calibrated_is_refused():
    scores, gold = said(12, 0)
    with pytest.raises(BadInputError, match="s: 12 pairs are too few for an interval of 90%"):
        fit_calibration("s", scores, gold, seed=0)
    scores, gold = said(80, 0)
    with pytest.raises(BadInputError, match="scores do not rise with what people say"):
        fit_calibration("s", -scores, gold, seed=0)


def test_it_comes_back_from_its_file_as_it_was(tmp_path):
    fitted = fit_calibration("s", *said(80, 0), seed=0)
    save_calibration(fitted, tmp_path / "s.json")
    assert load_calibration(tmp_path / "s.json") == fitted


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"scores": [1.0, 0.0]}, "falls where scores rise"),
        ({"scores": [1.0]}, "has not two knots"),
        ({"margin": -1}, "has no interval"),
        ({"margin": "wide"}, "margin: is not a finite number"),
        ({"scorer": 3}, "scorer: is not a name"),
        ({"kind": "regression"}, "is not a calibration"),
    ],
)
def test_a_file_that_holds_something_else(tmp_path, change, told):
    path = tmp_path / "s.json"
    save_calibration(Calibration("s", (0.0, 1.0), (0.0, 4.0), 0.5, 0.9), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadInputError) as raised:
        load_calibration(path)
    assert told in str(raised.value)
    assert str(path) in str(raised.value)


def test_none_is_shipped_for_what_is_not_known():
    with pytest.raises(NotFoundError, match="none is shipped for 'mine'"):
        shipped_calibration("mine")


@pytest.mark.parametrize("scorer", ["liblock", "lexical", "all-MiniLM-L6-v2", "lexical+all-MiniLM-L6-v2"])
def test_what_is_shipped_is_a_line_that_names_its_scorer(scorer):
    shipped = shipped_calibration(scorer)
    assert (shipped.scorer, shipped.ratings, shipped.coverage) == (scorer, (0.0, 4.0), 0.9)
    assert len(shipped.scores) == 2


@pytest.mark.realdata
@pytest.mark.parametrize("scorer", ["liblock", "lexical"])
def test_what_is_shipped_is_what_fitting_on_ctr_gives(data_dir, scorer):
    pytest.importorskip("nltk")
    gold = read_ctr(data_dir / "text")
    fitted = fit_calibration(scorer, words(scorer)(gold.pairs), gold.gold, seed=0)
    shipped = shipped_calibration(scorer)
    assert shipped.scores == pytest.approx(fitted.scores, abs=1e-6)
    assert shipped.margin == pytest.approx(fitted.margin, abs=1e-6)
