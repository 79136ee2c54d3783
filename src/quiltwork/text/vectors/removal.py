"""What all vectors have in common, and says nothing of any: found in the training corpus, taken out of each sentence.

Arora et al. 2017 take the first direction of sentence vectors out (SIF); Mu & Viswanath 2018 ("all but the top") the
mean and the first few of word vectors. Never of the sentences that are asked about: a pair has the same score alone or
among others.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from quiltwork.text.vectors.dropped import drops
from quiltwork.text.vectors.model import Common, WordVectors
from quiltwork.text.vectors.training_text import TrainingText
from quiltwork.text.vectors.weights import WEIGHTS, Weights

MOST_DIRECTIONS = 10
"""How many are kept in a model; at most so many can be taken out."""
_SENTENCES = 20_000
"""Sentences of the corpus whose vectors are looked at, drawn by the seed."""

Matrix = npt.NDArray[np.float64]


def common_directions(vectors: WordVectors, text: TrainingText, seed: int) -> Mapping[str, Common]:
    """``words`` : of the vocabulary's vectors, around their mean. ``idf`` : of idf-weighted sentences without stop
    words and marks, around their mean. ``sif`` : of SIF-weighted sentences, from 0."""
    generator = np.random.default_rng([seed, 0xC0])
    chosen = np.sort(generator.choice(len(text.ends), min(_SENTENCES, len(text.ends)), replace=False))
    words = text.vocabulary.words
    leave_out = drops("nltk", True)
    content = np.array([not leave_out(word) for word in words])
    idf, sif = (WEIGHTS[name](text.vocabulary)[:-1] for name in ("idf", "sif"))
    return {
        "idf": _directions(_sentences(vectors, text, chosen, np.where(content, idf, 0.0)), centred=True),
        "sif": _directions(_sentences(vectors, text, chosen, sif), centred=False),
        "words": _directions(vectors.vectors.astype(np.float64), centred=True),
    }


def _sentences(vectors: WordVectors, text: TrainingText, chosen: npt.NDArray[np.int64], weights: Weights) -> Matrix:
    """Weighted means of these sentences' words; those of nothing are left out."""
    rows = []
    for number in chosen.tolist():
        ids = text.sentence(number)
        own = weights[ids]
        if total := own.sum():
            rows.append(own @ vectors.vectors[ids].astype(np.float64) / total)
    return np.array(rows).reshape(len(rows), vectors.dimensions)


def _directions(rows: Matrix, *, centred: bool) -> Common:
    width = rows.shape[1]
    mean = rows.mean(axis=0) if centred and len(rows) else np.zeros(width)
    spread = (rows - mean).T @ (rows - mean)
    _, found = np.linalg.eigh(spread)
    top = found[:, ::-1].T[:MOST_DIRECTIONS]
    # An eigenvector has no sign of its own.
    largest = np.take_along_axis(top, np.abs(top).argmax(axis=1, keepdims=True), axis=1)
    return Common(mean.astype(np.float32), np.ascontiguousarray(top * np.sign(largest), dtype=np.float32))
