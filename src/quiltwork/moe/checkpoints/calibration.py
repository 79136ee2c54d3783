"""The search for thresholds: the fewest experts with which the loss rises by no more than it may.

Pure: the model is a function that is handed in, from thresholds to what was measured with them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.floating]
Settings: TypeAlias = tuple[float, ...]
"""One threshold a layer."""

NEVER, ALWAYS = -1.0, 1.0
"""Thresholds that take one expert always, and the most always."""
SURE = 1.645
"""Standard errors that are added to a rise before it is compared: it stays below on other text, 19 times in 20."""
LEVELS = (0.75, 0.5, 0.25, 0.0)
"""Shares of the further experts that are kept, as the greedy search lowers a layer's."""


@dataclass(frozen=True)
class Measured:
    """A pass over the text of one part."""

    losses: Floats
    """(W,) nats per token of each window; windows are of one length."""
    experts: tuple[float, ...]
    """Mean experts per token, by layer."""


@dataclass(frozen=True)
class Point:
    """What thresholds cost and save, against all experts always."""

    thresholds: Settings
    experts: tuple[float, ...]
    loss: float
    rise: float
    """Of the loss, as a share: 0.01 is 1 %."""
    highest: float
    """The rise that is not exceeded with some certainty (``SURE``); the windows are compared pairwise."""

    @property
    def mean(self) -> float:
        """Experts per token, over all layers."""
        return float(np.mean(self.experts))


Pass: TypeAlias = Callable[[Settings], Measured]
Meter: TypeAlias = Callable[[Settings], Point]


def meter(run: Pass, layers: int) -> Meter:
    """``run`` against all experts always; the same thresholds are measured once."""
    whole = run((ALWAYS,) * layers)
    known: dict[Settings, Point] = {}

    def measure(thresholds: Settings) -> Point:
        if thresholds not in known:
            full = thresholds == (ALWAYS,) * layers
            known[thresholds] = point_of(thresholds, whole if full else run(thresholds), whole)
        return known[thresholds]

    return measure


def point_of(thresholds: Settings, measured: Measured, whole: Measured) -> Point:
    """The losses of one pass against those of another over the same windows."""
    base = float(whole.losses.mean())
    more = np.asarray(measured.losses - whole.losses, np.float64)
    error = float(more.std(ddof=1)) / math.sqrt(len(more)) if len(more) > 1 else 0.0
    rise = float(more.mean())
    loss = float(measured.losses.mean())
    return Point(thresholds, measured.experts, loss, rise / base, (rise + SURE * error) / base)


def threshold_at(gaps: Floats, share: float) -> float:
    """The smallest threshold that keeps at least this share of a layer's further experts.

    gaps : the recorded R_1 - R_m of all tokens and all m > 1, ascending.
    """
    kept = math.ceil(share * len(gaps) - 1e-9)
    return NEVER if kept <= 0 else ALWAYS if kept >= len(gaps) else float(gaps[kept - 1])


def search_common(measure: Meter, gaps: Sequence[Floats], most_rise: float, *, steps: int = 8) -> list[Point]:
    """One share for all layers, halved in on; then each layer by itself lowered while the rise allows it.

    gaps : of each layer, ascending. Returns all that was measured.
    """

    def at(share: float) -> Point:
        return measure(tuple(threshold_at(each, share) for each in gaps))

    points = [at(step / steps) for step in range(steps, -1, -1)]
    good = [step for step, point in zip(range(steps, -1, -1), points, strict=True) if point.highest <= most_rise]
    low, high = (min(good) - 1) / steps, min(good) / steps  # all experts are always good enough
    for _ in range(3 if min(good) > 0 else 0):
        middle = (low + high) / 2
        points.append(at(middle))
        low, high = (low, middle) if points[-1].highest <= most_rise else (middle, high)
    shares = [high] * len(gaps)
    for layer in _cheapest_first(best(points, most_rise)):
        for factor in (0.0, 0.5):
            tried = [share * factor if i == layer else share for i, share in enumerate(shares)]
            points.append(measure(tuple(map(threshold_at, gaps, tried))))
            if points[-1].highest <= most_rise:
                shares = tried
                break
    return points


def _cheapest_first(point: Point) -> list[int]:
    """Layers with the most experts first: there is the most to save."""
    return sorted(range(len(point.experts)), key=lambda layer: (-point.experts[layer], layer))


def search_greedy(measure: Meter, gaps: Sequence[Floats], most_rise: float) -> list[Point]:
    """Each layer lowered alone; then all together, in the order of what they saved for the rise, as far as it allows.

    Returns all that was measured.
    """
    layers = len(gaps)
    full = measure((ALWAYS,) * layers)
    points, moves = [full], []
    for layer, each in enumerate(gaps):
        saved = rise = 0.0
        for level in LEVELS:
            threshold = threshold_at(each, level)
            alone = tuple(threshold if i == layer else ALWAYS for i in range(layers))
            points.append(measure(alone))
            more = full.experts[layer] - points[-1].experts[layer]
            price = (points[-1].rise - rise) / max(more - saved, 1e-9)
            moves.append((price, layer, level))
            saved, rise = more, max(rise, points[-1].rise)
    path = [full.thresholds]
    for layer, level in _in_order(moves, layers):
        path.append(tuple(threshold_at(gaps[layer], level) if i == layer else t for i, t in enumerate(path[-1])))
    good, bad = 0, len(path)
    while bad - good > 1:
        middle = (good + bad) // 2
        points.append(measure(path[middle]))
        good, bad = (middle, bad) if points[-1].highest <= most_rise else (good, middle)
    return points


def _in_order(moves: Iterable[tuple[float, int, float]], layers: int) -> list[tuple[int, float]]:
    """Moves by their price, a layer's own from the highest level down."""
    left = {layer: [move for move in moves if move[1] == layer] for layer in range(layers)}
    order = []
    while any(left.values()):
        _, layer, level = min(queue[0] for queue in left.values() if queue)
        left[layer].pop(0)
        order.append((layer, level))
    return order


def best(points: Iterable[Point], most_rise: float) -> Point:
    """The fewest experts within the rise; of equals the lowest loss. All experts always are within any rise."""
    return min((point for point in points if point.highest <= most_rise), key=lambda point: (point.mean, point.loss))


def frontier(points: Iterable[Point]) -> list[Point]:
    """Those that no other beats in both experts and loss, fewest experts first."""
    kept: list[Point] = []
    for point in sorted(set(points), key=lambda point: (point.mean, point.loss)):
        if not kept or point.loss < kept[-1].loss:
            kept.append(point)
    return kept


SEARCHES = {"common": search_common, "greedy": search_greedy}
