"""Quantiles of what comes: a model of them, and how good they were."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from quiltwork.cluster.job_trace import Floats

# A leaf's value is a quantile that is looked for anew in each tree: few trees of few leaves, which fit in a second.
_TREES, _RATE, _LEAVES, _PER_LEAF = 40, 0.15, 15, 30


class QuantileModel:
    """Gradient-boosted trees, one set for each quantile; what they say never falls from one quantile to the next."""

    def __init__(self, quantiles: Sequence[float], *, seed: int = 0) -> None:
        self.quantiles = tuple(quantiles)
        self._seed = seed
        self._fitted: list[Any] = []
        self._threads: Any = None

    def fit(self, features: Floats, target: Floats) -> None:
        """features : (n, f), NaN where something is unknown. target : (n,)."""
        from sklearn.ensemble import HistGradientBoostingRegressor
        from threadpoolctl import ThreadpoolController

        # One core: the others belong to those who train and serve, and sharing out a few rows costs more than it gives.
        self._threads = ThreadpoolController()
        with self._threads.limit(limits=1):
            self._fitted = [
                HistGradientBoostingRegressor(
                    loss="quantile",
                    quantile=quantile,
                    max_iter=_TREES,
                    learning_rate=_RATE,
                    max_leaf_nodes=_LEAVES,
                    min_samples_leaf=_PER_LEAF,
                    early_stopping=False,
                    random_state=self._seed,
                ).fit(features, target)
                for quantile in self.quantiles
            ]

    def predict(self, features: Floats) -> Floats:
        """(n, f) -> (n, quantiles)."""
        # Trees of different quantiles know nothing of each other and may cross.
        with self._threads.limit(limits=1):
            return np.sort(np.stack([model.predict(features) for model in self._fitted], axis=1), axis=1)


def pinball(actual: Floats, predicted: Floats, quantile: float) -> float:
    """The mean pinball loss of a quantile: (n,) and (n,), in the unit of what is predicted."""
    over = actual - predicted
    return float(np.mean(np.maximum(quantile * over, (quantile - 1) * over)))


def coverage(actual: Floats, low: Floats, high: Floats) -> float:
    """The share of what came that lay from ``low`` to ``high``: (n,) each."""
    inside: npt.NDArray[np.bool_] = np.logical_and(actual >= low, actual <= high)
    return float(np.mean(inside))
