"""Splitting a step's samples so that all workers have as much to do: bin packing with bins of given sizes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from quiltwork.layers.order import Ids

_SWAPS = 1000
"""At most: each makes the dearest share cheaper, so few are needed."""


def sizes_of(count: int, parts: int) -> list[int]:
    """How many of ``count`` samples each of ``parts`` gets: as ``numpy.array_split``."""
    most, more = divmod(count, parts)
    return [most + (at < more) for at in range(parts)]


def balanced_shares(costs: npt.ArrayLike, sizes: Sequence[int]) -> list[Ids]:
    """Places of samples by share: share p has sizes[p] of them, and the mean cost of a sample in it is about the same.

    The dearest goes first, each to the share that has spent least of what is due to it (longest processing time
    first); then samples are swapped between shares as long as that brings the two nearer to what is due to them. All
    of it hangs on the arguments alone. costs : (n,), n the sum of sizes.
    """
    cost, room = np.asarray(costs, np.float64), list(sizes)
    due = cost.sum() * np.array(sizes, np.float64) / max(1, len(cost))
    spent = np.zeros(len(room))
    shares: list[list[int]] = [[] for _ in room]
    for place in np.argsort(-cost, kind="stable").tolist():
        free = [p for p in range(len(room)) if len(shares[p]) < room[p]]
        to = max(free, key=lambda p: ((due[p] - spent[p]) / room[p], -p))
        shares[to].append(place)
        spent[to] += cost[place]
    for _ in range(_SWAPS):
        if not _swap(cost, due, spent, shares):
            break
    return [np.array(sorted(share), np.int64) for share in shares]


def arranged(ids: Ids, costs: npt.ArrayLike, workers: int, micro_batch: int | None) -> Ids:
    """The same ids so that ``numpy.array_split`` gives each worker as much to do, and each worker's micro-batches too.

    costs : (n,), of these ids.
    """
    cost = np.asarray(costs, np.float64)
    shares = balanced_shares(cost, sizes_of(len(ids), workers)) if workers > 1 else [np.arange(len(ids))]
    return np.concatenate([ids[share[_micro(cost[share], micro_batch)]] for share in shares])


def _micro(costs: npt.NDArray[np.float64], size: int | None) -> Ids:
    whole, rest = divmod(len(costs), size or max(1, len(costs)))
    if whole + (rest > 0) < 2:
        return np.arange(len(costs))
    return np.concatenate(balanced_shares(costs, [size or 0] * whole + [rest] * (rest > 0)))


def _swap(
    cost: npt.NDArray[np.float64], due: npt.NDArray[np.float64], spent: npt.NDArray[np.float64], shares: list[list[int]]
) -> bool:
    """Swap the two samples, one of the share that is furthest above what is due to it, that help most."""
    over = spent - due
    high = int(over.argmax())
    best: tuple[float, int, int, int] | None = None
    for low in range(len(shares)):
        if low == high or not shares[low] or not shares[high]:
            continue
        moved = cost[shares[high]][:, None] - cost[shares[low]][None, :]
        left = np.maximum(np.abs(over[high] - moved), np.abs(over[low] + moved))
        gain = max(abs(over[high]), abs(over[low])) - left
        a, b = divmod(int(gain.argmax()), gain.shape[1])
        if gain[a, b] > 1e-9 * max(1.0, abs(float(due[high]))) and (best is None or gain[a, b] > best[0]):
            best = float(gain[a, b]), low, a, b
    if best is None:
        return False
    _, low, a, b = best
    mine, other = shares[high][a], shares[low][b]
    shares[high][a], shares[low][b] = other, mine
    spent[high] += cost[other] - cost[mine]
    spent[low] += cost[mine] - cost[other]
    return True
