"""What is learnt from: documents drawn from a corpus, as words that are frequent enough, and how frequent they are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError
from quiltwork.text.token_corpus import Ends, Ids, TokenCorpus

_SLAB = 1 << 21
"""Tokens whose sentences are gone through at once."""


@dataclass(frozen=True)
class Vocabulary:
    """Words of a training text, the most frequent first; of equally frequent ones, the smaller first."""

    words: tuple[str, ...]
    counts: npt.NDArray[np.int64]
    """(words,) how often each occurs."""
    having: npt.NDArray[np.int64]
    """(words,) in how many sentences."""
    sentences: int
    """In all."""
    tokens: int
    """In all, with those of words that are too rare to be here."""


@dataclass(frozen=True)
class TrainingText:
    """Sentences one after the other in the order of training; ``ids`` are positions in the vocabulary."""

    vocabulary: Vocabulary
    ids: Ids
    """(tokens,) words that are not in the vocabulary are left out."""
    ends: Ends
    """(sentences,) where each ends in ``ids``; none is empty."""
    digest: str
    """The same digest, the same text."""

    def sentence(self, number: int) -> Ids:
        """The words of one sentence."""
        return self.ids[(self.ends[number - 1] if number else 0) : self.ends[number]]


def draw_text(corpus: TokenCorpus, *, words: float, min_count: int, seed: int) -> TrainingText:
    """Whole documents of a corpus in an order that the seed decides, as many as ``words`` asks for.

    words : at most 1, the share of all the corpus's tokens; else how many tokens. The last document goes beyond that.
    min_count : words that occur less often in what was drawn are left out.

    Raises BadInputError where no word is that frequent.
    """
    order = np.random.default_rng([seed, 0x7E87]).permutation(len(corpus.document_ends))
    sentence_begins, token_begins = _begins(corpus.document_ends), _begins(corpus.sentence_ends)
    first, last = sentence_begins[order], corpus.document_ends[order]
    tokens = corpus.sentence_ends[last - 1] - token_begins[first]
    wanted = words * len(corpus.ids) if words <= 1 else words
    taken = min(int(np.searchsorted(np.cumsum(tokens), wanted)) + 1, len(order))
    spans = list(zip(first[:taken].tolist(), last[:taken].tolist(), strict=True))
    ids = np.concatenate([corpus.ids[token_begins[a] : corpus.sentence_ends[b - 1]] for a, b in spans])
    sizes = np.concatenate([corpus.sentence_ends[a:b] - token_begins[a:b] for a, b in spans])
    return _with_vocabulary(corpus, ids, sizes, min_count, f"{corpus.digest} {words!r} {min_count} {seed}")


def _with_vocabulary(corpus: TokenCorpus, ids: Ids, sizes: Ends, min_count: int, digest: str) -> TrainingText:
    counts = np.bincount(ids, minlength=len(corpus.words))
    kept = sorted(np.flatnonzero(counts >= max(min_count, 1)).tolist(), key=lambda i: (-counts[i], corpus.words[i]))
    if not kept:
        raise BadInputError(f"no word occurs {min_count} times", where="corpus", hint="lower min_count")
    place = np.full(len(corpus.words), -1, np.int32)
    place[kept] = np.arange(len(kept), dtype=np.int32)
    mapped = place[ids]
    known = np.concatenate([[0], np.cumsum(mapped >= 0)])
    ends = np.unique(known[np.cumsum(sizes)])
    ends = ends[ends > 0].astype(np.int64)
    mapped = mapped[mapped >= 0]
    vocabulary = Vocabulary(
        words=tuple(corpus.words[i] for i in kept),
        counts=counts[kept].astype(np.int64),
        having=_having(mapped, ends, len(kept)),
        sentences=len(sizes),
        tokens=len(ids),
    )
    return TrainingText(vocabulary, mapped, ends, hashlib.blake2b(digest.encode(), digest_size=16).hexdigest())


def _having(ids: Ids, ends: Ends, words: int) -> npt.NDArray[np.int64]:
    """In how many sentences each word is."""
    having = np.zeros(words, np.int64)
    begin = at = 0
    while at < len(ends):
        stop = max(at + 1, int(np.searchsorted(ends, begin + _SLAB)))
        sentence = np.repeat(np.arange(stop - at, dtype=np.int64), np.diff(ends[at:stop], prepend=begin))
        pairs = np.unique(sentence * words + ids[begin : ends[stop - 1]])
        having += np.bincount(pairs % words, minlength=words)
        at, begin = stop, int(ends[stop - 1])
    return having


def _begins(ends: Ends) -> Ends:
    return np.concatenate([[0], ends[:-1]]).astype(np.int64)
