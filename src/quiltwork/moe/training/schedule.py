"""How the rate goes with the steps."""

from __future__ import annotations

import math

from quiltwork.moe.training.settings import COSINE, TrainingSettings


def rate_factor(done: int, settings: TrainingSettings) -> float:
    """What the rate is multiplied by in the step after ``done``: up to 1 while warming up, then 1, or down to 0."""
    if done < settings.warm_up:
        return (done + 1) / settings.warm_up
    if settings.schedule != COSINE:
        return 1.0
    past = (done - settings.warm_up) / max(1, settings.steps - settings.warm_up)
    return 0.5 * (1 + math.cos(math.pi * past))
