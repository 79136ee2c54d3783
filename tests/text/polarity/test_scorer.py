"""A score that contradiction lowers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quiltwork.text import Polarity, WithPolarity, adjusted


@dataclass(frozen=True)
class Fixed:
    value: float
    name: str = "fixed"

    def __call__(self, pairs, /):
        return np.full(len(pairs), self.value)


PAIRS = [("disease causing", "not disease causing"), ("disease causing", "disease causing"), ("a gene", "the mouse")]


def test_opposite_sentences_score_less_and_others_what_they_did():
    scores = WithPolarity(Fixed(0.9))(PAIRS)
    assert scores[0] < 0.1
    assert scores[1:].tolist() == [0.9, 0.9]


def test_it_is_named_after_what_it_wraps():
    assert WithPolarity(Fixed(0.9)).name == "fixed with polarity"


def test_the_more_two_opposite_sentences_share_the_less_alike_they_are():
    assert adjusted(0.8, Polarity("opposite", (), 0.75)) == 0.8 * 0.25
    assert adjusted(0.8, Polarity("same", (), 1.0)) == adjusted(0.8, Polarity("unknown", (), 0.3)) == 0.8


def test_scores_below_nothing_and_those_not_known_stay():
    assert adjusted(-0.2, Polarity("opposite", (), 1.0)) == -0.2
    assert np.isnan(adjusted(float("nan"), Polarity("opposite", (), 1.0)))
    assert WithPolarity(Fixed(0.5))([]).tolist() == []
