"""What says of pairs of sentences how alike they are: measures of words, cosines of vectors, means of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError
from quiltwork.text.embedder import Embedder, cosines
from quiltwork.text.measure import Measure
from quiltwork.text.pipeline import Pipeline

Pairs = Sequence[tuple[str, str]]
Scores = npt.NDArray[np.float64]


class Scorer(Protocol):
    """A score of each pair (n,), at most 1; NaN where it can say nothing. The same both ways round, and the same
    whatever other pairs are asked about."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    def __call__(self, pairs: Pairs, /) -> Scores: ...


@dataclass(frozen=True)
class Words:
    """A measure of what a pipeline leaves of two sentences; it always has something to say."""

    name: str
    measure: Measure
    pipeline: Pipeline

    def __call__(self, pairs: Pairs, /) -> Scores:
        return np.array([self.measure(self.pipeline(a).tokens, self.pipeline(b).tokens) for a, b in pairs], np.float64)


@dataclass(frozen=True)
class Cosine:
    """The cosine of two sentences' vectors; exactly 1 for equal sentences that are known."""

    embedder: Embedder

    @property
    def name(self) -> str:
        return self.embedder.name

    def __call__(self, pairs: Pairs, /) -> Scores:
        a, b = zip(*pairs, strict=True) if pairs else ((), ())
        return cosines(self.embedder.embed(a), self.embedder.embed(b))


@dataclass(frozen=True)
class Mean:
    """The plain mean of those that have something to say; NaN where none has."""

    name: str
    scorers: tuple[Scorer, ...]

    def __post_init__(self) -> None:
        if not self.scorers:
            raise BadInputError("has nothing to take the mean of", where=self.name)

    def __call__(self, pairs: Pairs, /) -> Scores:
        all_scores = np.stack([scorer(pairs) for scorer in self.scorers])
        there = ~np.isnan(all_scores)
        count = there.sum(axis=0)
        found = np.full(len(pairs), np.nan)
        np.divide(np.where(there, all_scores, 0.0).sum(axis=0), count, out=found, where=count > 0)
        return found
