"""Measures that count what two sentences have in common: words, or runs of letters."""

from __future__ import annotations

from collections import Counter
from math import sqrt

from quiltwork.text.measure import Measure, Tokens, settled

_PAD = "\0"


@settled
def jaccard(a: Tokens, b: Tokens) -> float:
    """|A ∩ B| / |A ∪ B| of the sets of words."""
    words_a, words_b = set(a), set(b)
    return len(words_a & words_b) / len(words_a | words_b)


@settled
def block(a: Tokens, b: Tokens) -> float:
    """1 - Σ|tf_a - tf_b| / (n_a + n_b): block (city) distance of word counts, as a similarity."""
    counts_a, counts_b = Counter(a), Counter(b)
    return 2 * (counts_a & counts_b).total() / (len(a) + len(b))


@settled
def liblock(a: Tokens, b: Tokens) -> float:
    """The mean of ``block`` and the cosine of the sets of words (LiBlock without entities, Lara-Clares et al. 2022).

    The source takes ``block`` alone where the cosine is 0; both are then, so that no case is needed.
    """
    words_a, words_b = set(a), set(b)
    return (len(words_a & words_b) / sqrt(len(words_a) * len(words_b)) + block(a, b)) / 2


def qgram_of(q: int) -> Measure:
    """shared / (n_a + n_b - shared) of the multisets of runs of ``q`` letters, ``q`` >= 1; words are joined by blanks,
    and q - 1 pads stand at both ends."""

    def runs(tokens: Tokens) -> Counter[str]:
        text = _PAD * (q - 1) + " ".join(tokens) + _PAD * (q - 1)
        return Counter(text[at : at + q] for at in range(len(text) - q + 1))

    @settled
    def qgram(a: Tokens, b: Tokens) -> float:
        runs_a, runs_b = runs(a), runs(b)
        shared = (runs_a & runs_b).total()
        return shared / (runs_a.total() + runs_b.total() - shared)

    return qgram


qgram = qgram_of(3)
"""With runs of three letters, as in Blagec et al."""
