"""Learning sent2vec's vectors by walking over sentences; compiled loops over plain arrays.

Source: Pagliardini, Gupta, Jaggi, Unsupervised Learning of Sentence Embeddings using Compositional n-Gram Features,
NAACL 2018. Rows of ``inputs`` (n + buckets, d): the n words, then what n-grams of words are hashed to.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from quiltwork.layers.compiled import exp32, kernel
from quiltwork.text.random_bits import below, below_one


@kernel()
def _rows(rows: Any, words: Any, skipped: Any, without: Any, longest: Any, vocabulary: Any, buckets: Any) -> Any:
    """Write into ``rows`` those of the words and n-grams that a sentence is the mean of; returns how many.

    skipped : (words,) whose n-grams are left out. without : the position that is to be foretold, or -1: neither the
    word there nor any n-gram with it is used.
    """
    count = 0
    for i in range(len(words)):
        if i == without:
            continue
        rows[count] = words[i]
        count += 1
        if skipped[i]:
            continue
        hashed = np.uint64(words[i])
        for j in range(i + 1, min(len(words), i + longest)):
            if j == without or skipped[j]:
                break
            hashed = hashed * np.uint64(116049371) + np.uint64(words[j])
            rows[count] = vocabulary + np.int64(hashed % np.uint64(buckets))
            count += 1
    return count


@kernel()
def _mean(vector: Any, inputs: Any, rows: Any, count: Any) -> None:
    d = len(vector)
    for c in range(d):
        vector[c] = 0
    for r in range(count):
        row = inputs[rows[r]]
        for c in range(d):
            vector[c] += row[c]
    share = np.float32(1) / np.float32(count)
    for c in range(d):
        vector[c] *= share


@kernel()
def means(vectors: Any, words: Any, ends: Any, inputs: Any, vocabulary: Any, longest: Any) -> None:
    """vectors[s] (sentences, d) = the mean of the words and n-grams of sentence s; untouched where it has no word.

    words : (all,) ids of known words. Sentence s is ``words[ends[s]:ends[s + 1]]``.
    """
    for s in range(len(ends) - 1):
        own = words[ends[s] : ends[s + 1]]
        if len(own):
            rows = np.empty(len(own) * longest, np.int64)
            count = _rows(rows, own, np.zeros(len(own), np.bool_), -1, longest, vocabulary, len(inputs) - vocabulary)
            _mean(vectors[s], inputs, rows, count)


@kernel()
def _drop(skipped: Any, state: Any, dropped: Any) -> None:
    """Mark words at random whose n-grams are left out, but never all except one or two."""
    n, marked = len(skipped), 0
    while marked < dropped and n - marked > 2:
        i = below(state, n)
        if not skipped[i]:
            skipped[i] = True
            marked += 1


@kernel()
def _foretell(vector: Any, learnt: Any, outputs: Any, word: Any, state: Any, noise: Any, negatives: Any,
              rate: Any) -> Any:  # fmt: skip
    """One logistic regression for the word and for each word of noise; gradient for ``vector`` in ``learnt``."""
    d, one = len(vector), np.float32(1)
    loss = 0.0
    for c in range(d):
        learnt[c] = 0
    for turn in range(negatives + 1):
        target = word if turn == 0 else noise[below(state, len(noise))]
        if turn > 0 and target == word:
            continue
        label = one if turn == 0 else np.float32(0)
        row = outputs[target]
        dot = np.float32(0)
        for c in range(d):
            dot += vector[c] * row[c]
        guess = one / (one + exp32(-dot))
        gain = rate * (label - guess)
        loss -= np.log(max(guess if turn == 0 else one - guess, np.float32(1e-7)))
        for c in range(d):
            learnt[c] += gain * row[c]
            row[c] += gain * vector[c]
    return loss


@kernel()
def learn(inputs: Any, outputs: Any, words: Any, ends: Any, state: Any, rate: Any, kept: Any, noise: Any, longest: Any,
          dropped: Any, negatives: Any) -> Any:  # fmt: skip
    """Go over sentences once, changing ``inputs`` and ``outputs`` (n, d); returns the summed loss and how many words
    were foretold.

    words : ids of known words; sentence s is ``words[ends[s]:ends[s + 1]]``. state : of the random bits, which go
    on. kept : (n,) how likely each word is foretold. noise : word ids to draw from. longest : words of the longest
    n-gram. dropped : words whose n-grams are left out, each time anew.
    """
    d, vocabulary = inputs.shape[1], len(outputs)
    buckets = len(inputs) - vocabulary
    vector, learnt = np.empty(d, np.float32), np.empty(d, np.float32)
    total, foretold = 0.0, 0
    for s in range(len(ends) - 1):
        own = words[ends[s] : ends[s + 1]]
        if len(own) < 2:
            continue
        rows = np.empty(len(own) * longest, np.int64)
        skipped = np.zeros(len(own), np.bool_)
        for i in range(len(own)):
            if below_one(state) >= kept[own[i]]:
                continue
            skipped[:] = False
            _drop(skipped, state, dropped)
            count = _rows(rows, own, skipped, i, longest, vocabulary, buckets)
            _mean(vector, inputs, rows, count)
            total += _foretell(vector, learnt, outputs, own[i], state, noise, negatives, np.float32(rate))
            foretold += 1
            share = np.float32(1) / np.float32(count)
            for r in range(count):
                row = inputs[rows[r]]
                for c in range(d):
                    row[c] += share * learnt[c]
    return total, foretold
