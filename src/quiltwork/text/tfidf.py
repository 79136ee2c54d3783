"""Cosine of word counts in which rare words weigh more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import fsum, log, sqrt

from quiltwork.core.errors import BadInputError
from quiltwork.text.measure import Tokens, settled


@dataclass(frozen=True)
class TfIdf:
    """A measure that knows how many sentences of a collection have each word: ``TfIdf.fit`` counts them.

    sentences : how many there are. having : in how many of them a word is; a word that is not named is in none.
    Raises BadInputError where a count is negative or more than there are sentences.
    """

    sentences: int
    having: Mapping[str, int]

    def __post_init__(self) -> None:
        wrong = next((word for word, count in self.having.items() if not 0 <= count <= self.sentences), None)
        if wrong is not None:
            raise BadInputError(
                f"{wrong[:40]!r} is in {self.having[wrong]} of {self.sentences} sentences", where="document frequencies"
            )
        # A copy, so that nobody counts on in it.
        object.__setattr__(self, "having", dict(self.having))

    @classmethod
    def fit(cls, collection: Iterable[Tokens]) -> TfIdf:
        """Count the words of a collection: each sentence's tokens, of the pipeline that is measured with later."""
        having: Counter[str] = Counter()
        sentences = 0
        for tokens in collection:
            sentences += 1
            having.update(set(tokens))
        return cls(sentences, having)

    def idf(self, word: str) -> float:
        """1 + ln((1 + sentences) / (1 + having)): as if one sentence more had every word, so that none is infinite."""
        return 1 + log((1 + self.sentences) / (1 + self.having.get(word, 0)))

    def __call__(self, a: Tokens, b: Tokens, /) -> float:
        return settled(self._cosine)(a, b)

    def _cosine(self, a: Tokens, b: Tokens) -> float:
        weights_a, weights_b = self._weights(a), self._weights(b)
        # fsum rounds once, whatever the order: that of a set of words differs from process to process.
        dot = fsum(weights_a[word] * weights_b[word] for word in weights_a.keys() & weights_b.keys())
        return dot / sqrt(_square(weights_a) * _square(weights_b))

    def _weights(self, tokens: Tokens) -> dict[str, float]:
        return {word: count * self.idf(word) for word, count in Counter(tokens).items()}


def _square(weights: Mapping[str, float]) -> float:
    return fsum(weight * weight for weight in weights.values())
