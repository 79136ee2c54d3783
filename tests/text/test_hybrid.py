"""Regressions on scores: what they find, what they do with what is missing, and that they come back from their file."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.core.errors import BadInputError
from quiltwork.text.hybrid import (
    Hybrid,
    Regression,
    fit_hybrid,
    fit_regression,
    load_regression,
    save_regression,
)


def drawn(n=40, k=3, seed=0):
    chance = np.random.default_rng(seed)
    scores = chance.uniform(size=(n, k))
    return scores, 1 + scores @ np.arange(1.0, k + 1) / k


@dataclass(frozen=True)
class Shared:
    """The share of letters of ``a`` that are in ``b``, as far as asked."""

    name: str
    letters: str

    def __call__(self, pairs):
        return np.array([sum(x in a and x in b for x in self.letters) / len(self.letters) for a, b in pairs])


def test_it_finds_the_weights_that_made_the_ratings():
    scores, gold = drawn()
    found = fit_regression(["a", "b", "c"], scores, gold)
    assert found.weights == pytest.approx((1 / 3, 2 / 3, 1.0))
    assert found.intercept == pytest.approx(1.0)
    assert found(scores) == pytest.approx(gold)


def test_ordinary_regression_and_ridge_are_scikit_learns():
    linear_model = pytest.importorskip("sklearn.linear_model")
    scores, gold = drawn(seed=1)
    gold = gold + np.random.default_rng(2).normal(size=len(gold)) / 4
    ordinary = linear_model.LinearRegression().fit(scores, gold)
    assert fit_regression("abc", scores, gold).weights == pytest.approx(tuple(ordinary.coef_))
    unit = (scores - scores.mean(axis=0)) / scores.std(axis=0)
    ridge = linear_model.Ridge(alpha=0.3 * len(gold)).fit(unit, gold)
    assert fit_regression("abc", scores, gold, ridge=0.3).weights == pytest.approx(
        tuple(ridge.coef_ / scores.std(axis=0))
    )


def test_ridge_does_not_depend_on_the_scale_of_a_score():
    scores, gold = drawn(seed=3)
    stretched = scores * np.array([1.0, 100.0, 0.01])
    one, other = (fit_regression("abc", held, gold, ridge=0.5) for held in (scores, stretched))
    assert one(scores) == pytest.approx(other(stretched))


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=2))
def test_a_rating_is_on_the_scale(scores):
    regression = Regression(("a", "b"), (2.0, -3.0), 1.0, (0.0, 0.0))
    (rating,) = regression(np.array([scores]))
    assert 0 <= rating <= 4


def test_where_a_score_says_nothing_its_usual_value_stands():
    scores, gold = drawn()
    scores[::5, 1] = np.nan
    found = fit_regression("abc", scores, gold)
    assert found.usual[1] == pytest.approx(np.nanmean(scores[:, 1]))
    missing = np.array([[0.5, np.nan, 0.5]])
    assert found(missing) == pytest.approx(found(np.array([[0.5, found.usual[1], 0.5]])))


def test_a_score_that_does_not_vary_has_no_weight():
    scores, gold = drawn()
    scores[:, 2] = 0.7
    for ridge in (0.0, 0.1):
        assert fit_regression("abc", scores, gold, ridge=ridge).weights[2] == pytest.approx(0, abs=1e-9)


def test_what_cannot_be_fitted_is_refused():
    scores, gold = drawn()
    with pytest.raises(BadInputError, match=r"\(40, 3\) scores for 39 ratings"):
        fit_regression("abc", scores, gold[1:])
    scores[:, 1] = np.nan
    with pytest.raises(BadInputError, match="b: says nothing of any pair"):
        fit_regression("abc", scores, gold)


def test_a_hybrid_rates_each_pair_as_it_would_alone():
    scorers = (Shared("vowels", "aeiou"), Shared("first", "abcd"))
    pairs = [("abe", "bad"), ("ice", "dice"), ("you", "me"), ("cab", "cab"), ("x", "x")]
    hybrid = fit_hybrid("both", scorers, pairs, np.array([2.0, 2.5, 0.5, 4.0, 0.0]))
    rated = hybrid.rate(pairs)
    assert [float(hybrid.rate([pair])[0]) for pair in pairs] == pytest.approx(rated)
    assert hybrid(pairs) == pytest.approx(rated / 4)


def test_a_hybrid_has_the_scorers_it_was_fitted_on():
    regression = fit_regression(["vowels"], np.array([[0.1], [0.2]]), np.array([1.0, 2.0]))
    with pytest.raises(BadInputError, match="both: was fitted on vowels, not on first"):
        Hybrid("both", (Shared("first", "abcd"),), regression)


def test_it_comes_back_from_its_file_as_it_was(tmp_path):
    regression = fit_regression("abc", *drawn(), ridge=0.1)
    save_regression(regression, tmp_path / "fused.json")
    assert load_regression(tmp_path / "fused.json") == regression


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kind": "calibration"}, "is not a regression"),
        ({"weights": [1, "2"]}, "weights: is not a finite number"),
        ({"weights": [1]}, "has not a weight and a usual value for each score"),
        ({"names": "ab"}, "names: is not a list of names"),
        ({"intercept": None}, "intercept: is not a finite number"),
    ],
)
def test_a_file_that_holds_something_else(tmp_path, change, told):
    path = tmp_path / "fused.json"
    save_regression(Regression(("a", "b"), (1.0, 2.0), 0.0, (0.5, 0.5)), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(BadInputError) as raised:
        load_regression(path)
    assert told in str(raised.value)
    assert str(path) in str(raised.value)


def test_a_file_that_is_not_there_or_no_json(tmp_path):
    with pytest.raises(BadInputError, match="cannot be read"):
        load_regression(tmp_path / "none.json")
    (tmp_path / "cut.json").write_text('{"kind": "regr')
    with pytest.raises(BadInputError, match="is not JSON"):
        load_regression(tmp_path / "cut.json")
