"""Measures of what is in common, by hand."""

from __future__ import annotations

from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.text.overlap import block, jaccard, liblock, qgram, qgram_of

sentences = st.lists(st.sampled_from("abcd"), min_size=1, max_size=8)


def test_jaccard_counts_words_once():
    assert jaccard(["kras", "kras", "drives", "lung", "cancer"], ["kras", "drives", "tumours"]) == 2 / 5


def test_block_counts_words_as_often_as_they_occur():
    # |2 - 1| + |1 - 1| + |0 - 1| = 2 of 6 words
    assert block(["a", "a", "b"], ["a", "b", "c"]) == pytest.approx(1 - 2 / 6)


def test_liblock_is_the_mean_of_block_and_the_cosine_of_sets():
    assert liblock(["a", "a", "b"], ["a", "b", "c"]) == pytest.approx((2 / sqrt(6) + 4 / 6) / 2)


@given(sentences, sentences)
def test_liblock_is_block_alone_where_no_word_is_shared(a, b):
    if not set(a) & set(b):
        assert liblock(a, b) == block(a, b) == 0.0


def test_qgram_pads_both_ends():
    # ..a .ab ab. b..  and  ..a .ab abc bc. c..
    assert qgram(["ab"], ["abc"]) == pytest.approx(2 / (4 + 5 - 2))


def test_qgram_counts_runs_as_often_as_they_occur():
    assert qgram(["aaaa"], ["aaa"]) == pytest.approx(5 / 6)


def test_qgram_joins_words_by_a_blank():
    # ..a .a_ a_b _b. b..  and  ..a .ab ab. b..
    assert qgram(["a", "b"], ["ab"]) == pytest.approx(2 / 7)


def test_runs_of_one_letter_have_no_pads():
    assert qgram_of(1)(["ab"], ["bc"]) == pytest.approx(1 / 3)


@given(sentences, st.randoms(use_true_random=False))
def test_the_order_of_words_does_not_count_where_words_are_counted(a, random):
    shuffled = random.sample(a, len(a))
    assert jaccard(a, shuffled) == block(a, shuffled) == 1.0
    assert liblock(a, shuffled) == pytest.approx(1.0)


def test_runs_of_letters_know_the_order_of_words():
    assert qgram(["binds", "dna"], ["dna", "binds"]) < 1.0
