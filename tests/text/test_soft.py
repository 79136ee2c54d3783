"""Words that are spelled alike, by hand; and the mixed measure."""

from __future__ import annotations

from math import sqrt

import pytest

from quiltwork.text import soft as module
from quiltwork.text.overlap import block
from quiltwork.text.soft import cosine, lexical, soft


def test_cosine_counts_words_as_often_as_they_occur():
    assert cosine(["a", "a", "b"], ["a", "b", "c"]) == pytest.approx(3 / sqrt(5 * 3))
    assert cosine(["a", "b", "a"], ["a", "a", "b"]) == 1.0


def test_a_word_is_as_good_as_the_nearest_of_the_other_sentence():
    # ^a ab b$ and ^a ac c$: one pair of three on each side; x has no pair with anything.
    assert soft(["ab"], ["ac"]) == pytest.approx(1 / 3)
    assert soft(["ab"], ["ac", "x"]) == pytest.approx((1 / 3 + 1 / 3 + 0) / 3)
    assert soft(["ab", "ab"], ["ab", "ac"]) == pytest.approx((1 + 1 + 1 + 1 / 3) / 4)


def test_the_ends_of_a_word_are_letters():
    assert soft(["abc"], ["abd"]) > soft(["abc"], ["cab"]) > 0.0


def test_inflected_words_are_nearly_the_same():
    assert soft(["phosphorylation"], ["dephosphorylated"]) > 0.6
    assert block(["phosphorylation"], ["dephosphorylated"]) == 0.0


def test_in_long_texts_only_the_same_words_are_alike(monkeypatch):
    monkeypatch.setattr(module, "MOST", 3)
    assert soft(["ab", "x"], ["ac", "x"]) == pytest.approx(2 / 4)
    assert soft(["ab"], ["ac", "x"]) > 0.0


def test_lexical_is_the_mean_of_three():
    a, b = ["ab", "ab", "c"], ["ab", "ad"]
    assert lexical(a, b) == pytest.approx((block(a, b) + cosine(a, b) + soft(a, b)) / 3)
