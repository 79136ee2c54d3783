"""The controller at work: it counts what a model's layers do, and sets their gates' thresholds after every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from quiltwork.core.errors import BadInputError
from quiltwork.moe.control.controller import (
    Controller,
    begin,
    decide,
    layer_thresholds,
    mean_experts,
    resumed,
)  # fmt: skip
from quiltwork.moe.control.levels import LEVELS, Numbers, tally_of, threshold_for
from quiltwork.moe.gate import Gate
from quiltwork.moe.gates import Adaptive
from quiltwork.moe.layer import MoELayer
from quiltwork.moe.routing import Routing
from quiltwork.moe.top_p import TopP


def with_threshold(gate: Gate, threshold: float) -> Gate:
    """The same gate with another threshold (of ``TopP`` its p). Raises BadInputError for one that has none."""
    if isinstance(gate, Adaptive):
        return replace(gate, threshold=threshold)
    if isinstance(gate, TopP):
        return replace(gate, p=max(threshold, 0.0))
    raise BadInputError(f"{type(gate).__name__} has no threshold that a controller could set", where="gate")


def most_of(layer: MoELayer) -> int:
    """How many experts its gate may take for a token."""
    given = layer.gate.most if isinstance(layer.gate, Adaptive | TopP) else None
    experts = layer.experts.count
    return experts if given is None else min(int(torch.as_tensor(given).max()), experts)


def count(layers: Sequence[MoELayer], routed: Sequence[Routing]) -> Numbers:
    """(L, COLUMNS), the tally of each layer's last forward."""
    tallies = [tally_of(layer.gate, routing) for layer, routing in zip(layers, routed, strict=True)]
    return torch.stack(tallies).cpu().numpy()


class Steering:
    """Of one training. Between two steps ``follow`` is told what all workers counted; then all set the same."""

    def __init__(self, controller: Controller, layers: Sequence[MoELayer], threshold: float) -> None:
        if len(layers) != controller.layers:
            raise BadInputError(f"{len(layers)} layers for a controller of {controller.layers}", where="controller")
        self.controller, self._layers = controller, tuple(layers)
        self._state = begin(controller, threshold)
        self._set()

    @property
    def thresholds(self) -> tuple[float, ...]:
        """(L,) that the gates have now."""
        return layer_thresholds(self.controller, self._state)

    def count(self, routed: Sequence[Routing]) -> Numbers:
        """(L, COLUMNS), the tally of a forward's routing in each layer (L)."""
        return count(self._layers, routed)

    def follow(self, tally: npt.NDArray[np.generic]) -> dict[str, float]:
        """Set the thresholds of the next step; metrics that say them."""
        self._state = decide(self.controller, self._state, tally.astype(np.float64))
        self._set()
        return {f"threshold/{at}": threshold for at, threshold in enumerate(self.thresholds)}

    def arrays(self) -> dict[str, Numbers]:
        """For the training's state."""
        return self._state.arrays()

    def load(self, arrays: Mapping[str, npt.NDArray[np.generic]]) -> None:
        """Go on from what ``arrays`` gave. Raises BadInputError naming what does not fit."""
        self._state = resumed(self.controller, arrays)
        self._set()

    def _set(self) -> None:
        for layer, threshold in zip(self._layers, self.thresholds, strict=True):
            layer.gate = with_threshold(layer.gate, threshold)


ROUNDS, NEAR = 8, 0.002


def reach(
    layers: Sequence[MoELayer], experts: float, counted: Callable[[], Numbers], *, threshold: float = 0.1
) -> float:
    """Set one threshold for all layers at which a trained model takes so many experts per token in the mean.

    counted : runs the model over some text, the same each time, and gives its tally (L, COLUMNS). What one layer takes
    changes what the next one sees: hence some rounds. Returns the threshold. Raises BadInputError for a number of
    experts out of range.
    """
    most = min(most_of(layer) for layer in layers)
    if not 1 <= experts <= most:
        raise BadInputError(f"{experts:g} is not from 1 to {most} experts", where="experts")
    for round_ in range(ROUNDS):
        for layer in layers:
            layer.gate = with_threshold(layer.gate, threshold)
        tally = counted()
        reached = float(np.mean(mean_experts(tally)))
        if abs(reached / experts - 1) <= NEAR or round_ == ROUNDS - 1 or most == 1:
            break
        threshold = threshold_for(tally[:, LEVELS:].sum(0), (experts - 1) / (most - 1))
    return threshold
