"""Stop lists, and the words on them that deny."""

from __future__ import annotations

import pytest

from quiltwork.core.errors import BadInputError
from quiltwork.text.stops import STOP_LISTS, stop_list


@pytest.mark.parametrize(("name", "words"), [("nltk", 153), ("ranks", 174), ("stanford", 255)])
def test_each_list_has_as_many_words_as_its_source(name, words):
    assert len(stop_list(name).words) == words


@pytest.mark.parametrize("name", STOP_LISTS)
def test_words_that_deny_are_tagged_on_every_list(name):
    found = stop_list(name)
    assert {"not", "no", "nor"} <= found.negators < found.words


def test_pieces_of_contractions_deny_and_the_t_of_t_cells_does_not():
    negators = stop_list("nltk").negators
    assert {"don", "isn", "wouldn"} <= negators
    assert not {"t", "s", "ll", "ma", "can"} & negators


def test_whole_contractions_deny_with_and_without_their_apostrophe():
    negators = stop_list("stanford").negators
    assert {"don't", "dont", "cannot", "won't", "wont"} <= negators
    assert not {"i'm", "im", "let's", "return", "n't"} & negators


def test_a_list_that_is_not_there_is_refused_by_name():
    with pytest.raises(BadInputError, match="'nltk-2024' is not one of nltk, ranks, stanford"):
        stop_list("nltk-2024")


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "file"), [("ranks", "ranks_stopwords.txt"), ("stanford", "stanford_core_stopwords.txt")]
)
def test_lists_are_those_that_the_authors_used(data_dir, name, file):
    used = (data_dir / "text" / "biosses" / file).read_text(encoding="utf-8-sig").split()
    assert stop_list(name).words == set(used)
