"""A finished word2vec with hierarchical softmax: its words' vectors, and each word's path through the Huffman tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError
from quiltwork.text.embedder import Vectors

Ids = npt.NDArray[np.int32]
UNKNOWN = -1
"""In place of a word that the model does not have; it keeps its place in the sentence. As an index, the last row."""


@dataclass(frozen=True, eq=False)
class HuffmanVectors:
    """Arrays of a model of n words in d dimensions.

    words : (n,) each once. inputs : (n, d), word2vec's ``syn0``. nodes : (m, d), its ``syn1``: the inner nodes of the
    Huffman tree. The path of word w, from the root, is ``points[starts[w]:starts[w + 1]]`` (rows of ``nodes``), and the
    turns it takes there are ``codes`` of the same range (0 or 1). starts : (n + 1,).

    Raises BadInputError where the arrays do not fit each other or have values that are not finite.
    """

    words: tuple[str, ...]
    inputs: Vectors
    nodes: Vectors
    starts: npt.NDArray[np.int64]
    points: npt.NDArray[np.int32]
    codes: npt.NDArray[np.uint8]

    def __post_init__(self) -> None:
        wrong = self._what_is_wrong()
        if wrong is not None:
            raise BadInputError(wrong, where="paragraph vectors")

    def _what_is_wrong(self) -> str | None:
        n = len(self.words)
        kinds = {"inputs": (2, np.float32), "nodes": (2, np.float32), "starts": (1, np.int64), "points": (1, np.int32),
                 "codes": (1, np.uint8)}  # fmt: skip
        for name, (axes, kind) in kinds.items():
            array = getattr(self, name)
            if array.ndim != axes or array.dtype != kind or not array.flags.c_contiguous:
                return f"{name} must be {axes}-dimensional, contiguous and {np.dtype(kind).name}"
        if n == 0 or len(self._places) != n:
            return "there must be words, each of them once"
        if len(self.inputs) != n or self.inputs.shape[1] == 0 or self.nodes.shape[1] != self.inputs.shape[1]:
            return f"{n} words need as many inputs, of the nodes' dimensions"
        if len(self.starts) != n + 1 or self.starts[0] != 0 or (np.diff(self.starts) < 0).any():
            return f"starts must rise from 0 over {n} words"
        if not self.starts[-1] == len(self.points) == len(self.codes):
            return "points and codes must be as many as starts says"
        if len(self.points) and not 0 <= self.points.min() <= self.points.max() < len(self.nodes):
            return "a point is not one of the nodes"
        if (self.codes > 1).any():
            return "codes must be 0 or 1"
        return None if np.isfinite(self.inputs).all() and np.isfinite(self.nodes).all() else "vectors must be finite"

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return int(self.inputs.shape[1])

    @cached_property
    def _places(self) -> dict[str, int]:
        return {word: place for place, word in enumerate(self.words)}

    def ids(self, tokens: Sequence[str]) -> Ids:
        """Which words these are (n,); UNKNOWN for those that the model does not have."""
        places = self._places
        return np.array([places.get(token, UNKNOWN) for token in tokens], np.int32)

    @cached_property
    def first_gradients(self) -> Vectors:
        """What a vector at 0 learns from each word at rate 1 (n + 1, d): half the sum over its path of the nodes, with
        + where the code is 0 and - where it is 1. The last row, UNKNOWN's, is 0.

        Made once, when it is asked for first.
        """
        halves = np.where(self.codes == 0, np.float32(0.5), np.float32(-0.5))
        sums = np.zeros((len(self.words) + 1, self.dimensions), np.float32)
        for word in range(len(self.words)):
            path = slice(self.starts[word], self.starts[word + 1])
            sums[word] = halves[path] @ self.nodes[self.points[path]]
        return sums


def of_gensim(model: Any) -> HuffmanVectors:
    """The arrays of a gensim ``Word2Vec`` trained with ``hs=1``, copied. Raises BadInputError for one without."""
    if not getattr(model, "hs", 0) or not hasattr(model, "syn1"):
        raise BadInputError("has no hierarchical softmax", where="word2vec", hint="train with hs=1, negative=0")
    vectors, n = model.wv, len(model.wv)
    codes = [np.asarray(vectors.get_vecattr(word, "code"), np.uint8) for word in range(n)]
    points = [np.asarray(vectors.get_vecattr(word, "point"), np.int32) for word in range(n)]
    starts = np.zeros(n + 1, np.int64)
    np.cumsum([len(code) for code in codes], out=starts[1:])
    return HuffmanVectors(
        tuple(vectors.index_to_key),
        np.ascontiguousarray(vectors.vectors, np.float32),
        np.ascontiguousarray(model.syn1, np.float32),
        starts,
        np.concatenate(points).astype(np.int32),
        np.concatenate(codes).astype(np.uint8),
    )
