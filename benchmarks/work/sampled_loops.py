"""Paragraph vectors as sentence2vec (a fork of gensim of 2014) infers them: windows drawn in Python, numpy within."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from quiltwork.text.paragraph.huffman import HuffmanVectors

Vector = npt.NDArray[np.float32]


class SampledLoops:
    """One pass over each sentence, windows of 1 to ``window`` words, and nothing changes but the sentence's vector."""

    def __init__(self, model: HuffmanVectors, *, window: int = 5, alpha: float = 0.025, seed: int = 1) -> None:
        self._model, self._window, self._alpha, self._random = model, window, alpha, random.Random(seed)
        ends = zip(model.starts[:-1].tolist(), model.starts[1:].tolist(), strict=True)
        # As gensim keeps them: each word's path is looked up, not cut out, when it is needed.
        self._paths = [(model.points[a:b], 1 - model.codes[a:b].astype(np.float32)) for a, b in ends]

    def cbow(self, sentence: Sequence[int]) -> Vector:
        """The vector and the sum of the window's other words predict each word; ids below 0 are unknown words."""
        vector = self._begin()
        for i, word in enumerate(sentence):
            if word < 0:
                continue
            reach = self._window - self._random.randrange(self._window)
            start = max(0, i - reach)
            around = [w for j, w in enumerate(sentence[start : i + reach + 1], start) if w >= 0 and j != i]
            hidden = self._model.inputs[around].sum(axis=0) + vector
            vector += self._learnt(hidden, word)
        return vector

    def sg(self, sentence: Sequence[int]) -> Vector:
        """The vector predicts every word of every window."""
        vector = self._begin()
        for i, word in enumerate(sentence):
            if word < 0:
                continue
            reach = self._window - self._random.randrange(self._window)
            for other in sentence[max(0, i - reach) : i + reach + 1]:
                if other >= 0:
                    vector += self._learnt(vector, other)
        return vector

    def _begin(self) -> Vector:
        d = self._model.dimensions
        return (np.array([self._random.random() for _ in range(d)], np.float32) - np.float32(0.5)) / np.float32(d)

    def _learnt(self, hidden: Vector, word: int) -> Vector:
        points, labels = self._paths[word]
        nodes = self._model.nodes[points]
        gains = (labels - 1 / (1 + np.exp(-(nodes @ hidden)))) * np.float32(self._alpha)
        return np.asarray(gains @ nodes)
