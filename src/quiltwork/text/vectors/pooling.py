"""From the vectors of a sentence's words to its own: poolings by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json
from quiltwork.text.embedder import Embedded, Vectors
from quiltwork.text.files import ModelFiles, read_json
from quiltwork.text.token_corpus import word_tokens
from quiltwork.text.vectors.dropped import drops
from quiltwork.text.vectors.model import WordVectors
from quiltwork.text.vectors.weights import WEIGHTS, Weights

COMBINED = ("mean", "sum", "max", "min")


@dataclass(frozen=True)
class Pooling:
    """How words' vectors become a sentence's.

    combine : ``mean`` or ``sum`` weighs them; ``max`` and ``min`` take each dimension's largest or smallest.
    weight : one of ``WEIGHTS``. stops, marks : which tokens are left out, see ``dropped``.
    common, removed : the mean and so many directions of the model's ``common`` of that name are taken out.

    Raises BadInputError for what is none of these.
    """

    combine: str = "mean"
    weight: str = "even"
    stops: str | None = None
    marks: bool = False
    common: str | None = None
    removed: int = 0

    def __post_init__(self) -> None:
        if self.combine not in COMBINED or self.weight not in WEIGHTS:
            raise BadInputError(f"{self.combine!r} of weights {self.weight!r} is not known", where="pooling")
        if self.combine != "mean" and self.common is not None:
            raise BadInputError(f"takes nothing common out of a {self.combine}", where="pooling")
        if self.removed < 0 or (self.removed and self.common is None):
            raise BadInputError(f"cannot take out {self.removed} directions of {self.common}", where="pooling")
        drops(self.stops, self.marks)


POOLINGS: Mapping[str, Pooling] = {
    "avg": Pooling("mean"),
    "sum": Pooling("sum"),
    "max": Pooling("max"),
    "min": Pooling("min"),
    "idf": Pooling("mean", "idf"),
    "sif": Pooling("mean", "sif"),
    "sif-pc": Pooling("mean", "sif", common="sif", removed=1),
    "abtt": Pooling("mean", "idf", "nltk", True, "words", 2),
}
"""``avg``, ``sum``, ``max``, ``min`` : over all tokens (Blagec et al. 2019). ``idf`` : rare words weigh more. ``sif``,
``sif-pc`` : smooth inverse frequency, without and with the first common direction taken out (Arora et al. 2017).
``abtt`` : all but the top (Mu & Viswanath 2018), idf-weighted, without stop words and marks."""


def pooling_named(name: str) -> Pooling:
    """Raises BadInputError for a name that is not in ``POOLINGS``."""
    if name not in POOLINGS:
        raise BadInputError(f"{name[:40]!r} is not one of {', '.join(POOLINGS)}", where="pooling")
    return POOLINGS[name]


@dataclass(frozen=True, eq=False)
class PooledVectors:
    """An ``Embedder``: a sentence's vector out of its words'. Raises BadInputError where the model does not have what
    the pooling takes out."""

    name: str
    vectors: WordVectors
    pooling: Pooling
    _weights: Weights = field(init=False, repr=False)

    def __post_init__(self) -> None:
        common = self.pooling.common
        if common is not None:
            kept = self.vectors.common.get(common)
            if kept is None or len(kept.directions) < self.pooling.removed:
                raise BadInputError(
                    f"does not keep {self.pooling.removed} directions common to {common}", where=self.vectors.where
                )
        object.__setattr__(self, "_weights", WEIGHTS[self.pooling.weight](self.vectors.vocabulary))

    @property
    def dimensions(self) -> int:
        return self.vectors.dimensions

    def embed(self, sentences: Sequence[str]) -> Embedded:
        rows = np.zeros((len(sentences), self.dimensions), np.float32)
        counts = np.zeros((2, len(sentences)), np.int64)
        for i, sentence in enumerate(sentences):
            tokens = word_tokens(sentence)
            found = self._known(tokens)
            counts[:, i] = len(tokens), len(found[1])
            if len(found[1]):
                rows[i] = self._pooled(*found)
        known = np.asarray(rows.any(axis=1), np.bool_)
        counts[1, ~known] = 0
        return Embedded(rows, known, counts[0], counts[1], np.zeros(len(sentences), np.bool_))

    def _known(self, tokens: Sequence[str]) -> tuple[npt.NDArray[np.float64], Weights]:
        """Vectors (n, d) of the tokens that have one and are not left out, and their weights (n,)."""
        leave_out, index, unknown = drops(self.pooling.stops, self.pooling.marks), self.vectors.index, -1
        kept: list[Vectors] = []
        places: list[int] = []
        for token in tokens:
            if not leave_out(token) and (vector := self.vectors.vector(token)) is not None:
                kept.append(vector)
                places.append(index.get(token, unknown))
        return np.array(kept, np.float64).reshape(len(kept), self.dimensions), self._weights[places]

    def _pooled(self, vectors: npt.NDArray[np.float64], weights: Weights) -> npt.NDArray[np.float64]:
        combine = self.pooling.combine
        if combine in ("max", "min"):
            weighed = vectors * weights[:, None]
            return np.asarray(weighed.max(axis=0) if combine == "max" else weighed.min(axis=0))
        total = weights.sum()
        if not total:
            return np.zeros(self.dimensions)
        pooled = weights @ vectors / (total if combine == "mean" else 1.0)
        if self.pooling.common is None:
            return np.asarray(pooled)
        mean, directions = self._common
        pooled = pooled - mean
        return np.asarray(pooled - directions.T @ (directions @ pooled))

    @cached_property
    def _common(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        assert self.pooling.common is not None
        kept = self.vectors.common[self.pooling.common]
        return kept.mean.astype(np.float64), kept.directions[: self.pooling.removed].astype(np.float64)


def load_word_embedder(
    files: ModelFiles, pooling: str | Pooling | None = None, *, name: str | None = None
) -> PooledVectors:
    """A sentence embedder out of a folder of word vectors.

    pooling : one of ``POOLINGS``, or one of its own; the model's where None. name : what tables call it.

    Raises NotFoundError and BadInputError as ``WordVectors.load``.
    """
    chosen = pooling if pooling is not None else _own(files)
    label = chosen if isinstance(chosen, str) else "own"
    made = pooling_named(chosen) if isinstance(chosen, str) else chosen
    return PooledVectors(name or f"word vectors ({label})", WordVectors.load(files), made)


def _own(files: ModelFiles) -> str:
    told: Json = read_json(files, "config.json").get("pooling")
    return told if isinstance(told, str) else "abtt"
