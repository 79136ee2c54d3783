"""What a record keeps of the arms' curves, so that pictures can be drawn of it without the runs; pure."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from work.moe_arms import ADAPTIVE, MAIN
from work.moe_curves import mean_curve
from work.moe_figures import Studied

if TYPE_CHECKING:
    from quiltwork.core.servable import Json

STRETCH = 10
"""Steps of which experts per token are kept as one mean."""


def curves_told(one: Studied) -> dict[str, Json]:
    """By arm its mean curve over seeds: steps, CPU-seconds until then, validation losses."""
    told: dict[str, Json] = {}
    for arm in MAIN:
        runs = list(one.runs[arm].values())
        curve = mean_curve([run.curve for run in runs])
        seconds = [fmean(run.spent(step, one.costs[arm]) for run in runs) for step in curve.steps]
        told[arm] = {
            "steps": list(curve.steps),
            "cpu_s": [round(second, 2) for second in seconds],
            "losses": [round(loss, 4) for loss in curve.losses],
        }
    return told


def experts_told(one: Studied) -> list[list[float]]:
    """Of each layer the adaptive arm's experts per token, mean of seeds and of ``STRETCH`` steps each."""
    runs = [run.by_layer for run in one.runs[ADAPTIVE].values()]
    steps = min(len(run) for run in runs)
    return [
        [
            round(fmean(run[step][layer] for run in runs for step in range(start, min(start + STRETCH, steps))), 3)
            for start in range(0, steps, STRETCH)
        ]
        for layer in range(len(runs[0][0]))
    ]
