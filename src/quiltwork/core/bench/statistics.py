"""A ratio of medians and how sure one may be of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError

CONFIDENCE = 0.95
RESAMPLES = 10_000
SEED = 20231116
"""Fixed, so that a record always says the same."""

Samples = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A range that a value lies in with some confidence; both ends belong to it."""

    low: float
    high: float

    def contains(self, value: float) -> bool:
        """Whether ``value`` is inside."""
        return self.low <= value <= self.high


def ratio_of_medians(
    above: Sequence[float], below: Sequence[float], *, where: str = "samples", seed: int = SEED
) -> tuple[float, Interval]:
    """median(above) / median(below) and its percentile bootstrap interval at CONFIDENCE.

    Samples that came in pairs (as many of one as of the other) are drawn in pairs, so that what slowed both down at
    the time cancels; otherwise each side is drawn for itself. One sample on each side gives an interval of no width.
    Source: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13.

    Raises BadInputError where a side is empty, a sample is not finite, or a median is not positive.
    """
    a, b = (_checked(side, where) for side in (above, below))
    rng = np.random.default_rng(seed)
    drawn = rng.integers(len(a), size=(RESAMPLES, len(a)))
    beside = drawn if len(a) == len(b) else rng.integers(len(b), size=(RESAMPLES, len(b)))
    medians_a, medians_b = np.median(a[drawn], axis=1), np.median(b[beside], axis=1)
    if medians_a.min() <= 0 or medians_b.min() <= 0:
        raise BadInputError("samples are not clear of zero: too short for the clock, or too noisy", where=where)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(medians_a / medians_b, [tail, 1 - tail])
    return float(np.median(a) / np.median(b)), Interval(float(low), float(high))


def _checked(samples: Sequence[float], where: str) -> Samples:
    if not samples:
        raise BadInputError("there are no samples", where=where)
    if not all(math.isfinite(sample) for sample in samples):
        raise BadInputError("a sample is not a finite number", where=where)
    array = np.asarray(samples, dtype=np.float64)
    if np.median(array) <= 0:
        raise BadInputError("the median is not positive", where=where)
    return array
