"""The controller at work: it counts what a model's layers do, and sets their gates' thresholds after every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableSequence, Sequence
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
from quiltwork.moe.routing import Routing
from quiltwork.moe.top_p import TopP


def with_threshold(gate: Gate, threshold: float) -> Gate:
    """The same gate with another threshold (of ``TopP`` its p). Raises BadInputError for one that has none."""
    if isinstance(gate, Adaptive):
        return replace(gate, threshold=threshold)
    if isinstance(gate, TopP):
        return replace(gate, p=max(threshold, 0.0))
    raise BadInputError(f"{type(gate).__name__} has no threshold that a controller could set", where="gate")


def most_of(gate: Gate, experts: int) -> int:
    """How many of so many experts it may take for a token."""
    given = gate.most if isinstance(gate, Adaptive | TopP) else None
    return experts if given is None else min(int(torch.as_tensor(given).max()), experts)


def count(gates: Sequence[Gate | None], routed: Sequence[Routing]) -> Numbers:
    """(L, COLUMNS), the tally of a forward, layer by layer."""
    tallies = [tally_of(gate, routing) for gate, routing in zip(gates, routed, strict=True) if gate is not None]
    return torch.stack(tallies).cpu().numpy()


class Steering:
    """Of one training. Between two steps ``follow`` is told what all workers counted; then all set the same.

    gates : (L,) of the layers, which are put anew in this very list.
    """

    def __init__(self, controller: Controller, gates: MutableSequence[Gate | None], threshold: float) -> None:
        if len(gates) != controller.layers:
            raise BadInputError(f"{len(gates)} layers for a controller of {controller.layers}", where="controller")
        self.controller, self._gates = controller, gates
        self._state = begin(controller, threshold)
        self._set()

    @property
    def thresholds(self) -> tuple[float, ...]:
        """(L,) that the gates have now."""
        return layer_thresholds(self.controller, self._state)

    def count(self, routed: Sequence[Routing]) -> Numbers:
        """(L, COLUMNS), the tally of a forward's routing in each layer (L)."""
        return count(self._gates, routed)

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
        set_all(self._gates, self.thresholds)


ROUNDS, NEAR = 8, 0.002


def reach(
    gates: MutableSequence[Gate | None],
    experts: float,
    most: int,
    counted: Callable[[], Numbers],
    *,
    threshold: float = 0.1,
) -> float:
    """Set one threshold for all layers at which a trained model takes so many experts per token in the mean.

    counted : runs the model over some text, the same each time, and gives its tally (L, COLUMNS). What one layer takes
    changes what the next one sees: hence some rounds. Returns the threshold. Raises BadInputError for a number of
    experts that is not from 1 to ``most``.
    """
    if not 1 <= experts <= most:
        raise BadInputError(f"{experts:g} is not from 1 to {most} experts", where="experts")
    for round_ in range(ROUNDS):
        set_all(gates, [threshold] * len(gates))
        tally = counted()
        reached = float(np.mean(mean_experts(tally)))
        if abs(reached / experts - 1) <= NEAR or round_ == ROUNDS - 1 or most == 1:
            break
        threshold = threshold_for(tally[:, LEVELS:].sum(0), (experts - 1) / (most - 1))
    return threshold


def set_all(gates: MutableSequence[Gate | None], thresholds: Sequence[float]) -> None:
    """Put gates with these thresholds (L,) in their places. Raises BadInputError where there are not as many."""
    if len(gates) != len(thresholds):
        raise BadInputError(f"there are {len(thresholds)} for {len(gates)} layers", where="thresholds")
    for at, (gate, threshold) in enumerate(zip(gates, thresholds, strict=True)):
        if gate is not None:
            gates[at] = with_threshold(gate, threshold)
