"""Quantiles of what comes: a model of them, and how good they were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from quiltwork.cluster.job_trace import Floats


class QuantileModel:
    """Gradient-boosted trees, one set for each quantile; what they say never falls from one quantile to the next."""

    def __init__(self, quantiles: Sequence[float], *, seed: int = 0, categorical: Sequence[int] = ()) -> None:
        """categorical : columns of features that are names, by number from 0 to 254."""
        self.quantiles = tuple(quantiles)
        self._seed, self._categorical = seed, list(categorical)
        self._fitted: list[Any] = []

    def fit(self, features: Floats, target: Floats) -> None:
        """features : (n, f), NaN where something is unknown. target : (n,)."""
        from sklearn.ensemble import HistGradientBoostingRegressor

        self._fitted = [
            HistGradientBoostingRegressor(
                loss="quantile",
                quantile=quantile,
                max_iter=80,
                min_samples_leaf=30,
                categorical_features=self._categorical or None,
                early_stopping=False,
                random_state=self._seed,
            ).fit(features, target)
            for quantile in self.quantiles
        ]

    def predict(self, features: Floats) -> Floats:
        """(n, f) -> (n, quantiles)."""
        # Trees of different quantiles know nothing of each other and may cross.
        return np.sort(np.stack([model.predict(features) for model in self._fitted], axis=1), axis=1)


def pinball(actual: Floats, predicted: Floats, quantile: float) -> float:
    """The mean pinball loss of a quantile: (n,) and (n,), in the unit of what is predicted."""
    over = actual - predicted
    return float(np.mean(np.maximum(quantile * over, (quantile - 1) * over)))


def coverage(actual: Floats, low: Floats, high: Floats) -> float:
    """The share of what came that lay from ``low`` to ``high``: (n,) each."""
    inside: npt.NDArray[np.bool_] = np.logical_and(actual >= low, actual <= high)
    return float(np.mean(inside))
