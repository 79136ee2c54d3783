"""What inference will need until the next decision, from what it needed so far."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def persistent(needs: Sequence[float]) -> float:
    """It stays as it is."""
    return needs[-1]


def rising(needs: Sequence[float], *, day: int = 288, quantile: float = 0.99) -> float:
    """It rises as fast as it seldom did in the last day (``day`` decisions), and as it does now."""
    if len(needs) < 3:
        return needs[-1]
    steps = np.diff(np.asarray(needs[-day - 1 :]))
    return float(needs[-1] + max(0.0, np.quantile(steps, quantile), steps[-1]))
