"""Running text comes apart where its sentences end, and nowhere else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quiltwork.text.sentences import split_sentences


@pytest.mark.parametrize(
    "sentences",
    [
        ("Cells grew.", "They died."),
        ("E. coli was used (Smith et al. 2010, Fig. 3).", "It grew at 37.5 degrees."),
        ("Is it so?", "(Never.)", "Yes!"),
        ("The drug, i.e. A, vs. B works.", '"Good," they said.', "5 mg were given."),
        ("No end",),
    ],
)
def test_sentences_joined_come_apart_again(sentences):
    assert split_sentences("  ".join(sentences)) == sentences


@given(st.text(alphabet='aB .?!(\n")1', max_size=60))
def test_nothing_but_blanks_is_lost(text):
    found = split_sentences(text)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(sentence.strip() == sentence and sentence for sentence in found)
