"""Measures for words that are not the same and yet alike in spelling, and the one that is mixed of three."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from math import fsum, sqrt

from quiltwork.text.measure import Tokens, settled
from quiltwork.text.overlap import block

MOST = 1_000_000
"""Pairs of different words that are compared: sentences of a thousand words, and half a second."""
_PAD = "\0"


@settled
def cosine(a: Tokens, b: Tokens) -> float:
    """The cosine of word counts."""
    counts_a, counts_b = Counter(a), Counter(b)
    dot = sum(count * counts_b[word] for word, count in counts_a.items())
    # Of whole numbers: the root is exact where both have the same words.
    return dot / sqrt(_square(counts_a) * _square(counts_b))


@settled
def soft(a: Tokens, b: Tokens) -> float:
    """The mean over the words of both sentences of how alike the most alike word of the other sentence is, which is
    Dice's coefficient of their pairs of letters, the ends counting as letters (after Monge and Elkan 1996).

    ``phosphorylation`` and ``dephosphorylated`` have much in common where other measures see two words. In texts so
    long that there are more than ``MOST`` pairs of words to compare, only the same words are alike.
    """
    pairs_a, pairs_b = _letter_pairs(a), _letter_pairs(b)
    # fsum rounds once, whatever the order.
    return fsum((*_nearest(a, pairs_a, pairs_b), *_nearest(b, pairs_b, pairs_a))) / (len(a) + len(b))


@settled
def lexical(a: Tokens, b: Tokens) -> float:
    """The mean of ``block``, ``cosine`` and ``soft``: words shared, shared often, and nearly shared."""
    return (block(a, b) + cosine(a, b) + soft(a, b)) / 3


def _square(counts: Counter[str]) -> int:
    return sum(count * count for count in counts.values())


def _letter_pairs(words: Tokens) -> dict[str, frozenset[str]]:
    padded = {word: f"{_PAD}{word}{_PAD}" for word in words}
    return {word: frozenset(map("".join, pairwise(text))) for word, text in padded.items()}


def _nearest(words: Tokens, own: dict[str, frozenset[str]], others: dict[str, frozenset[str]]) -> list[float]:
    near = len(own) * len(others) <= MOST

    def nearest(word: str) -> float:
        if word in others:
            return 1.0
        return max(_dice(own[word], other) for other in others.values()) if near else 0.0

    best = {word: nearest(word) for word in own}
    return [best[word] for word in words]


def _dice(a: frozenset[str], b: frozenset[str]) -> float:
    return 2 * len(a & b) / (len(a) + len(b))
