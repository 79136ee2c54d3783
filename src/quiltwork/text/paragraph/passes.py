"""Learning a paragraph's vector by one walk over its words, sentence2vec's way; compiled loops over plain arrays.

The frozen word2vec comes as ``inputs`` (words, d) and ``nodes`` (m, d), float32, and as paths (``starts``, ``points``,
``codes``; see ``huffman``). Sentences come one after another in ``words`` (int32, UNKNOWN is negative), sentence s from
``ends[s]`` to ``ends[s + 1]``. ``vectors`` (sentences, d) holds where each begins, and what it has learnt afterwards.

A window around position i reaches ``window - shrink[i]`` positions to either side, and what stands at distance t counts
``weights[t]`` (window + 1,). All nodes of a path are weighed at the vector as it was before that path.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quiltwork.layers.compiled import exp32, kernel
from quiltwork.text.random_bits import below, below_one


@kernel()
def _learn_word(vector: Any, hidden: Any, learnt: Any, nodes: Any, points: Any, codes: Any, rate: Any) -> None:
    """vector += rate * sum_k (1 - c_k - sigmoid(hidden . n_k)) n_k over one word's path; ``learnt`` is scratch (d,)."""
    d = len(vector)
    one = np.float32(1)
    for j in range(d):
        learnt[j] = 0
    for k in range(len(points)):
        node = nodes[points[k]]
        dot = np.float32(0)
        for j in range(d):
            dot += hidden[j] * node[j]
        gain = rate * (one - np.float32(codes[k]) - one / (one + exp32(-dot)))
        for j in range(d):
            learnt[j] += gain * node[j]
    for j in range(d):
        vector[j] += learnt[j]


@kernel()
def sg_pass(vectors: Any, words: Any, ends: Any, shrink: Any, weights: Any, nodes: Any, starts: Any, points: Any,
            codes: Any, alpha: Any) -> None:  # fmt: skip
    """The vector predicts every known word of the window around every known word, the word itself too."""
    window = len(weights) - 1
    learnt = np.empty(nodes.shape[1], np.float32)
    for s in range(len(ends) - 1):
        vector, first, last = vectors[s], ends[s], ends[s + 1]
        for i in range(first, last):
            if words[i] < 0:
                continue
            reach = window - shrink[i]
            for j in range(max(first, i - reach), min(last, i + reach + 1)):
                word = words[j]
                if word >= 0:
                    path = slice(starts[word], starts[word + 1])
                    rate = np.float32(alpha * weights[abs(i - j)])
                    _learn_word(vector, vector, learnt, nodes, points[path], codes[path], rate)


@kernel()
def cbow_pass(vectors: Any, words: Any, ends: Any, shrink: Any, weights: Any, inputs: Any, nodes: Any, starts: Any,
              points: Any, codes: Any, alpha: Any) -> None:  # fmt: skip
    """The vector plus the sum of the window's other words (their inputs) predicts every known word."""
    window, d = len(weights) - 1, nodes.shape[1]
    learnt, hidden = np.empty(d, np.float32), np.empty(d, np.float32)
    for s in range(len(ends) - 1):
        vector, first, last = vectors[s], ends[s], ends[s + 1]
        for i in range(first, last):
            word = words[i]
            if word < 0:
                continue
            for c in range(d):
                hidden[c] = vector[c]
            reach = window - shrink[i]
            for j in range(max(first, i - reach), min(last, i + reach + 1)):
                if j != i and words[j] >= 0:
                    weight, beside = np.float32(weights[abs(i - j)]), inputs[words[j]]
                    for c in range(d):
                        hidden[c] += weight * beside[c]
            path = slice(starts[word], starts[word + 1])
            _learn_word(vector, hidden, learnt, nodes, points[path], codes[path], np.float32(alpha))


@kernel()
def bag(vectors: Any, words: Any, ends: Any, counts: Any, table: Any) -> None:
    """vectors[s] = sum over the words of sentence s of counts (words,) times their row of ``table`` (n + 1, d).

    The last row is zeros: -1, in place of an unknown word, is its index too.
    """
    d = table.shape[1]
    for s in range(len(ends) - 1):
        vector, i, last = vectors[s], ends[s], ends[s + 1]
        for j in range(d):
            vector[j] = 0
        while i + 4 <= last:  # four rows at a time: the sum is read and written a quarter as often
            a, b, c, e = table[words[i]], table[words[i + 1]], table[words[i + 2]], table[words[i + 3]]
            p, q, r, t = counts[i], counts[i + 1], counts[i + 2], counts[i + 3]
            for j in range(d):
                vector[j] += (p * a[j] + q * b[j]) + (r * c[j] + t * e[j])
            i += 4
        while i < last:
            row, count = table[words[i]], counts[i]
            for j in range(d):
                vector[j] += count * row[j]
            i += 1


@kernel()
def count_known(known: Any, words: Any, ends: Any) -> None:
    """known[s] = how many words of sentence s are not UNKNOWN."""
    for s in range(len(ends) - 1):
        total = 0
        for i in range(ends[s], ends[s + 1]):
            total += words[i] >= 0
        known[s] = total


@kernel()
def window_counts(counts: Any, words: Any, ends: Any, weights: Any) -> None:
    """counts[j] = sum of ``weights`` over the known positions i of its sentence whose window reaches j."""
    window = len(weights) - 1
    for s in range(len(ends) - 1):
        first, last = ends[s], ends[s + 1]
        for j in range(first, last):
            total = np.float32(0)
            for i in range(max(first, j - window), min(last, j + window + 1)):
                if words[i] >= 0:
                    total += weights[abs(i - j)]
            counts[j] = total


@kernel()
def draw(seeds: Any, ends: Any, window: Any, shrink: Any, vectors: Any) -> None:
    """From the seed of each sentence (uint64, which goes on): ``vectors`` (sentences, d) uniform from -.5 / d to
    .5 / d, untouched where d is 0, and then ``shrink`` (words,) uniform from 0 to window - 1."""
    d = vectors.shape[1]
    for s in range(len(ends) - 1):
        state = seeds[s : s + 1]
        for j in range(d):
            vectors[s, j] = (below_one(state) - 0.5) / d
        for i in range(ends[s], ends[s + 1]):
            shrink[i] = below(state, window)
