"""Training sent2vec, one stretch of sentences after another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError
from quiltwork.core.servable import Json
from quiltwork.core.trainable import Arrays
from quiltwork.text.sent2vec.folder import save
from quiltwork.text.sent2vec.model import MOST_WORDS, SentenceNgrams
from quiltwork.text.token_corpus import Ends, Ids
from quiltwork.text.vectors.training_text import TrainingText, Vocabulary
from quiltwork.zoo.config import Fields

MOST_DIMENSIONS, MOST_BUCKETS, MOST_NEGATIVE, MOST_DROPPED = 4096, 1 << 24, 1000, 1000
LONGEST_SENTENCE = 1024
"""Words of a sentence that are learnt together, as in sent2vec: the work grows with their square."""
_NOISE = 1 << 22
"""Length of the table that words of noise are drawn from."""


def sent2vec(fields: Fields, vocabulary: Vocabulary, seed: int) -> Sent2VecLearner:
    """A learner from its settings. longest : words of the longest n-gram. buckets : rows that n-grams are hashed to.
    dropped : words whose n-grams are left out each time (sent2vec's dropoutK). negative : words of noise. sample : t; a
    word that is a larger share of all words is foretold more seldom, and 1 foretells all.

    Raises BadInputError naming a field that is out of range.
    """
    for name, most in (("negative", MOST_NEGATIVE), ("dropped", MOST_DROPPED)):
        value = fields.get(name)
        if type(value) is not int or not (name == "negative") <= value <= most:
            raise fields.error(name, f"must be a whole number up to {most}, not {str(value)[:40]}")
    if not 0 < fields.number("sample") <= 1:
        raise fields.error("sample", "must be above 0 and at most 1")
    for name, most in (("dimensions", MOST_DIMENSIONS), ("longest", MOST_WORDS), ("buckets", MOST_BUCKETS)):
        fields.size(name, most)
    return Sent2VecLearner(fields, vocabulary, seed)


class Sent2VecLearner:
    """Vectors of words and n-grams in training. See ``vectors.learner.Learner``."""

    def __init__(self, fields: Fields, vocabulary: Vocabulary, seed: int) -> None:
        self._longest, d, words = fields.size("longest"), fields.size("dimensions"), len(vocabulary.words)
        self._dropped, self._negative = int(fields.number("dropped")), int(fields.number("negative"))
        self._kept = _kept(vocabulary.counts, fields.number("sample"))
        self._noise = _noise(vocabulary.counts)
        rows = words + (fields.size("buckets") if self._longest > 1 else 0)
        start = np.random.default_rng([seed, 0x52F]).random((rows, d), np.float32)
        self._inputs = (start * 2 - 1) / np.float32(d)
        self._outputs = np.zeros((words, d), np.float32)
        self._random = np.array([seed % 2**64], np.uint64)

    def learn(self, ids: Ids, ends: Ends, rate: float) -> None:
        from quiltwork.text.sent2vec.learn import learn

        learn(self._inputs, self._outputs, ids, _short(ends), self._random, rate, self._kept, self._noise,
              self._longest, self._dropped, self._negative)  # fmt: skip

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        return {"inputs": self._inputs, "outputs": self._outputs, "random": self._random}

    def meta(self) -> dict[str, Json]:
        return {}

    def load(self, arrays: Arrays, meta: Mapping[str, Json]) -> None:
        own = self.arrays()
        if set(arrays) != set(own):
            raise BadInputError("is not of this kind of model", where=f"state: {min(set(arrays) ^ set(own))}")
        for name, array in own.items():
            if arrays[name].shape != array.shape or arrays[name].dtype != array.dtype:
                raise BadInputError(f"is {arrays[name].shape} instead of {array.shape}", where=f"state: {name}")
        for name, array in own.items():
            array[...] = arrays[name]

    def write(self, folder: Path, text: TrainingText, training: Mapping[str, Json], seed: int) -> None:
        made = SentenceNgrams(text.vocabulary.words, self._inputs, self._longest)
        save(made, folder, training={**training, "tokens": text.vocabulary.tokens})


def _kept(counts: npt.NDArray[np.int64], sample: float) -> npt.NDArray[np.float64]:
    """How likely a word is foretold where it occurs (words,)."""
    share = sample / (counts / counts.sum())
    return np.ones(len(counts)) if sample == 1 else np.asarray(np.minimum(np.sqrt(share) + share, 1.0))


def _noise(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
    """Words, each as often as the square root of how often it occurs asks for."""
    total = np.cumsum(np.sqrt(counts))
    size = max(_NOISE, len(counts))
    places = (np.arange(size) + 0.5) * (total[-1] / size)
    return np.asarray(np.searchsorted(total, places), np.int32)


def _short(ends: Ends) -> Ends:
    """Where sentences begin and end (sentences + 1,), cut where one is longer than LONGEST_SENTENCE."""
    begins = np.concatenate([[0], ends[:-1]])
    pieces = [np.arange(a, b, LONGEST_SENTENCE) for a, b in zip(begins.tolist(), ends.tolist(), strict=True)]
    return np.concatenate([*pieces, ends[-1:]]).astype(np.int64)
