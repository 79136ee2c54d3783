"""A corpus is kept as numbers, and cut anew only where its content changed."""

from __future__ import annotations

import numpy as np
import pytest

from quiltwork.core.errors import BadInputError, CorruptionError
from quiltwork.text.token_corpus import token_corpus, word_tokens

TEXT = "# a\nGenes act on genes.\n***\nCells act.\n# b\nK-Ras acts.\n"


@pytest.fixture
def corpus(tmp_path):
    path = tmp_path / "c.txt"
    path.write_text(TEXT)
    return path


def sentences(cut):
    begins = [0, *cut.sentence_ends[:-1]]
    return [[cut.words[i] for i in cut.ids[a:b]] for a, b in zip(begins, cut.sentence_ends, strict=True)]


def test_words_sentences_and_documents_stand_where_they_stood(corpus):
    cut = token_corpus([corpus])
    assert sentences(cut)[0] == ["genes", "act", "on", "genes", "."]
    assert sentences(cut)[-1] == ["k", "-", "ras", "acts", "."]
    assert cut.document_ends.tolist() == [3, 4]


def test_what_is_kept_is_what_was_cut(corpus, tmp_path):
    made, kept = (token_corpus([corpus], cache=tmp_path / "cache") for _ in range(2))
    assert len(list((tmp_path / "cache").iterdir())) == 1
    assert (kept.words, kept.digest) == (made.words, made.digest)
    for name in ("ids", "sentence_ends", "document_ends"):
        assert getattr(kept, name).dtype == getattr(made, name).dtype
        assert np.array_equal(getattr(kept, name), getattr(made, name))


def test_a_corpus_that_changed_is_cut_anew(corpus, tmp_path):
    token_corpus([corpus], cache=tmp_path / "cache")
    corpus.write_text(TEXT + "New words.\n")
    assert sentences(token_corpus([corpus], cache=tmp_path / "cache"))[-1] == ["new", "words", "."]


def test_a_damaged_cache_is_refused_with_what_to_do(corpus, tmp_path):
    token_corpus([corpus], cache=tmp_path / "cache")
    [kept] = (tmp_path / "cache").iterdir()
    kept.write_bytes(kept.read_bytes()[:-3])
    with pytest.raises(CorruptionError, match="remove it"):
        token_corpus([corpus], cache=tmp_path / "cache")


def test_a_corpus_of_nothing_that_is_a_token_is_refused(tmp_path):
    path = tmp_path / "c.txt"
    path.write_text("\u200b\n\u200b\u200b\n")
    with pytest.raises(BadInputError, match="has no word"):
        token_corpus([path])


def test_variants_of_a_letter_are_one_token():
    assert word_tokens("5 \u00b5g \ufb01brin") == word_tokens("5 \u03bcg fibrin") == ("5", "\u03bcg", "fibrin")
