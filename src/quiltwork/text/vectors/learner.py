"""The seam between the walk through a corpus and what learns from it, and the kinds of models that there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError
from quiltwork.core.registry import resolve
from quiltwork.core.servable import Json
from quiltwork.core.trainable import Arrays
from quiltwork.text.token_corpus import Ends, Ids
from quiltwork.text.vectors.training_text import TrainingText, Vocabulary
from quiltwork.zoo.config import Fields

MOST_TOKENS = 10_000
"""Of one call of ``learn``."""


class Learner(Protocol):
    """Learns from one stretch of sentences after another. Same seed and same stretches, same arrays, whatever the
    process; all that it knows between two stretches is in ``arrays`` and ``meta``."""

    def learn(self, ids: Ids, ends: Ends, rate: float) -> None:
        """Sentences one after the other (at most MOST_TOKENS tokens), ``ends`` (sentences,) where each ends in them."""
        ...

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """What it has learnt so far: the arrays themselves, which go on changing."""
        ...

    def meta(self) -> dict[str, Json]:
        """What else it has to remember, as JSON: where its randomness is."""
        ...

    def load(self, arrays: Arrays, meta: Mapping[str, Json]) -> None:
        """Go on from there. Raises BadInputError naming what does not fit."""
        ...

    def write(self, folder: Path, text: TrainingText, training: Mapping[str, Json], seed: int) -> None:
        """Put the finished model into an empty folder. training : the settings, to be told there."""
        ...


class LearnerFactory(Protocol):
    """Raises BadInputError naming the field that is out of range."""

    def __call__(self, fields: Fields, vocabulary: Vocabulary, seed: int) -> Learner: ...


@dataclass(frozen=True)
class Kind:
    """A kind of model: ``learner`` is the ``module:factory`` of its LearnerFactory; ``settings`` are what it can be
    told besides what every kind can, with what holds where nothing is said; ``defaults`` are its own of the latter."""

    learner: str
    settings: Mapping[str, Json]
    defaults: Mapping[str, Json] = field(default_factory=dict)

    def make(self, fields: Fields, vocabulary: Vocabulary, seed: int) -> Learner:
        return cast(LearnerFactory, resolve(self.learner))(fields, vocabulary, seed)


_WORDS: dict[str, Json] = {
    "method": "skip-gram", "dimensions": 100, "window": 5, "negative": 5, "hierarchical": False, "sample": 1e-4,
}  # fmt: skip
_GENSIM = "quiltwork.text.vectors.gensim_learner"

KINDS: dict[str, Kind] = {
    "word2vec": Kind(f"{_GENSIM}:word2vec", _WORDS),
    "fasttext": Kind(
        f"{_GENSIM}:fasttext", {**_WORDS, "shortest": 3, "longest": 6, "buckets": 300_000}, {"rate": 0.05}
    ),
    "pv": Kind(
        "quiltwork.text.paragraph.learner:paragraph_vectors",
        {"method": "skip-gram", "dimensions": 100, "window": 5, "predicts": "sg", "how": "weighted", "passes": 5},
        {"epochs": 1},
    ),
    "sent2vec": Kind(
        "quiltwork.text.sent2vec.learner:sent2vec",
        {"dimensions": 100, "longest": 2, "buckets": 500_000, "dropped": 4, "negative": 10, "sample": 1e-5},
        {"epochs": 9, "rate": 0.2},
    ),
}
"""By the name that users give. The learning rates are those of the programmes of these names."""


def kind_named(name: str) -> Kind:
    """Raises BadInputError for a name that is not in ``KINDS``."""
    if name not in KINDS:
        raise BadInputError(f"{name[:40]!r} is not one of {', '.join(KINDS)}", where="model")
    return KINDS[name]
