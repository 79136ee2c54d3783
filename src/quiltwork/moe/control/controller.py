"""The controller: of what a step's tokens took and might have taken, the thresholds of the next step. Pure functions.

Everything is driven by tallies that are summed over all workers, so that all of them come to the same thresholds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from quiltwork.core.errors import BadInputError
from quiltwork.moe.control.levels import (
    ASSIGNMENTS,
    BINS,
    COLUMNS,
    LEVELS,
    TOKENS,
    Numbers,
    level_at,
    place_of,
    threshold_for,
)  # fmt: skip

METHODS = ("quantile", "pi")
"""``quantile``: the threshold that would have taken the wanted number of the recent steps' tokens; ``pi``: a
proportional and integral regulator on the log-odds of the threshold, as in DTop-p (arXiv 2512.13996)."""


@dataclass(frozen=True)
class Controller:
    """What is wanted.

    Parameters
    ----------
    layers : L.
    experts : the mean per token over all layers, which then share a threshold; or of each layer (L,), each its own.
    most : candidates of a token.
    costs : (L,) what an assignment costs in each layer, in any unit; alike where not given. The mean over all layers is
        weighted by them.
    memory : quantile: what a step counts for in the next one's decision, against 1 for itself.
    repay : quantile: steps in which what was spent too much or too little is made up for, so that the mean over the
        whole training is what was wanted; 0 for never.
    proportional, integral : pi: log-odds of the threshold per expert per token.
    """

    layers: int
    experts: float | tuple[float, ...]
    most: int = 2
    costs: tuple[float, ...] = ()
    method: str = "quantile"
    memory: float = 0.5
    repay: int = 20
    proportional: float = 1.0
    integral: float = 2.0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise BadInputError(f"{self.method!r} is not a method", where="method", hint=", ".join(METHODS))
        if self.layers < 1 or self.most < 2:
            raise BadInputError(f"{self.layers} layers with at most {self.most} experts", where="controller")
        for name, given in (("target_experts", self.experts), ("costs", self.costs)):
            if isinstance(given, tuple) and len(given) not in (self.layers, 0 if name == "costs" else self.layers):
                raise BadInputError(f"{len(given)} numbers for {self.layers} layers", where=name)
        if not all(1 <= k <= self.most for k in self.targets):  # also false for what is no number
            shown = ", ".join(f"{k:g}" for k in self.targets)
            raise BadInputError(f"{shown} is not from 1 to {self.most} experts", where="target_experts")
        if not all(0 < cost < np.inf for cost in self.costs):
            raise BadInputError("an assignment costs more than nothing", where="costs")
        if not 0 <= self.memory < 1 or self.repay < 0:
            raise BadInputError(f"memory {self.memory}, repay {self.repay}", where="controller")

    @property
    def targets(self) -> tuple[float, ...]:
        """(G,) of each group of layers that share a threshold: of all of them, or of each."""
        return self.experts if isinstance(self.experts, tuple) else (self.experts,)

    def grouped(self, per_layer: Numbers) -> Numbers:
        """(L, n) -> (G, n), layers weighted by what they cost."""
        costs = np.asarray(self.costs or (1.0,) * self.layers)
        weighted: Numbers = per_layer * (costs / costs.mean())[:, None]
        return weighted if isinstance(self.experts, tuple) else np.asarray(weighted.sum(0, keepdims=True))


@dataclass(frozen=True)
class ControlState:
    """What is known after some steps; all of it is needed to go on, and it is small."""

    thresholds: Numbers
    """(G,) of the next step."""
    recent: Numbers
    """(G, BINS) levels of the last steps, fading."""
    owed: Numbers
    """(G,) experts per token of a step that were not taken yet; below 0, that were taken too many."""
    error: Numbers
    """(G,) the last step's target less what was reached."""

    def arrays(self) -> dict[str, Numbers]:
        """For a training's state."""
        return {f"control/{name}": getattr(self, name).copy() for name in ("thresholds", "recent", "owed", "error")}


def begin(controller: Controller, threshold: float) -> ControlState:
    """Before the first step, which is taken with this threshold."""
    groups = len(controller.targets)
    return ControlState(np.full(groups, threshold), np.zeros((groups, BINS)), np.zeros(groups), np.zeros(groups))


def resumed(controller: Controller, arrays: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]
            ) -> ControlState:  # fmt: skip
    """What ``ControlState.arrays`` gave. Raises BadInputError naming what is missing, misshapen or not finite."""
    fresh = begin(controller, 0.0)
    found = {}
    for name, like in fresh.arrays().items():
        given = arrays.get(name)
        if given is None or given.shape != like.shape or given.dtype != like.dtype or not np.isfinite(given).all():
            has = "is missing" if given is None else f"is not {list(like.shape)} finite numbers of {like.dtype}"
            raise BadInputError(has, where=f"state: {name}")
        found[name.removeprefix("control/")] = np.array(given, np.float64)
    return ControlState(**found)


def layer_thresholds(controller: Controller, state: ControlState) -> tuple[float, ...]:
    """(L,) of the next step."""
    each = state.thresholds.tolist()
    return tuple(each if len(each) == controller.layers else each * controller.layers)


def decide(controller: Controller, state: ControlState, tally: Numbers) -> ControlState:
    """After a step.

    tally : (L, COLUMNS), all workers' tokens; any multiple of the counts says the same. Raises BadInputError for
    another shape, and where a group of layers had no token.
    """
    if tally.shape != (controller.layers, COLUMNS):
        raise BadInputError(f"is {list(tally.shape)} instead of {[controller.layers, COLUMNS]}", where="tally")
    seen = controller.grouped(tally.astype(np.float64))
    if not (seen[:, TOKENS] > 0).all():
        raise BadInputError("no token was counted", where="tally")
    targets = np.asarray(controller.targets)
    error = targets - seen[:, ASSIGNMENTS] / seen[:, TOKENS]
    state = replace(state, owed=_owed(controller, state.owed + error))
    if controller.method == "quantile":
        wanted = targets + state.owed / controller.repay if controller.repay else targets
        recent = controller.memory * state.recent + seen[:, LEVELS:] / seen[:, TOKENS, None]
        shares = (wanted - 1) / (controller.most - 1)
        found = [threshold_for(bins, share) for bins, share in zip(recent, shares.tolist(), strict=True)]
        return replace(state, thresholds=np.asarray(found), recent=recent, error=error)
    moves = controller.proportional * (error - state.error) + controller.integral * error
    found = [level_at(place_of(t) + move) for t, move in zip(state.thresholds.tolist(), moves.tolist(), strict=True)]
    return replace(state, thresholds=np.asarray(found), error=error)


def _owed(controller: Controller, owed: Numbers) -> Numbers:
    """Never more than a tenth of the range is made up for in a step, nor kept in mind: what could not be had, such as
    while a router still finds all experts alike, is not asked back for long."""
    bound = controller.repay * 0.1 * (controller.most - 1)
    return np.clip(owed, -bound, bound)


def mean_experts(tally: Numbers) -> list[float]:
    """(L,) experts per token of a tally (L, COLUMNS)."""
    found: Sequence[float] = (tally[:, ASSIGNMENTS] / np.maximum(tally[:, TOKENS], 1e-30)).tolist()
    return list(found)
