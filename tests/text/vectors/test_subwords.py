"""Runs of letters are hashed as fastText hashes them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quiltwork.text.vectors.subwords import LONGEST_WORD, Subwords


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12),
    st.integers(1, 4),
    st.integers(0, 4),
    st.sampled_from([1, 50, 300_000]),
)
def test_buckets_are_those_of_gensim(word, shortest, more, buckets):
    from gensim.models.fasttext import ft_ngram_hashes

    ours = Subwords(shortest, shortest + more, buckets).of(word)
    assert ours == ft_ngram_hashes(word, shortest, shortest + more, buckets)


def test_nothing_and_what_is_no_word_have_none():
    assert Subwords(3, 6, 100).of("") == []
    assert Subwords(3, 6, 100).of("a" * (LONGEST_WORD + 1)) == []
    assert Subwords(3, 6, 100).of("a" * LONGEST_WORD)
