"""How well scores agree with a gold standard, how sure that is, and which of two agrees better."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quiltwork.core.bench.statistics import Interval
from quiltwork.core.errors import BadInputError
from quiltwork.core.registry import missing_package

Numbers = npt.NDArray[np.float64]
Correlation = Callable[[Numbers, Numbers], Numbers]
"""Of the last axes of two arrays; NaN where one of them does not vary."""

RESAMPLES = 5_000
_AT_ONCE = 2_000_000
"""Numbers that are drawn at a time, so that a gold set of any size takes little memory."""


def pearson(a: Numbers, b: Numbers) -> float:
    """Pearson's r of two rows of numbers (n,); NaN where one does not vary. Raises BadInputError where a number is not
    finite, there are fewer than three, or not as many of one as of the other."""
    return float(pearsons(*_checked(a, b)))


def spearman(a: Numbers, b: Numbers) -> float:
    """Spearman's rho: Pearson's r of the ranks, equal numbers sharing theirs. Otherwise as ``pearson``."""
    return float(spearmans(*_checked(a, b)))


def pearsons(a: Numbers, b: Numbers) -> Numbers:
    """Pearson's r along the last axis (..., n) -> (...)."""
    x, y = a - a.mean(axis=-1, keepdims=True), b - b.mean(axis=-1, keepdims=True)
    norms = np.sqrt((x * x).sum(axis=-1) * (y * y).sum(axis=-1))
    # A mean that is not quite the value leaves dust where nothing varies.
    varies = (np.ptp(a, axis=-1) > 0) & (np.ptp(b, axis=-1) > 0) & (norms > 0)
    found = np.full(np.shape(norms), np.nan)
    np.divide((x * y).sum(axis=-1), norms, out=found, where=varies)
    return np.asarray(np.clip(found, -1.0, 1.0))


def spearmans(a: Numbers, b: Numbers) -> Numbers:
    """Spearman's rho along the last axis (..., n) -> (...)."""
    return pearsons(_ranks(a), _ranks(b))


@dataclass(frozen=True)
class Estimate:
    """A figure with the interval that it lies in at the confidence it was asked for."""

    value: float
    interval: Interval


def interval(
    scores: Numbers, gold: Numbers, *, seed: int, correlation: Correlation = pearsons, resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> Estimate:  # fmt: skip
    """A correlation with its percentile bootstrap interval: pairs are drawn anew, with repetition."""
    scores, gold = _checked(scores, gold)
    drawn = np.concatenate([correlation(scores[at], gold[at]) for at in draws(len(gold), resamples, seed)])
    return Estimate(float(correlation(scores, gold)), quantiles(drawn, confidence))


def paired_delta(
    ours: Numbers, theirs: Numbers, gold: Numbers, *, seed: int, correlation: Correlation = pearsons,
    resamples: int = RESAMPLES, confidence: float = 0.95,
) -> Estimate:  # fmt: skip
    """How much better ``ours`` correlates with ``gold`` than ``theirs``, both on the same drawn pairs each time. What
    makes a draw of pairs easy helps both, so the interval is narrower than two apart would suggest; where it contains
    0, the data do not say which of the two is better."""
    ours, gold = _checked(ours, gold)
    theirs, gold = _checked(theirs, gold)
    drawn = np.concatenate(
        [
            correlation(ours[at], gold[at]) - correlation(theirs[at], gold[at])
            for at in draws(len(gold), resamples, seed)
        ]
    )
    return Estimate(float(correlation(ours, gold) - correlation(theirs, gold)), quantiles(drawn, confidence))


def auc(positive: Numbers, negative: Numbers) -> float:
    """The chance that a score of ``positive`` (n,) is above one of ``negative`` (m,), equal ones counting half."""
    n, m = len(positive), len(negative)
    together = np.concatenate([positive, negative]).astype(np.float64)
    if not n or not m or not np.isfinite(together).all():
        raise BadInputError(f"{n} scores against {m}, all of which must be finite numbers", where="AUC")
    return float((_ranks(together)[:n].sum() - n * (n + 1) / 2) / (n * m))


def _checked(a: Numbers, b: Numbers) -> tuple[Numbers, Numbers]:
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 3:
        raise BadInputError(f"of {x.shape} and {y.shape} numbers there is none", where="correlation")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise BadInputError("a score is not a finite number", where="correlation")
    return x, y


def draws(n: int, resamples: int, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Indices (some, n) of pairs drawn with repetition, ``resamples`` rows in all."""
    chance = np.random.default_rng(seed)
    size = max(1, _AT_ONCE // n)
    for begun in range(0, resamples, size):
        yield chance.integers(n, size=(min(size, resamples - begun), n))


def quantiles(drawn: Numbers, confidence: float) -> Interval:
    """What the middle ``confidence`` of drawn figures lies in; draws without a figure (NaN) are left out."""
    if np.isnan(drawn).all():
        return Interval(float("nan"), float("nan"))
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(drawn, [tail, 1 - tail])
    return Interval(float(low), float(high))


def _ranks(values: Numbers) -> Numbers:
    try:
        from scipy.stats import rankdata
    except ModuleNotFoundError as error:
        raise missing_package(error, where="ranks") from error
    return np.asarray(rankdata(values, axis=-1), np.float64)
