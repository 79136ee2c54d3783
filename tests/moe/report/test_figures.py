"""The numbers of a report."""

import json

import pytest
from moe_figures import figures

from quiltwork.moe.report.figures import Piece, document_of, skew, words_of


def test_skew_is_the_busiest_against_the_mean() -> None:
    assert skew([10, 20, 30, 0]) == 2.0
    assert skew([5, 5]) == 1.0
    assert skew([0, 0]) == 1.0


def test_a_words_experts_are_the_mean_over_its_pieces_wherever_it_stands() -> None:
    pieces = [Piece("Th", (2.0,), None, True), Piece("e", (1.0,), None), Piece(" the", (2.0,), None)]
    assert [(word.text, word.count, word.experts) for word in words_of(pieces)] == [("the", 2, 1.75)]


def test_a_word_does_not_run_over_from_one_text_into_the_next() -> None:
    pieces = [Piece("ab", (1.0,), None, True), Piece("ab", (2.0,), None, True)]
    assert [(word.text, word.count) for word in words_of(pieces)] == [("ab", 2)]


def test_a_word_has_its_apostrophe_and_no_punctuation() -> None:
    pieces = [Piece(char, (1.0,), None) for char in "don't, don't!"]
    assert [word.text for word in words_of(pieces)] == ["don't"]


def test_the_document_is_json_and_has_the_same_numbers() -> None:
    document = json.loads(json.dumps(document_of(figures()), allow_nan=False))
    assert document["experts_per_token"] == pytest.approx(figures().mean())
    assert document["layers"][2]["experts_per_token"] == pytest.approx(1 + figures().shares[2][2])
    assert document["layers"][0]["skew"] == 2.0
    assert document["training"]["held_out"] == [2.75, 2.25]
    assert "".join(piece["text"] for piece in document["pieces"]).startswith("the cat & ")
    assert "training" not in document_of(figures(course=None))
