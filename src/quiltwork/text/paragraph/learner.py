"""Training the word2vec that paragraph vectors are inferred over: one with hierarchical softmax, by gensim's loops."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast, get_args

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import QuiltworkError
from quiltwork.core.registry import missing_package
from quiltwork.core.servable import Json
from quiltwork.core.trainable import Arrays
from quiltwork.text.paragraph.embedder import ParagraphVectors
from quiltwork.text.paragraph.folder import save
from quiltwork.text.paragraph.huffman import HuffmanVectors
from quiltwork.text.paragraph.inference import MOST_PASSES, How, Inference, Predicts
from quiltwork.text.token_corpus import Ends, Ids
from quiltwork.text.vectors.gensim_learner import METHODS, MOST_DIMENSIONS, MOST_WINDOW, GensimLearner
from quiltwork.text.vectors.training_text import TrainingText, Vocabulary
from quiltwork.zoo.config import Fields


def paragraph_vectors(fields: Fields, vocabulary: Vocabulary, seed: int) -> ParagraphLearner:
    """Raises BadInputError naming a field that is out of range, QuiltworkError without gensim."""
    method, window = fields.text("method"), fields.size("window", MOST_WINDOW)
    if method not in METHODS:
        raise fields.error("method", f"{method[:40]!r} is not one of {', '.join(METHODS)}")
    for name, allowed in (("predicts", get_args(Predicts)), ("how", get_args(How))):
        if (value := fields.text(name)) not in allowed:
            raise fields.error(name, f"{value[:40]!r} is not one of {', '.join(allowed)}")
    # What the folder says at first; whoever loads it may choose otherwise.
    told = Inference(
        cast(Predicts, fields.text("predicts")),
        cast(How, fields.text("how")),
        window,
        passes=fields.size("passes", MOST_PASSES),
    )
    try:
        from gensim.models import Word2Vec
    except ModuleNotFoundError as error:
        raise missing_package(error, where="paragraph vectors") from error
    made = Word2Vec(
        sg=int(method == "skip-gram"),
        vector_size=fields.size("dimensions", MOST_DIMENSIONS),
        window=window,
        hs=1,
        negative=0,
        cbow_mean=0,  # the sum of a window, as inference has it
        sample=0,
        min_count=1,  # the vocabulary comes cut and sorted
        sorted_vocab=0,
        workers=1,
        seed=seed % 2**32,
    )
    return ParagraphLearner(GensimLearner(made, vocabulary, seed, subwords=None), told)


class ParagraphLearner:
    """A word2vec in training, which ends as a folder of paragraph vectors. See ``vectors.learner.Learner``."""

    def __init__(self, words: GensimLearner, inference: Inference) -> None:
        self._words, self._inference = words, inference

    def learn(self, ids: Ids, ends: Ends, rate: float) -> None:
        self._words.learn(ids, ends, rate)

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        return self._words.arrays()

    def meta(self) -> dict[str, Json]:
        return self._words.meta()

    def load(self, arrays: Arrays, meta: Mapping[str, Json]) -> None:
        self._words.load(arrays, meta)

    def write(self, folder: Path, text: TrainingText, training: Mapping[str, Json], seed: int) -> None:
        found = self._words.finished(text.vocabulary)
        tree = found.huffman
        if tree is None:
            raise QuiltworkError("has no hierarchical softmax", where="paragraph vectors")
        model = HuffmanVectors(
            text.vocabulary.words, found.vectors, tree.nodes, tree.starts, tree.points, tree.codes
        )  # fmt: skip
        save(
            ParagraphVectors(model, self._inference),
            folder,
            training={**training, "tokens": text.vocabulary.tokens},
        )
