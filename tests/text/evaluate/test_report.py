"""Everything of some candidates on two sets: what is compared, what is fused, what is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

from quiltwork.core.errors import BadInputError
from quiltwork.text.evaluate.candidates import Candidate, fusions, string_candidates, words
from quiltwork.text.evaluate.gold import GoldSet
from quiltwork.text.evaluate.report import document, evaluate_scorers

pytest.importorskip("nltk")
pytest.importorskip("scipy")


@dataclass(frozen=True)
class Told:
    """Says of the pair ("3", ...) the third of its numbers."""

    name: str
    values: tuple[float, ...]

    def __call__(self, pairs):
        return np.array([self.values[int(a)] for a, _ in pairs])


def gold_set(name, n=40, seed=0):
    said = np.random.default_rng(seed).uniform(0, 4, n)
    return GoldSet(name, tuple((str(at), "x") for at in range(n)), said)


def candidate(name, kind, noise, seed):
    chance = np.random.default_rng(seed)
    return Candidate(kind, Told(name, tuple(gold_set("one").gold / 4 + noise * chance.normal(size=40))))


@pytest.fixture
def candidates():
    return [candidate("good", "own", 0.1, 1), candidate("fair", "pretrained", 0.3, 2)]


def test_each_set_has_its_lines_and_the_regression_goes_both_ways(candidates):
    sets = [gold_set("one"), gold_set("other", seed=3)]
    published = {"one": {"theirs": np.linspace(0, 1, 40)}}
    reports = evaluate_scorers(sets, candidates, seed=0, hybrid=["good", "fair"], published=published,
                               baselines=["theirs", "fair"], resamples=200, deals=2)  # fmt: skip
    one, other = reports
    assert {line.name for line in one.lines} == {"good", "fair", "theirs"}
    assert {line.name for line in other.lines} == {"good", "fair"}
    assert set(one.lines[0].deltas) == {"theirs", "fair"}
    assert set(one.protocols) == {"other"}
    assert set(other.protocols) == {"one"}
    assert one.best("own").name == "good"
    assert one.best("fused") is None
    told = json.loads(json.dumps(document(one), allow_nan=False))
    assert told["scorers"][0]["kind"] == "own"
    assert told["protocols"][0]["fitted_on"] == "other"


def test_a_set_too_small_for_ten_folds_has_no_protocols(candidates):
    small = replace(gold_set("one"), pairs=gold_set("one").pairs[:20], gold=gold_set("one").gold[:20])
    (report,) = evaluate_scorers([small], candidates, seed=0, hybrid=["good"], resamples=100)
    assert report.protocols == {}


def test_names_that_are_nowhere_or_twice_are_refused(candidates):
    for where, how in (("baseline", {"baselines": ["best"]}), ("hybrid", {"hybrid": ["best"]})):
        with pytest.raises(BadInputError, match=f"{where}: 'best' is not one of good, fair"):
            evaluate_scorers([gold_set("one")], candidates, seed=0, resamples=100, **how)
    with pytest.raises(BadInputError, match="'good' is there twice"):
        evaluate_scorers([gold_set("one")], [*candidates, candidates[0]], seed=0, resamples=100)


def test_models_of_one_kind_count_as_their_mean():
    a, b, encoder = Told("a", (0.2,)), Told("b", (0.4,)), Told("encoder", (0.9,))
    made = {candidate.name: candidate.scorer for candidate in fusions([a, b], [encoder])}
    assert list(made) == ["mean(own)", "mean(lexical, mean(own))", "mean(lexical, encoder)",
                          "mean(lexical, mean(own), encoder)"]  # fmt: skip
    pair = [("0", "gene")]
    lexical = words("lexical")(pair)
    assert made["mean(own)"](pair) == pytest.approx(0.3)
    assert made["mean(lexical, mean(own), encoder)"](pair) == pytest.approx((lexical + 0.3 + 0.9) / 3)
    assert fusions([], []) == ()


def test_string_candidates_have_names_of_their_own_and_say_their_kind():
    pytest.importorskip("rapidfuzz")
    kinds = {candidate.name: candidate.kind for candidate in string_candidates()}
    assert len(kinds) == len(string_candidates())
    assert kinds["jaccard (paper)"] == "strings"
    assert kinds["token_set"] == "peer"
