"""How much a word counts in a sentence, by how frequent it is in the training corpus."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

from quiltwork.text.vectors.training_text import Vocabulary

Weights = npt.NDArray[np.float64]

SIF_A = 1e-3
"""Arora et al. 2017, the middle of the range that they recommend."""


def even(vocabulary: Vocabulary) -> Weights:
    """All the same."""
    return np.ones(len(vocabulary.words) + 1)


def idf(vocabulary: Vocabulary) -> Weights:
    """ln((1 + sentences) / (1 + sentences that have the word))."""
    having = np.append(vocabulary.having, 0)
    return np.asarray(np.log((1.0 + vocabulary.sentences) / (1.0 + having)))


def sif(vocabulary: Vocabulary) -> Weights:
    """Smooth inverse frequency, a / (a + p) with p the word's share of all tokens (Arora et al. 2017)."""
    share = np.append(vocabulary.counts, 0) / vocabulary.tokens
    return np.asarray(SIF_A / (SIF_A + share))


WEIGHTS: Mapping[str, Callable[[Vocabulary], Weights]] = {"even": even, "idf": idf, "sif": sif}
"""Each gives (words + 1,): of the vocabulary's words, and last of a word that is not in it."""
