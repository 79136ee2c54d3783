"""What is reported of a fitted hybrid, in the three ways that papers do it, so that none stands for another.

Ten-fold cross-validation with the mean of ten correlations, each of a tenth of the pairs (P1), flatters: how far one
fold's predictions lie above another's does not count. Correlating all pairs' held-out predictions at once (P2) is the
honest figure on one set, and fitting on another set altogether (P3) is the one for new data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quiltwork.core.bench.statistics import Interval
from quiltwork.core.errors import BadInputError
from quiltwork.text.evaluate.correlation import pearson
from quiltwork.text.hybrid import fit_regression

Numbers = npt.NDArray[np.float64]

FOLDS = 10
FLAG = 0.02
"""How far the figure on the pairs of the fit may be above the one on pairs left out, before it is pointed at."""


@dataclass(frozen=True)
class Spread:
    """A figure over many ways to deal pairs into folds: its mean, and what 95 % of the ways lie in."""

    mean: float
    interval: Interval


@dataclass(frozen=True)
class Protocols:
    """Pearson's r of one hybrid on one gold set.

    fold_means : P1, the mean of the folds' own correlations, stratified (Soğancıoğlu et al. 2017; the .871 of Blagec et
    al. is of this kind). leave_one_out, pooled : P2, one correlation of all pairs' held-out predictions, each pair left
    out alone or in ten folds. in_sample : on the pairs of the fit. transfer : P3, fitted on another set; None without.
    """

    fold_means: Spread
    leave_one_out: float
    pooled: Spread
    in_sample: float
    transfer: float | None = None

    @property
    def overfitted(self) -> bool:
        """Whether the figure on the pairs of the fit is more than ``FLAG`` above leave-one-out."""
        return self.in_sample - self.leave_one_out > FLAG


def judged(
    names: Sequence[str],
    scores: Numbers,
    gold: Numbers,
    *,
    seeds: Sequence[int],
    ridge: float = 0.0,
    other: tuple[Numbers, Numbers] | None = None,
) -> Protocols:
    """All protocols for a regression on ``scores`` (n, k).

    seeds : one for each way to deal folds. other : the scores (m, k) and gold (m,) of the set that P3 fits on. Raises
    BadInputError for fewer than 30 pairs: a fold of fewer than three has no correlation.
    """
    n = len(gold)
    if n < 3 * FOLDS or not seeds:
        raise BadInputError(f"{n} pairs in {FOLDS} folds, dealt {len(seeds)} times", where="protocols")
    means, pooled = [], []
    for seed in seeds:
        folds = stratified(gold, seed)
        held = held_out(names, scores, gold, folds, ridge)
        within = [pearson(held[folds == f], gold[folds == f]) for f in range(FOLDS)]
        # A fold of equal predictions, or of equal ratings, has none.
        means.append(float(np.nanmean(within)))
        pooled.append(pearson(held, gold))
    fitted = fit_regression(names, scores, gold, ridge=ridge)
    return Protocols(
        _spread(means),
        pearson(held_out(names, scores, gold, np.arange(n), ridge), gold),
        _spread(pooled),
        pearson(fitted(scores), gold),
        None if other is None else pearson(fit_regression(names, *other, ridge=ridge)(scores), gold),
    )


def stratified(gold: Numbers, seed: int) -> npt.NDArray[np.int64]:
    """The fold of each pair (n,): of every ten consecutive ratings one is in each fold."""
    chance = np.random.default_rng(seed)
    # Equal ratings in an order of chance, not in the set's.
    shuffled = chance.permutation(len(gold))
    order = shuffled[np.argsort(gold[shuffled], kind="stable")]
    folds = np.empty(len(gold), np.int64)
    for begun in range(0, len(gold), FOLDS):
        some = order[begun : begun + FOLDS]
        folds[some] = chance.permutation(FOLDS)[: len(some)]
    return folds


def held_out(
    names: Sequence[str], scores: Numbers, gold: Numbers, folds: npt.NDArray[np.int64], ridge: float
) -> Numbers:
    """For each pair (n,) the rating by a regression on the pairs of all other folds."""
    found = np.empty(len(gold))
    for fold in np.unique(folds):
        inside = folds == fold
        found[inside] = fit_regression(names, scores[~inside], gold[~inside], ridge=ridge)(scores[inside])
    return found


def _spread(values: Sequence[float]) -> Spread:
    low, high = np.quantile(values, [0.025, 0.975])
    return Spread(float(np.mean(values)), Interval(float(low), float(high)))
