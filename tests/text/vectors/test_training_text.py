"""What is learnt from: whole documents that the seed draws, and words in an order that nothing else changes."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quiltwork.text.token_corpus import TokenCorpus
from quiltwork.text.vectors import training_text
from quiltwork.text.vectors.training_text import draw_text


def corpus(documents, words="abcdefgh"):
    """documents : of sentences of letters."""
    sentences = [sentence for document in documents for sentence in document]
    return TokenCorpus(
        tuple(words),
        np.array([words.index(letter) for letter in "".join(sentences)], np.int32),
        np.cumsum([len(sentence) for sentence in sentences]),
        np.cumsum([len(document) for document in documents]),
        "digest",
    )


def drawn(text):
    return ["".join(text.vocabulary.words[i] for i in text.sentence(number)) for number in range(len(text.ends))]


DOCUMENTS = [["abc", "aab"], ["cc"], ["hgh", "a", "b"], ["defg"]]


def test_all_documents_are_drawn_whole_in_an_order_of_the_seed():
    found = [drawn(draw_text(corpus(DOCUMENTS), words=1, min_count=1, seed=seed)) for seed in range(8)]
    assert len({tuple(sentences) for sentences in found}) > 2
    for sentences in found:
        assert sorted(sentences) == sorted(chain(*DOCUMENTS))
        assert sentences[sentences.index("abc") + 1] == "aab"


def test_a_share_is_reached_with_whole_documents_and_no_more_than_the_last_goes_beyond():
    for seed in range(8):
        sentences = drawn(draw_text(corpus(DOCUMENTS), words=0.5, min_count=1, seed=seed))
        whole = [document for document in DOCUMENTS if document[0] in sentences]
        assert sorted(sentences) == sorted(chain(*whole))
        sizes = [len("".join(document)) for document in whole]
        assert sum(sizes) >= 8.5
        assert sum(sizes) - max(sizes) < 8.5


def test_a_number_of_words_is_as_good_as_a_share():
    assert drawn(draw_text(corpus(DOCUMENTS), words=8.5, min_count=1, seed=3)) == drawn(
        draw_text(corpus(DOCUMENTS), words=0.5, min_count=1, seed=3)
    )


def test_rare_words_are_left_out_and_counted_as_tokens_all_the_same():
    text = draw_text(corpus(DOCUMENTS), words=1, min_count=3, seed=0)
    assert text.vocabulary.words == ("a", "b", "c")
    assert sorted(drawn(text)) == sorted(["abc", "aab", "cc", "a", "b"])
    assert (text.vocabulary.tokens, text.vocabulary.sentences) == (17, 7)


def test_equally_frequent_words_stand_in_the_order_of_their_letters():
    assert draw_text(corpus([["hgbca"]]), words=1, min_count=1, seed=0).vocabulary.words == tuple("abcgh")


@settings(max_examples=40)
@given(st.lists(st.lists(st.text("abcdefgh", min_size=1, max_size=9), min_size=1, max_size=4), min_size=1, max_size=6))
def test_counts_are_those_of_the_sentences(documents):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_text, "_SLAB", 7)
        vocabulary = draw_text(corpus(documents), words=1, min_count=1, seed=1).vocabulary
    sentences = list(chain(*documents))
    assert dict(zip(vocabulary.words, vocabulary.counts.tolist(), strict=True)) == Counter("".join(sentences))
    having = Counter(letter for sentence in sentences for letter in set(sentence))
    assert dict(zip(vocabulary.words, vocabulary.having.tolist(), strict=True)) == having
