"""Differences between two arms that were run alike: their mean over seeds or blocks of text, and how sure it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError

RESAMPLES = 10_000
CONFIDENCE = 0.95
SEED = 20231007
"""Fixed, so that the same runs always say the same."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its percentile bootstrap interval at CONFIDENCE."""

    value: float
    low: float
    high: float

    @property
    def crosses_zero(self) -> bool:
        """Whether nothing is said about its sign."""
        return self.low <= 0 <= self.high


def resampled(count: int, figure: Callable[[npt.NDArray[np.int64]], float], resamples: int = RESAMPLES) -> Estimate:
    """``figure`` of all ``count`` pairs, given as their numbers, and of as many drawn with replacement.

    Raises BadInputError where there is no pair.
    """
    if count < 1:
        raise BadInputError("there are no pairs", where="bootstrap")
    rng = np.random.default_rng(SEED)
    drawn = [figure(rng.integers(count, size=count)) for _ in range(resamples)]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return Estimate(figure(np.arange(count)), float(low), float(high))


def mean_difference(these: Sequence[float], those: Sequence[float]) -> Estimate:
    """The mean of these - those, pair by pair. Raises BadInputError where one has more than the other."""
    if len(these) != len(those):
        raise BadInputError(f"{len(these)} beside {len(those)} are no pairs", where="bootstrap")
    apart = np.asarray(these, np.float64) - np.asarray(those, np.float64)
    return resampled(len(apart), lambda chosen: float(apart[chosen].mean()))


def block_means(values: npt.NDArray[np.float64], blocks: int) -> list[float]:
    """Means of ``blocks`` stretches of consecutive values: neighbours in a text are alike, so they go together."""
    if len(values) < blocks:
        raise BadInputError(f"{len(values)} values do not fill {blocks} blocks", where="blocks")
    return [float(part.mean()) for part in np.array_split(values, blocks)]
