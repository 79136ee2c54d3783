"""What turns sentences into vectors, and what it says of each besides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Embedded:
    """Vectors of n sentences, in their order."""

    vectors: Vectors
    """(n, dimensions), finite; a row of zeros where the sentence is not ``known``."""
    known: npt.NDArray[np.bool_]
    """(n,) whether there is anything to say of the sentence: an empty one, or one without any word that the model
    has, has no vector."""
    tokens: npt.NDArray[np.int64]
    """(n,) how many tokens the sentence has, as the model cuts it."""
    used: npt.NDArray[np.int64]
    """(n,) how many of them the vector is of: fewer where a model takes only so many, or does not know them all."""
    truncated: npt.NDArray[np.bool_]
    """(n,) whether the end of the sentence was left out because it is too long for the model."""

    def rows(self, at: npt.NDArray[np.int64] | slice) -> Embedded:
        """Those of some of the sentences."""
        return Embedded(self.vectors[at], self.known[at], self.tokens[at], self.used[at], self.truncated[at])


class Embedder(Protocol):
    """A model of sentences. A vector depends on the sentence alone: not on what else is embedded with it, nor on the
    process, nor on what came before. Methods may be called from any thread."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        ...

    def embed(self, sentences: Sequence[str]) -> Embedded:
        """Vectors of these sentences; as they come, not scaled to length 1 unless that is part of the model."""
        ...


def cosines(a: Embedded, b: Embedded) -> npt.NDArray[np.float64]:
    """The cosine of each vector of ``a`` with the one of ``b`` in the same place (n,); NaN where one is not known."""
    left, right = a.vectors.astype(np.float64), b.vectors.astype(np.float64)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    there = a.known & b.known & (norms > 0)
    found = np.full(len(left), np.nan)
    np.divide((left * right).sum(axis=1), norms, out=found, where=there)
    # Rounding must not make two equal vectors other than 1.
    found[there & (left == right).all(axis=1)] = 1.0
    return np.asarray(np.clip(found, -1.0, 1.0))
