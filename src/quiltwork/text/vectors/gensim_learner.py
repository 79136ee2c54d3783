"""word2vec and fastText: gensim's compiled loops, one stretch of sentences at a time, with every random number's origin
kept.

gensim's own ``train`` hides where it is and what it drew. Its loops take the model's ``random`` once per call, so that
state and the weights are all there is to remember.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError
from quiltwork.core.registry import missing_package
from quiltwork.core.servable import Json
from quiltwork.core.trainable import Arrays
from quiltwork.text.token_corpus import Ends, Ids
from quiltwork.text.vectors.model import Huffman, Ngrams, WordVectors
from quiltwork.text.vectors.removal import common_directions
from quiltwork.text.vectors.subwords import Subwords
from quiltwork.text.vectors.training_text import TrainingText, Vocabulary
from quiltwork.zoo.config import Fields

METHODS = ("skip-gram", "cbow")
MOST_DIMENSIONS, MOST_WINDOW, MOST_NEGATIVE, MOST_BUCKETS, MOST_LETTERS = 4096, 1000, 1000, 1 << 24, 64
_SEEDS = 2**32


def word2vec(fields: Fields, vocabulary: Vocabulary, seed: int) -> GensimLearner:
    """Mikolov et al. 2013: a vector a word. Raises BadInputError naming a field."""
    made = _gensim().Word2Vec(**_settings(fields), seed=seed % _SEEDS)
    return GensimLearner(made, vocabulary, seed, subwords=None)


def fasttext(fields: Fields, vocabulary: Vocabulary, seed: int) -> GensimLearner:
    """Bojanowski et al. 2017: a word's vector is the mean of its own and those of its runs of letters, so that a word
    never seen has one too. Raises BadInputError naming a field."""
    longest = fields.size("longest", MOST_LETTERS)
    subwords = Subwords(fields.size("shortest", MOST_LETTERS), longest, fields.size("buckets", MOST_BUCKETS))
    if subwords.shortest > longest:
        raise fields.error("shortest", f"{subwords.shortest} is more than longest, {longest}")
    letters = {"min_n": subwords.shortest, "max_n": longest, "bucket": subwords.buckets}
    made = _gensim().FastText(**_settings(fields), **letters, seed=seed % _SEEDS)
    return GensimLearner(made, vocabulary, seed, subwords)


def _gensim() -> Any:
    try:
        from gensim import models
    except ModuleNotFoundError as error:
        raise missing_package(error, where="word vectors") from error
    return models


def _settings(fields: Fields) -> dict[str, Any]:
    method = fields.text("method")
    if method not in METHODS:
        raise fields.error("method", f"{method[:40]!r} is not one of {', '.join(METHODS)}")
    hierarchical, negative = fields.flag("hierarchical"), fields.get("negative")
    if type(negative) is not int or not 0 <= negative <= MOST_NEGATIVE:
        raise fields.error("negative", f"must be a whole number from 0 to {MOST_NEGATIVE}, not {str(negative)[:40]}")
    if not hierarchical and not negative:
        raise fields.error("negative", "0 leaves nothing to learn by without hierarchical")
    sample = fields.number("sample")
    if not 0 <= sample < 1:
        raise fields.error("sample", f"{sample:g} is not from 0 to 1")
    return {
        "sg": int(method == "skip-gram"),
        "vector_size": fields.size("dimensions", MOST_DIMENSIONS),
        "window": fields.size("window", MOST_WINDOW),
        "hs": int(hierarchical),
        "negative": negative,
        "sample": sample,
        # The vocabulary comes cut and sorted: gensim's own order of equally frequent words hangs on the processor.
        "min_count": 1,
        "sorted_vocab": 0,
        "workers": 1,
    }


class GensimLearner:
    """A model of gensim's in training. See ``Learner``."""

    def __init__(self, made: Any, vocabulary: Vocabulary, seed: int, subwords: Subwords | None) -> None:
        self._model, self._subwords, self._seed = made, subwords, seed
        self._words = np.array(vocabulary.words, dtype=object)
        made.build_vocab_from_freq(dict(zip(vocabulary.words, vocabulary.counts.tolist(), strict=True)))
        self._work = np.zeros((2, made.vector_size), np.float32)

    def learn(self, ids: Ids, ends: Ends, rate: float) -> None:
        words = self._words[ids].tolist()
        begins = [0, *ends[:-1].tolist()]
        sentences = [words[a:b] for a, b in zip(begins, ends.tolist(), strict=True)]
        work, neu1 = self._work
        if self._subwords is not None:
            from gensim.models.fasttext_inner import train_batch_any

            train_batch_any(self._model, sentences, rate, work, neu1)
        elif self._model.sg:
            from gensim.models.word2vec_inner import train_batch_sg

            train_batch_sg(self._model, sentences, rate, work, False)
        else:
            from gensim.models.word2vec_inner import train_batch_cbow

            train_batch_cbow(self._model, sentences, rate, work, neu1, False)

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        found = {**self._weights(), "random": self._model.random.get_state()[1]}
        return {name: np.asarray(array) for name, array in found.items()}

    def meta(self) -> dict[str, Json]:
        kind, _, position, has_gauss, gauss = self._model.random.get_state()
        return {"random": [kind, int(position), int(has_gauss), float(gauss)]}

    def load(self, arrays: Arrays, meta: Mapping[str, Json]) -> None:
        own = self.arrays()
        if set(arrays) != set(own):
            odd = sorted(set(arrays) ^ set(own))[0]
            raise BadInputError("is not of this kind of model", where=f"state: {odd}")
        for name, array in own.items():
            if arrays[name].shape != array.shape or arrays[name].dtype != array.dtype:
                raise BadInputError(f"is {arrays[name].shape} instead of {array.shape}", where=f"state: {name}")
        told = meta.get("random")
        if not isinstance(told, list) or len(told) != 4:
            raise BadInputError("is missing", where="state: random")
        for name, array in self._weights().items():
            array[...] = arrays[name]
        kind, position, has_gauss, gauss = told
        self._model.random.set_state((kind, arrays["random"], position, has_gauss, gauss))

    def _weights(self) -> dict[str, npt.NDArray[np.float32]]:
        """The arrays that the loops write into, by name."""
        model = self._model
        found = {"vectors": model.wv.vectors}
        if self._subwords is not None:
            found = {"own": model.wv.vectors_vocab, "ngrams": model.wv.vectors_ngrams}
        if model.negative:
            found["outputs"] = model.syn1neg
        if model.hs:
            found["nodes"] = model.syn1
        return found

    def finished(self, vocabulary: Vocabulary) -> WordVectors:
        """The vectors as they are now; a copy."""
        wv = self._model.wv
        if self._subwords is None:
            return WordVectors(vocabulary, wv.vectors.copy(), huffman=self._huffman())
        wv.adjust_vectors()
        seen = np.zeros(self._subwords.buckets, np.bool_)
        seen[np.concatenate(wv.buckets_word)] = True
        ngrams = Ngrams(self._subwords, wv.vectors_ngrams.copy(), seen)
        return WordVectors(vocabulary, wv.vectors.copy(), ngrams, self._huffman())

    def _huffman(self) -> Huffman | None:
        if not self._model.hs:
            return None
        codes, points = (self._model.wv.expandos[name] for name in ("code", "point"))
        starts = np.concatenate([[0], np.cumsum([len(code) for code in codes])]).astype(np.int64)
        return Huffman(
            self._model.syn1.copy(),
            starts,
            np.concatenate(list(points)).astype(np.int32),
            np.concatenate(list(codes)).astype(np.uint8),
        )

    def write(self, folder: Path, text: TrainingText, training: Mapping[str, Json], seed: int) -> None:
        vectors = self.finished(text.vocabulary)
        vectors.with_common(common_directions(vectors, text, seed)).save(folder, training=training)
