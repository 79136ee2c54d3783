"""Same, opposite or unknown: by what is denied, by antonyms, and by how much two sentences share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.text import polarity_of

SAME, OPPOSITE, UNKNOWN = "same", "opposite", "unknown"
WORDS = (
    "not",
    "no",
    "without",
    "failed to",
    "increase",
    "decrease",
    "the",
    "tumour",
    "of",
    "survival",
    ",",
    "but",
    "toxic",
)


def kind(a, b):
    return polarity_of(a, b).kind


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("The treatment increased survival.", "The treatment did not increase survival."),
        ("The treatment increased survival.", "The treatment didn't increase survival."),
        ("The treatment increased survival.", "The treatment didn’t increase survival."),
        ("The treatment increased survival.", "The treatment failed to increase survival."),
        ("The treatment increased survival.", "The treatment never increased survival."),
        ("The cells can divide.", "The cells cannot divide."),
        ("The cells were able to divide.", "The cells were unable to divide."),
        ("Patients improved with treatment.", "No patients improved with treatment."),
        ("Both drugs reduce pain.", "Neither drug reduces pain."),
        ("Mutations were found in the tumour.", "Mutations were no longer found in the tumour."),
        ("The presence of the gene is lethal.", "The absence of the gene is lethal."),
    ],
)
def test_what_is_denied_on_one_side_alone_is_opposite(a, b):
    assert kind(a, b) == OPPOSITE


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("The treatment increased survival.", "The treatment decreased survival."),
        ("Expression was higher in tumours.", "Expression was lower in tumours."),
        ("The gene was up-regulated in tumours.", "The gene was down-regulated in tumours."),
        ("The gene was upregulated in tumours.", "The gene was down - regulated in tumours."),
        ("The compound is toxic to cells.", "The compound is non-toxic to cells."),
        ("Expression rose in the tumour.", "Expression fell in the tumour."),
    ],
)
def test_an_antonym_is_opposite(a, b):
    assert kind(a, b) == OPPOSITE


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("You are not thin.", "You are fat."),
        ("Expression was not higher in tumours.", "Expression was lower in tumours."),
        ("The compound is not toxic to cells.", "The compound is non-toxic to cells."),
        ("The treatment failed to increase survival.", "The treatment decreased survival."),
    ],
)
def test_an_antonym_denied_is_the_same(a, b):
    assert kind(a, b) == SAME


@pytest.mark.parametrize(
    "b",
    [
        "The treatment did not fail to increase survival.",
        "It is not the case that the treatment did not increase survival.",
        "The treatment never failed to increase survival.",
    ],
)
def test_a_double_negation_cancels(b):
    assert kind("The treatment increased survival.", b) == SAME


def test_a_passive_is_the_same_and_denied_it_is_opposite():
    active, passive = "Aspirin reduced the pain of patients.", "The pain of patients was reduced by aspirin."
    assert kind(active, passive) == SAME
    assert kind(active, passive.replace("was", "was not")) == OPPOSITE
    assert kind(active.replace("reduced", "did not reduce"), passive.replace("was", "was not")) == SAME


def test_sentences_of_other_things_are_unknown_whatever_they_deny():
    assert kind("Aspirin did not reduce pain.", "Mutations of the gene were increased in tumours.") == UNKNOWN
    assert kind("Aspirin reduced pain.", "The mice were not housed in cages.") == UNKNOWN


def test_what_the_other_sentence_does_not_speak_of_may_be_denied():
    a = "The drug reduced tumour growth in mice."
    assert kind(a, "The drug reduced tumour growth in mice, but had no influence on weight.") == SAME


def test_a_cue_is_set_off_only_against_what_it_governs():
    a = "The drug did not change weight but pain was increased."
    b = "The drug did change weight but pain was decreased."
    assert kind(a, b) == OPPOSITE


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("All patients responded to the drug.", "No patients responded to the drug.", OPPOSITE),
        ("All patients responded to the drug.", "Not all patients responded to the drug.", OPPOSITE),
        ("Some patients responded to the drug.", "Not all patients responded to the drug.", SAME),
        ("Some patients responded to the drug.", "None of the patients responded to the drug.", OPPOSITE),
        ("The drug reduced pain in adults.", "The drug not only reduced pain in adults.", SAME),
    ],
)
def test_quantifiers(a, b, expected):
    assert kind(a, b) == expected


def test_nitric_oxide_and_numbers_deny_nothing():
    assert kind("Production of NO was increased.", "Production was increased.") == SAME
    assert kind("Sample No. 5 was positive.", "Sample 5 was positive.") == SAME


def test_not_is_no_stop_word():
    found = polarity_of("disease causing", "not disease causing")
    assert found.kind == OPPOSITE
    assert [(e.sentence, e.text) for e in found.evidence] == [(1, "not")]


def test_evidence_tells_where_it_stands_and_where_it_comes_from():
    a, b = "Expression was higher in tumours.", "Expression was lower in tumours."
    found = polarity_of(a, b)
    assert [(e.sentence, e.text) for e in found.evidence] == [(0, "higher"), (1, "lower")]
    assert [(a, b)[e.sentence][e.start : e.end] for e in found.evidence] == ["higher", "lower"]
    assert all("wordnet:antonym" in e.why for e in found.evidence)


@pytest.mark.parametrize("text", ["", " ", ".", "\x00\x01", "not", "\ufeff", "n't", "βα µ ﬁ"])
def test_whatever_text_there_is_it_is_the_same_as_itself_or_unknown(text):
    assert kind(text, text) in (SAME, UNKNOWN)
    assert kind(text, "The treatment increased survival.") == UNKNOWN


def test_control_characters_and_compatibility_forms_hide_nothing():
    a = "The treatment increased survival."
    assert kind(a, "The treatment did n\u00adot incre\x00ase survival.") == OPPOSITE
    assert kind(a, "The treatment did ｎｏｔ increase survival.") == OPPOSITE


def test_places_count_what_is_never_seen():
    b = "\ufeffThe treat\u00adment did not increase survival."
    found = polarity_of("The treatment increased survival.", b)
    assert [b[e.start : e.end] for e in found.evidence] == ["not"]


def test_a_hundred_thousand_characters_are_compared():
    a, b = "increase not no, " * 6000, "decrease, not all " * 6000
    assert 0.0 <= polarity_of(a, b).overlap <= 1.0


@given(st.lists(st.sampled_from(WORDS), max_size=14), st.lists(st.sampled_from(WORDS), max_size=14))
def test_it_is_the_same_both_ways_round(left, right):
    a, b = " ".join(left), " ".join(right)
    one, other = polarity_of(a, b), polarity_of(b, a)
    assert (one.kind, one.overlap) == (other.kind, other.overlap)
    assert {(e.sentence, e.start, e.why) for e in one.evidence} == {
        (1 - e.sentence, e.start, e.why) for e in other.evidence
    }


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_text_has_an_answer_with_places_inside_it(a, b):
    found = polarity_of(a, b)
    assert np.isfinite(found.overlap)
    assert all((a, b)[e.sentence][e.start : e.end] == e.text for e in found.evidence)


@given(st.text(max_size=60))
def test_no_text_is_opposite_to_itself(text):
    assert kind(text, text) != OPPOSITE
