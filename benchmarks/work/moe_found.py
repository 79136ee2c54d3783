"""What a finished run found, read from where it is kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from work.moe_curves import Curve, Reached, StepCost, reached, spent

if TYPE_CHECKING:
    from quiltwork.core.servable import Json


@dataclass(frozen=True)
class Found:
    """Of one run."""

    curve: Curve
    """Validation losses, in nats per token or per text."""
    experts_per_token: tuple[float, ...]
    """The mean over the layers in each step; of dense layers none are counted."""
    by_layer: tuple[tuple[float, ...], ...]
    """Of each step, for each layer."""
    expert_share: float
    """Of a top-2 step's FLOPs, that of the experts."""
    tests: Mapping[str, float]
    """The task's metric on the test data, of the model with the least validation loss: among the first steps that all
    arms have (``equal_steps``), and among all."""
    cpu_s: tuple[float, ...]
    """CPU-seconds of all steps up to each point of the curve, as they ran beside whatever else ran then."""
    load: float
    """How many processes were ready to run meanwhile, in the mean, its own among them."""
    rate: float

    def reached(self, target: float) -> Reached:
        """When its validation loss was first at ``target`` or below."""
        return reached(self.curve, target)

    def spent(self, steps: float, cost: StepCost) -> float:
        """What so many of its steps cost."""
        return spent(steps, self.experts_per_token, cost)

    def took(self, steps: float) -> float:
        """CPU-seconds of so many of its steps, as they ran."""
        return float(np.interp(steps, self.curve.steps, self.cpu_s))

    def least_within(self, budget: float, cost: StepCost) -> float:
        """Its least validation loss while it had not spent more than ``budget``."""
        within = [step for step in self.curve.steps if self.spent(step, cost) <= budget]
        return self.curve.least(until=max(within))[1]

    def mean_experts(self, steps: float) -> float:
        """Experts per token over so many of its first steps."""
        return spent(steps, self.experts_per_token, float) / steps


def found_of(told: Mapping[str, Json]) -> Found:
    """Of the JSON that a run is kept as."""
    it: Any = told
    by_layer = tuple(tuple(float(k) for k in step) for step in it["experts_per_token"])
    return Found(
        curve=Curve(tuple(it["curve"]["steps"]), tuple(it["curve"]["losses"])),
        experts_per_token=tuple(sum(step) / len(step) for step in by_layer),
        by_layer=by_layer,
        expert_share=float(it["expert_share"]),
        tests={name: float(value) for name, value in it["tests"].items()},
        cpu_s=tuple(float(seconds) for seconds in it["cpu_s"]),
        load=float(it["load"]),
        rate=float(it["settings"]["settings"]["rate"]),
    )
