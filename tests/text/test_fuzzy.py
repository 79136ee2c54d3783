"""Measures of RapidFuzz, by hand."""

from __future__ import annotations

import pytest

from quiltwork.text.fuzzy import fuzzy

pytest.importorskip("rapidfuzz")


def test_levenshtein_is_edits_over_the_longer_text():
    assert fuzzy("levenshtein")(["kras", "a"], ["hras", "a"]) == pytest.approx(1 - 1 / 6)


def test_jaro_winkler_by_its_authors_example():
    assert fuzzy("jaro_winkler")(["martha"], ["marhta"]) == pytest.approx(0.9611, abs=1e-4)


def test_words_in_another_order_are_the_same_once_sorted():
    assert fuzzy("token_sort")(["binds", "dna"], ["dna", "binds"]) == 1.0


def test_a_set_of_words_within_another_is_taken_for_the_same():
    assert fuzzy("token_set")(["dna"], ["dna", "binds"]) == 1.0
    assert fuzzy("token_sort")(["dna"], ["dna", "binds"]) < 1.0
