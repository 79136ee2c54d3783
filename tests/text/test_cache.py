"""A cache of vectors: what is asked for again is not computed again, and never more is held than allowed."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import pytest

from quiltwork.core.errors import BadInputError
from quiltwork.text.cache import ENTRY_BYTES, CacheCounts, Cached, VectorCache
from quiltwork.text.embedder import Embedded

D = 8
ENTRY = D * 4 + ENTRY_BYTES + 1
"""What a sentence of one letter takes."""


@dataclass
class Letters:
    """Vectors of a sentence's first letter; notes what it was asked for. A sentence of no letter is not known."""

    digest: str = "letters"
    name: str = "letters"
    dimensions: int = D
    asked: list = field(default_factory=list)

    def embed(self, sentences):
        self.asked.append(list(sentences))
        known = np.array([bool(one) for one in sentences], bool)
        lengths = np.array([len(one) for one in sentences], np.int64)
        vectors = np.array([[ord(one[0]) if one else 0] * D for one in sentences], np.float32).reshape(-1, D)
        return Embedded(vectors, known, lengths, np.minimum(lengths, 3), lengths > 3)


def test_what_is_asked_for_again_is_not_computed_again():
    letters = Letters()
    cached = Cached(letters, VectorCache(10_000))
    first = cached.embed(["a", "b", "a", "", "long one"])
    again = cached.embed(["long one", "", "b", "c"])
    assert letters.asked == [["a", "b", "", "long one"], ["c"]]
    direct = Letters().embed(["long one", "", "b", "c"])
    for name in ("vectors", "known", "tokens", "used", "truncated"):
        assert np.array_equal(getattr(again, name), getattr(direct, name))
    assert first.vectors.shape == (5, D)
    counts = cached.cache.counts()
    assert (counts.hits, counts.misses, counts.entries) == (3, 6, 5)


def test_models_do_not_get_each_others_vectors():
    cache = VectorCache(10_000)
    one, other = Letters("one"), Letters("other")
    Cached(one, cache).embed(["a"])
    Cached(other, cache).embed(["a"])
    assert one.asked == other.asked == [["a"]]
    Cached(Letters("one"), cache).embed(["a"])
    assert cache.counts().hits == 1


def test_what_was_not_asked_for_longest_goes_first():
    letters = Letters()
    cached = Cached(letters, VectorCache(3 * ENTRY))
    cached.embed(["a", "b", "c"])
    cached.embed(["a"])
    cached.embed(["d"])  # "b" goes
    cached.embed(["a", "c", "d"])
    assert letters.asked == [["a", "b", "c"], ["d"]]
    cached.embed(["b"])
    assert letters.asked[-1] == ["b"]
    assert cached.cache.counts().bytes == 3 * ENTRY


@pytest.mark.parametrize("most", [0, ENTRY - 1])
def test_a_cache_without_room_holds_nothing(most):
    letters = Letters()
    cached = Cached(letters, VectorCache(most))
    assert np.array_equal(cached.embed(["a", "a"]).vectors, cached.embed(["a", "a"]).vectors)
    assert letters.asked == [["a"], ["a"]]
    assert cached.cache.counts() == CacheCounts(0, 4, 0, 0)


def test_a_sentence_that_is_larger_than_the_cache_leaves_the_others_there():
    cached = Cached(Letters(), VectorCache(2 * ENTRY))
    cached.embed(["a", "b", "x" * 10 * ENTRY])
    assert cached.cache.counts().entries == 2


def test_whoever_changes_a_vector_changes_only_theirs():
    cached = Cached(Letters(), VectorCache(10_000))
    cached.embed(["a"]).vectors[:] = 7
    assert (cached.embed(["a"]).vectors == ord("a")).all()


def test_no_sentences_have_no_vectors():
    assert Cached(Letters(), VectorCache(100)).embed([]).vectors.shape == (0, D)


def test_threads_share_it_and_its_books_are_right():
    cached = Cached(Letters(), VectorCache(20 * ENTRY))
    letters = [chr(ord("a") + index) for index in range(26)]
    wrong = []

    def ask(turn):
        for _ in range(30):
            some = letters[turn:] + letters[:turn]
            found = cached.embed(some).vectors[:, 0]
            if found.tolist() != [ord(one) for one in some]:
                wrong.append(turn)

    threads = [threading.Thread(target=ask, args=(turn,)) for turn in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    counts = cached.cache.counts()
    assert not wrong
    assert counts.hits + counts.misses == 8 * 30 * 26
    assert counts.bytes == counts.entries * ENTRY <= 20 * ENTRY


def test_one_text_instead_of_a_list_is_refused():
    with pytest.raises(BadInputError, match="must be a list of sentences"):
        Cached(Letters(), VectorCache(100)).embed("abc")


def test_less_than_no_room_is_refused():
    with pytest.raises(BadInputError, match="-1 is not a number of bytes"):
        VectorCache(-1)
