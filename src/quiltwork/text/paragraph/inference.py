"""The ways to a paragraph's vector, each named by what it does: sampled windows, whole ones, or no walk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError
from quiltwork.text.embedder import Vectors
from quiltwork.text.paragraph.huffman import HuffmanVectors, Ids

Predicts = Literal["sg", "cbow"]
How = Literal["sampled", "full", "weighted", "closed"]
MOST_PASSES = 100_000
_SPREAD = 0xD1342543DE82EF95
"""Odd: different seeds stay different."""


@dataclass(frozen=True)
class Inference:
    """What a paragraph's vector learns from, and how; the word2vec beneath it never changes.

    predicts : ``sg``, the vector predicts each word of each word's window; ``cbow``, the vector and the sum of the
    window's other words predict the word in the middle. (Le and Mikolov's DBOW and DM are alike; what was published as
    PV-DM for biomedical sentences was most likely ``sg``.)

    how : ``sampled``, word2vec's: begins at random values below .5 / d and draws each window's size from 1 to
    ``window``. ``full``: begins at 0, every window is whole. ``weighted``: as ``full``, and a word at distance t counts
    as often as a drawn window would have it, (window + 1 - t) / window. ``closed``: no walk; the gradient at 0, as
    often as drawn windows would have it on average, times alpha and passes. Nothing is drawn except by ``sampled``.

    seed : of ``sampled``, together with a hash of the text, so that a vector hangs on neither order nor process.

    Raises BadInputError for a value out of range.
    """

    predicts: Predicts = "sg"
    how: How = "weighted"
    window: int = 5
    alpha: float = 0.025
    passes: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("predicts", get_args(Predicts)), ("how", get_args(How))):
            if getattr(self, name) not in allowed:
                raise BadInputError(f"must be one of {', '.join(allowed)}", where=f"inference: {name}")
        for name, least, most in (("window", 1, 1000), ("passes", 1, MOST_PASSES), ("seed", 0, 2**63 - 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise BadInputError(f"must be a whole number from {least} to {most}", where=f"inference: {name}")
        if isinstance(self.alpha, bool) or not isinstance(self.alpha, int | float) or not 0 < self.alpha <= 1:
            raise BadInputError("must be above 0 and at most 1", where="inference: alpha")


@dataclass(frozen=True, eq=False)
class Texts:
    """Sentences as a model sees them, one after another.

    words : (all,) ids, UNKNOWN where the model does not have the word. ends : (sentences + 1,) where each begins and
    the last ends. hashes : (sentences,) of the tokens of each.
    """

    words: Ids
    ends: npt.NDArray[np.int64]
    hashes: npt.NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.hashes)


def texts(model: HuffmanVectors, sentences: Sequence[Sequence[str]]) -> Texts:
    """What the model makes of these tokens."""
    ends = np.zeros(len(sentences) + 1, np.int64)
    np.cumsum([len(tokens) for tokens in sentences], out=ends[1:])
    words = model.ids([token for tokens in sentences for token in tokens])
    return Texts(words, ends, np.array([text_hash(tokens) for tokens in sentences], np.uint64))


def text_hash(tokens: Sequence[str]) -> int:
    """64 bits of BLAKE2b of the tokens, the same in every process."""
    spelt = "\0".join(tokens).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(spelt, digest_size=8).digest(), "little")


def infer(model: HuffmanVectors, found: Texts, inference: Inference) -> Vectors:
    """A vector of each text (texts, d); zeros where no word is known. No text changes another one's vector."""
    return _closed(model, found, inference) if inference.how == "closed" else _walked(model, found, inference)


def known_words(found: Texts) -> npt.NDArray[np.int64]:
    """How many words of each text the model has (texts,)."""
    from quiltwork.text.paragraph.passes import count_known

    known = np.empty(len(found), np.int64)
    count_known(known, found.words, found.ends)
    return known


def expected_weights(window: int) -> npt.NDArray[np.float32]:
    """How likely a window of a size drawn from 1 to ``window`` reaches distance t (window + 1,)."""
    by_distance = (window + 1 - np.arange(window + 1, dtype=np.float32)) / np.float32(window)
    return np.asarray(np.minimum(by_distance, np.float32(1)))


def _walked(model: HuffmanVectors, found: Texts, inference: Inference) -> Vectors:
    from quiltwork.text.paragraph.passes import cbow_pass, draw, sg_pass

    vectors = np.zeros((len(found), model.dimensions), np.float32)
    weights = expected_weights(inference.window) if inference.how == "weighted" else _even(inference.window)
    shrink = np.zeros(len(found.words), np.int64)
    paths = model.nodes, model.starts, model.points, model.codes
    seeds, begins = seeds_of(found, inference.seed), vectors
    for _ in range(inference.passes):
        if inference.how == "sampled":
            draw(seeds, found.ends, inference.window, shrink, begins)
            begins = vectors[:, :0]  # only the first pass begins anew
        where = vectors, found.words, found.ends, shrink, weights
        if inference.predicts == "sg":
            sg_pass(*where, *paths, inference.alpha)
        else:
            cbow_pass(*where, model.inputs, *paths, inference.alpha)
    vectors[known_words(found) == 0] = 0  # where nothing was learnt, nothing is left of where it began
    return vectors


def seeds_of(found: Texts, seed: int) -> npt.NDArray[np.uint64]:
    """What each text's draws begin with (texts,)."""
    return found.hashes + np.uint64(seed * _SPREAD % 2**64)


def _even(window: int) -> npt.NDArray[np.float32]:
    return np.ones(window + 1, np.float32)


def _closed(model: HuffmanVectors, found: Texts, inference: Inference) -> Vectors:
    from quiltwork.text.paragraph.passes import bag, window_counts

    vectors = np.empty((len(found), model.dimensions), np.float32)
    rate = np.float32(inference.alpha * inference.passes)
    counts = np.full(len(found.words), rate)
    if inference.predicts == "sg":
        window_counts(counts, found.words, found.ends, expected_weights(inference.window) * rate)
    bag(vectors, found.words, found.ends, counts, model.first_gradients)
    return vectors
