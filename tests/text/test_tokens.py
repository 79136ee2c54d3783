"""Cutting sentences: as CoreNLP does with hyphens apart, or into bare words."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.text.tokens import bare_words, corenlp_tokens

prose = st.text(alphabet="abnt059 .,-/'\"`()αμ;", max_size=60)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Kras-driven", "kras - driven"),
        ("invasiveness—all", "invasiveness - - all"),
        ("SWI/SNF-like IDH1/IDH2, and/or TET1/2/3", "swi/snf - like idh1/idh2 , and/or tet1/2/3"),
        ("CDK4/6-dependent miR-372/3", "cdk4 / 6 - dependent mir - 372 / 3"),
        ("(C/EBPα)", "( c/ebp α )"),
        ("1,000.5 of .05", "1,000.5 of .05"),
        ("in S. cerevisiae, e.g., N.crassa.", "in s. cerevisiae , e.g. , n.crassa ."),
        ("It ends with b.", "it ends with b ."),
        ('a "cyclin box", a “loop”', "a `` cyclin box '' , a `` loop ''"),
        ("It doesn't, and cannot; p53's", "it does n't , and can not ; p53 's"),
        ("it doesn’t", "it does n't"),
        ("wait...", "wait ..."),
        ("5′ [2] 37°C", "5 ′ [ 2 ] 37 ° c"),
        ("", ""),
        (" \t\n", ""),
    ],
)
def test_sentences_are_cut_as_corenlp_cuts_them_with_hyphens_apart(text, tokens):
    assert corenlp_tokens(text) == tuple(tokens.split())


@given(prose)
def test_what_was_cut_is_cut_the_same_way_again(text):
    tokens = corenlp_tokens(text)
    assert corenlp_tokens(" ".join(tokens)) == tokens


@given(prose)
def test_no_letter_is_lost_and_none_is_added(text):
    letters = [c for c in text.lower() if c.isalnum()]
    assert [c for token in corenlp_tokens(text) for c in token if c.isalnum()] == letters


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("K-Ras, KRAS and k ras", "kras kras and k ras"),
        ("the SWI/SNF complex (β-actin)", "the swisnf complex βactin"),
        ("1,000.5 °C + 5′", "10005 c 5"),
        ("It doesn't.", "it doesnt"),
        ("– —", ""),
    ],
)
def test_bare_words_have_no_marks_and_keep_letters_of_all_scripts(text, words):
    assert bare_words(text) == tuple(words.split())


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
@given(text=st.text(alphabet="aéµμﬁΩΩ①Å 5²β", max_size=20))
def test_ways_to_write_the_same_letters_give_the_same_bare_words(form, text):
    assert bare_words(unicodedata.normalize(form, text)) == bare_words(text)


@pytest.mark.parametrize("cut", [corenlp_tokens, bare_words])
def test_what_is_never_seen_is_dropped_and_every_blank_parts(cut):
    assert cut("\ufeffkr\x00as\x07\u200b\x1b binds\u00a0dna\r\nhere") == ("kras", "binds", "dna", "here")


@pytest.mark.parametrize("cut", [corenlp_tokens, bare_words])
@given(text=st.text(max_size=80))
def test_any_text_is_cut_into_tokens_that_are_neither_empty_nor_blank(cut, text):
    assert all(token and not any(c.isspace() for c in token) for token in cut(text))


@pytest.mark.parametrize("cut", [corenlp_tokens, bare_words])
@pytest.mark.parametrize("piece", ["k", "a/", "a.", "1,", '"', "-", "n't ", "\u0301", "a. ", "can't/"])
def test_a_hundred_thousand_characters_are_cut(cut, piece):
    text = piece * (100_000 // len(piece))
    assert len("".join(cut(text))) <= 2 * len(text)
