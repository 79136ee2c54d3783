"""Rare words weigh more."""

from __future__ import annotations

import pickle
from math import log, sqrt

import pytest

from quiltwork.core.errors import BadInputError
from quiltwork.text.tfidf import TfIdf

FITTED = TfIdf.fit([("p53", "p53"), ("p53", "binds"), ("binds", "dna")])


def test_fitting_counts_sentences_and_not_occurrences():
    assert TfIdf(3, {"p53": 2, "binds": 2, "dna": 1}) == FITTED


def test_a_word_weighs_more_the_fewer_sentences_have_it():
    assert FITTED.idf("p53") == 1 + log(4 / 3)
    assert FITTED.idf("dna") == 1 + log(4 / 2)
    assert FITTED.idf("never seen") == 1 + log(4 / 1)


def test_the_cosine_by_hand():
    common, rare = 1 + log(4 / 3), 1 + log(2)
    assert FITTED(("p53", "dna"), ("p53",)) == pytest.approx(common / sqrt(common**2 + rare**2))
    assert FITTED(("p53", "dna"), ("dna",)) > FITTED(("p53", "dna"), ("p53",))


def test_words_count_as_often_as_they_occur_and_their_order_does_not():
    common, rare = 1 + log(4 / 3), 1 + log(2)
    lengths = sqrt((2 * common) ** 2 + rare**2) * sqrt(common**2 + rare**2)
    expected = (2 * common**2 + rare**2) / lengths
    assert FITTED(("p53", "dna", "p53"), ("dna", "p53")) == pytest.approx(expected)
    assert FITTED(("p53", "dna"), ("dna", "p53")) == pytest.approx(1.0)


def test_what_was_fitted_does_not_change_with_what_it_was_made_from():
    having = {"p53": 1}
    fitted = TfIdf(2, having)
    having["p53"] = 2
    assert fitted.having == {"p53": 1}


def test_what_was_fitted_can_be_sent_to_another_process():
    assert pickle.loads(pickle.dumps(FITTED)) == FITTED


@pytest.mark.parametrize("count", [-1, 4])
def test_a_word_cannot_be_in_more_sentences_than_there_are(count):
    with pytest.raises(BadInputError, match=rf"document frequencies: 'dna' is in {count} of 3 sentences"):
        TfIdf(3, {"dna": count})
