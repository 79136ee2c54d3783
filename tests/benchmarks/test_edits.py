"""Edits of sentences: what they make, that a seed decides which, and that a swap has no evidence in a lexicon."""

from __future__ import annotations

from collections import Counter

import pytest

from work.contradictions import auc
from work.edits import bases, disjoint_pairs, edits, no_as_not_any, not_deleted, not_inserted, passives, rules, swapping
from work.swaps import OPPOSITES

BASE = bases(Counter({"raise": 3, "lower": 2, "reduce": 5}))
PAIRS = [("raised", "lowered")]


@pytest.mark.parametrize(
    ("rule", "before", "after"),
    [
        (not_inserted, "It was seen.", "It was not seen."),
        (not_inserted, "It was not seen.", None),
        (not_deleted, "It was not seen.", "It was seen."),
        (no_as_not_any, "There were no deaths.", "There were not any deaths."),
        (swapping(PAIRS, BASE, denied_too=False), "It raised the dose.", "It lowered the dose."),
        (swapping(PAIRS, BASE, denied_too=True), "It raised the dose.", "It did not lower the dose."),
        (swapping(PAIRS, BASE, denied_too=True), "It was raised by us.", "It was not lowered by us."),
        (passives(BASE)["passive made active"][1], "The pain was reduced by aspirin.", "Aspirin reduced the pain."),
        (passives(BASE)["passive made active, denied"][1], "The pain was reduced by aspirin.",
         "Aspirin did not reduce the pain."),
    ],
)  # fmt: skip
def test_what_a_rule_makes_of_a_sentence(rule, before, after):
    assert rule(before) == after


def test_the_seed_decides_which_sentences_are_edited_and_no_sentence_is_edited_twice():
    sentences = [f"The mean dose of group {n} was given to all patients of the second arm." for n in range(40)]
    made = rules(PAIRS, BASE)
    one, again, other = (edits(sentences, made, each=5, seed=seed) for seed in (1, 1, 2))
    assert one == again != other
    assert len({edit.before for edit in one}) == len(one)
    assert Counter(edit.rule for edit in one) == {"not inserted": 5, "not the case": 5, "denied twice": 5}


def test_pairs_with_evidence_are_left_out():
    assert OPPOSITES[0] not in set(disjoint_pairs(lambda a, b: (a, b) == OPPOSITES[0]))


def test_auc_counts_ties_half():
    assert auc([2.0, 1.0], [1.0, 0.0]) == 0.875
