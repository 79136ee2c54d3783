"""The controller that a training's settings ask for."""

from __future__ import annotations

import numpy as np
import torch

from quiltwork.layers.order import Ids
from quiltwork.moe.control.budget import exchange_bytes, experts_for
from quiltwork.moe.control.controller import Controller
from quiltwork.moe.control.steering import Steering, most_of
from quiltwork.moe.flops import expert_row_flops, forward_flops
from quiltwork.moe.gate import Gate
from quiltwork.moe.models.build import Model, moe_layers
from quiltwork.moe.models.packed import Packed
from quiltwork.moe.training.objective import side_of_layers
from quiltwork.moe.training.settings import ADAPTIVE, STEERED, WHERE, TrainingSettings

_SAMPLES = 2000
"""Whose lengths tell what a token costs besides its experts."""
_FLOAT32 = 4


def steering_of(
    settings: TrainingSettings, model: Model, gates: list[Gate | None], lengths: tuple[Ids, ...]
) -> Steering | None:
    """None where thresholds are to stay as they are.

    gates : of its layers, set anew in this list. lengths : tokens of each training sample, as ``Objective.lengths``
    tells. Raises BadInputError naming the setting whose number cannot be reached.
    """
    budgets = settings.target_experts, settings.budget_flops, settings.budget_bytes
    if settings.gate not in STEERED or (settings.gate == ADAPTIVE and budgets == ((), None, None)):
        return None
    most = min(most_of(gate, settings.experts) for gate in gates if gate is not None)
    experts = _experts(settings, model, lengths, most)
    start = settings.threshold if settings.gate == ADAPTIVE else settings.p
    return Steering(Controller(len(gates), experts, most, method=settings.controller), gates, start)


def _experts(
    settings: TrainingSettings, model: Model, lengths: tuple[Ids, ...], most: int
) -> float | tuple[float, ...]:  # fmt: skip
    if targets := settings.target_experts:
        return targets if len(targets) > 1 else targets[0]
    packed = [Packed(torch.from_numpy(np.ascontiguousarray(side[:_SAMPLES]))) for side in lengths]
    tokens = [len(side.sequence) for side in packed]
    layers = len(moe_layers(model))
    passing = [side / sum(tokens) for side in side_of_layers(tokens, layers)]
    if settings.budget_flops is not None:
        each = [part * expert_row_flops(model.shape) for part in passing]
        besides = forward_flops(model, packed, [0] * layers).total / sum(tokens)
        where, unit, budget = f"{WHERE}: budget_flops", "FLOPs", settings.budget_flops
        return experts_for(budget, each, besides=besides, most=most, where=where, unit=unit)
    if settings.budget_bytes is not None:
        row = settings.assignment_bytes or exchange_bytes(model.shape.width, _FLOAT32)
        where, budget = f"{WHERE}: budget_bytes", settings.budget_bytes
        return experts_for(budget, [part * row for part in passing], besides=0.0, most=most, where=where, unit="bytes")
    return settings.mean_experts if len(settings.mean_experts) > 1 else settings.mean_experts[0]
