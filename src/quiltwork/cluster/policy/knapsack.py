"""Who gets the GPUs that are left: a multiple-choice knapsack (Aryl, section 5: phase two of the allocation).

Each elastic job offers a menu: k workers more for k times its GPUs per worker, worth the seconds that its completion
comes earlier. At most one line of each menu is taken, and the GPUs are bounded.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from quiltwork.core.errors import BadInputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Menu:
    """What k = 0, 1, 2 ... workers more are worth to one job, and the upper hull of that.

    ``values`` : (k_max + 1,) float, 0 first. ``steps`` : workers of each segment of the hull. ``slopes`` : what a
    worker of each is worth; positive and falling. Where the curve is not concave, a segment is several workers, and
    nobody stops in the middle of one where that would waste GPUs.
    """

    values: Floats
    steps: Ints
    slopes: Floats


@dataclass(frozen=True)
class Allocation:
    """Workers more for each job, what they are worth, and what nothing can exceed.

    ``gap`` is a certificate: the optimum is at most that share above ``value``.
    """

    workers: list[int]
    value: float
    bound: float

    @property
    def gap(self) -> float:
        return (self.bound - self.value) / self.bound if self.bound > 0 else 0.0


def menu_of(values: Sequence[float] | Floats) -> Menu:
    """A menu from what k = 0, 1, 2 ... workers more are worth. Raises BadInputError where the first is not worth 0."""
    curve = np.asarray(values, dtype=np.float64)
    if curve.ndim != 1 or not curve.size or curve[0] != 0 or not np.isfinite(curve).all():
        raise BadInputError("values begin with 0, for no worker more, and are finite", where="menu")
    gains = np.diff(curve)
    if not gains.size or (gains[-1] > 0 and (gains[1:] < gains[:-1]).all()):
        return Menu(curve, np.ones(gains.size, dtype=np.int64), gains)
    corners = [0]
    heights = curve.tolist()
    for k in range(1, int(np.argmax(curve)) + 1):
        while len(corners) > 1 and _rise(heights, corners[-1], k) >= _rise(heights, corners[-2], corners[-1]):
            corners.pop()
        corners.append(k)
    steps: Ints = np.asarray([b - a for a, b in pairwise(corners)], dtype=np.int64)
    return Menu(curve, steps, np.diff(curve[corners]) / steps)


def _rise(heights: Sequence[float], start: int, end: int) -> float:
    return (heights[end] - heights[start]) / (end - start)


def allocate(
    menus: Sequence[Menu],
    gpus: Sequence[int],
    capacity: int,
    *,
    scale: Sequence[float] | Floats | None = None,
    held: Sequence[int] | None = None,
    stickiness: float = 0.0,
) -> Allocation:
    """By falling gain per GPU along the hulls, then whatever still fits: optimal but for the last segment.

    gpus : per worker of each job. scale : times which each menu is worth (remaining work, where menus are per unit of
    it). held : workers more that each has now; taking one from its job must gain ``stickiness`` more than it is worth
    there, so that two jobs do not pass one GPU to and fro.
    """
    if not menus:
        return Allocation([], 0.0, 0.0)
    weight = np.asarray(gpus, dtype=np.int64)
    worth = np.ones(len(menus)) if scale is None else np.asarray(scale, dtype=np.float64)
    lengths = [menu.steps.size for menu in menus]
    owner = np.repeat(np.arange(len(menus)), lengths)
    steps = np.concatenate([menu.steps for menu in menus])
    sizes = steps * weight[owner]
    density = np.concatenate([menu.slopes for menu in menus]) * (worth / weight)[owner]
    ranked = density
    if stickiness and held is not None:
        starts = np.cumsum(steps) - steps
        firsts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
        begun = np.repeat(starts[np.minimum(firsts, max(steps.size - 1, 0))] if steps.size else firsts, lengths)
        ranked = density * np.where(starts - begun < np.asarray(held)[owner], 1.0 + stickiness, 1.0)
    order = np.argsort(-ranked, kind="stable")
    filled = np.cumsum(sizes[order])
    whole = int(np.searchsorted(filled, capacity, side="right"))
    taken = order[:whole]
    workers = np.bincount(owner[taken], weights=steps[taken], minlength=len(menus)).astype(np.int64)
    left = capacity - (int(filled[whole - 1]) if whole else 0)
    if left and whole < order.size:
        _fill(menus, weight, worth, workers, left, owner[order[whole:]])
    counts: list[int] = workers.tolist()
    value = float(sum(m.values[k] * w for m, k, w in zip(menus, counts, worth.tolist(), strict=True) if k))
    return Allocation(counts, value, max(_bound(density, sizes, capacity), value))


def _bound(density: Floats, sizes: Ints, capacity: int) -> float:
    """The optimum if the last segment could be split."""
    order = np.argsort(-density, kind="stable")
    filled = np.cumsum(sizes[order])
    whole = int(np.searchsorted(filled, capacity, side="right"))
    bound = float((density[order[:whole]] * sizes[order[:whole]]).sum())
    if whole < order.size:
        bound += float(density[order[whole]]) * (capacity - (int(filled[whole - 1]) if whole else 0))
    return bound


def _fill(menus: Sequence[Menu], weight: Ints, worth: Floats, workers: Ints, left: int, queue: Ints) -> None:
    """Spend what the last whole segment left: again and again the best gain per GPU that fits, of the next few jobs."""
    near = list(dict.fromkeys(queue.tolist()))[: 16 + 4 * left]

    def offer(at: int) -> tuple[float, int, int]:
        """The best that a job can do with what is left: minus its gain per GPU, its place, workers more."""
        job = near[at]
        values, now = menus[job].values, int(workers[job])
        ahead = values[now + 1 : now + 1 + left // int(weight[job])]
        if not ahead.size:
            return 0.0, at, 0
        gains = (ahead - values[now]) / np.arange(1, ahead.size + 1)
        k = int(np.argmax(gains))
        return -float(gains[k] * worth[job] / weight[job]), at, k + 1

    offers = [found for at in range(len(near)) if (found := offer(at))[0] < 0]
    heapq.heapify(offers)
    while offers:
        _, at, more = offers[0]
        job = near[at]
        # With less left an offer only gets worse: one that still fits is still its job's best.
        if more * int(weight[job]) <= left:
            workers[job] += more
            left -= more * int(weight[job])
        renewed = offer(at)
        if renewed[0] < 0:
            heapq.heapreplace(offers, renewed)
        else:
            heapq.heappop(offers)


def allocate_exactly(
    menus: Sequence[Menu], gpus: Sequence[int], capacity: int, *, scale: Sequence[float] | Floats | None = None
) -> Allocation:
    """By dynamic programming over GPUs, as the paper does: optimal, in time and memory of capacity times all lines."""
    worth = [1.0] * len(menus) if scale is None else [float(s) for s in scale]
    best = np.zeros(capacity + 1)
    most = max((menu.values.size - 1 for menu in menus), default=0)
    chosen = np.zeros((len(menus), capacity + 1), dtype=np.min_scalar_type(most))
    for row, (menu, weight, times) in enumerate(zip(menus, gpus, worth, strict=True)):
        before = best.copy()
        for k in range(1, min(menu.values.size - 1, capacity // weight) + 1):
            offered = before[: capacity + 1 - k * weight] + menu.values[k] * times
            better = offered > best[k * weight :]
            best[k * weight :][better] = offered[better]
            chosen[row, k * weight :][better] = k
    workers, left = [0] * len(menus), capacity
    for row in range(len(menus) - 1, -1, -1):
        workers[row] = int(chosen[row, left])
        left -= workers[row] * gpus[row]
    value = float(best[capacity])
    return Allocation(workers, value, value)
