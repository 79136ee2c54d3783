"""Vectors of words and of hashed word n-grams, and a sentence's: their mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError
from quiltwork.text.embedder import Embedded, Vectors
from quiltwork.text.token_corpus import word_tokens

MOST_WORDS = 10
"""Of an n-gram."""


@dataclass(frozen=True, eq=False)
class SentenceNgrams:
    """An Embedder: the mean of the vectors of a sentence's known words and of their n-grams.

    words : (n,) each once. inputs : (n + buckets, d), the words' and those of the buckets that n-grams are hashed to.
    longest : words of the longest n-gram. Words that the model does not have are left out before n-grams are made.

    Raises BadInputError where these do not fit each other.
    """

    words: tuple[str, ...]
    inputs: Vectors
    longest: int = 2
    name: str = "sent2vec"

    def __post_init__(self) -> None:
        where, inputs = "sentence n-grams", self.inputs
        if inputs.ndim != 2 or inputs.dtype != np.float32 or not inputs.flags.c_contiguous or not inputs.shape[1]:
            raise BadInputError("inputs must be 2-dimensional, contiguous and float32", where=where)
        if not self.words or len(self._places) != len(self.words):
            raise BadInputError("there must be words, each of them once", where=where)
        if not 1 <= self.longest <= MOST_WORDS:
            raise BadInputError(f"the longest n-gram must have 1 to {MOST_WORDS} words", where=where)
        if len(inputs) < len(self.words) + (self.longest > 1):
            raise BadInputError(f"{len(self.words)} words and their n-grams need more inputs", where=where)
        if not np.isfinite(inputs).all():
            raise BadInputError("vectors must be finite", where=where)

    @property
    def dimensions(self) -> int:
        return int(self.inputs.shape[1])

    @cached_property
    def _places(self) -> dict[str, int]:
        return {word: place for place, word in enumerate(self.words)}

    def embed(self, sentences: Sequence[str]) -> Embedded:
        from quiltwork.text.sent2vec.learn import means

        cut = [word_tokens(sentence) for sentence in sentences]
        known = [[self._places[token] for token in tokens if token in self._places] for tokens in cut]
        used = np.array([len(words) for words in known], np.int64)
        vectors = np.zeros((len(cut), self.dimensions), np.float32)
        words = np.array([word for own in known for word in own], np.int32)
        means(vectors, words, ends_of(used), self.inputs, len(self.words), self.longest)
        tokens = np.array([len(tokens) for tokens in cut], np.int64)
        return Embedded(vectors, used > 0, tokens, used, np.zeros(len(cut), np.bool_))


def ends_of(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where sentences of these lengths begin, one after another, and where the last ends (sentences + 1,)."""
    ends = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    return ends
