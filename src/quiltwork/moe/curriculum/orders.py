"""Samples from simple to complex, by how many experts their tokens needed (Li et al. 2023, section 3.3).

A complexity vector C_d has for each layer r_l = extra experts of the sample's tokens / its tokens, where the extra
experts of a token are those beyond its first: with at most two experts the share of tokens that have two.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from quiltwork.layers.order import Ids

Numbers = npt.NDArray[np.float64]
RANDOM, COSINE, MEAN, COST, LENGTH = ORDERS = ("random", "cosine", "mean", "cost", "length")
UNLEARNT = RANDOM, LENGTH
"""Orders that do not go by what is recorded."""
_DECIMALS = 12
"""Of a similarity: what differs by less differs by rounding."""


def complexity_of(extras: npt.ArrayLike, tokens: npt.ArrayLike) -> Numbers:
    """C (n, L). extras : (n, L), experts beyond the first, of all tokens of a sample in a layer. tokens : (n, L)."""
    return np.asarray(extras, np.float64) / np.maximum(np.asarray(tokens, np.float64), 1)


def cosine_order(extras: npt.ArrayLike, tokens: npt.ArrayLike) -> Ids:
    """(n,) the paper's: most similar first to the sample d* that has the fewest extra experts.

    Cosine does not see how long a vector is: C = (.1, .1) and (.9, .9) come as they stand. Where d* has none, its
    vector is 0; all others without any come first then, and all the rest as they stand. Arguments as ``complexity_of``.
    """
    vectors = complexity_of(extras, tokens)
    if not len(vectors):
        return np.empty(0, np.int64)
    simplest = vectors[int(np.asarray(extras, np.float64).sum(1).argmin())]
    lengths = np.linalg.norm(vectors, axis=1)
    own = float(np.linalg.norm(simplest))
    # Where d* has any no vector is 0, since d* has the fewest.
    similar = (lengths == 0).astype(np.float64) if own == 0 else vectors @ simplest / (lengths * own)
    return np.argsort(-similar.round(_DECIMALS), kind="stable").astype(np.int64)


def mean_order(extras: npt.ArrayLike, tokens: npt.ArrayLike) -> Ids:
    """(n,) by the mean over the layers of r_l, fewest first. Arguments as ``complexity_of``."""
    return np.argsort(complexity_of(extras, tokens).mean(1), kind="stable").astype(np.int64)


def cost_order(costs: npt.ArrayLike) -> Ids:
    """(n,) by what a step is predicted to cost, cheapest first. costs : (n,)."""
    return np.argsort(np.asarray(costs, np.float64), kind="stable").astype(np.int64)
