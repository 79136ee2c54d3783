"""What a report draws of a run, from its decision log: how jobs fared as distributions, and the cluster over time.

However many jobs and servers there are, what comes out is of one size: times are cut into bins, and servers that are
many are drawn several in a row.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from quiltwork.cluster.log import Action, Row
from quiltwork.cluster.server import Pool
from quiltwork.cluster.simulate.metrics import DAY_S, Lives, lives
from quiltwork.core.servable import Json

Floats = npt.NDArray[np.float64]
BINS = 2016
"""Of time: ten minutes each of two weeks."""
MOST_ROWS = 480
"""Of servers."""
POINTS = 161
"""Of a distribution, one per twentieth of a decade from a second on."""
_LEVELS = 15
_HOLDING = (Action.START, Action.SCALE_IN, Action.SCALE_OUT, Action.END, Action.PREEMPT)


@dataclass(frozen=True)
class Window:
    """The time that is drawn, in equal bins."""

    start: float
    width: float
    bins: int = BINS

    def means(self, times: Floats, deltas: Floats) -> Floats:
        """The mean in each bin of what changes by so much at each time: (n,), (n,) -> (bins,)."""
        row: Floats = self.grid(np.zeros(len(times), dtype=np.int64), times, deltas, 1)[0]
        return row

    def grid(self, rows: npt.NDArray[np.int64], times: Floats, deltas: Floats, count: int) -> Floats:
        """The same for ``count`` things at once: what changes by ``rows``."""
        position = np.maximum((times - self.start) / self.width, 0.0)
        inside = position < self.bins
        rows, position, deltas = rows[inside], position[inside], deltas[inside]
        at = position.astype(np.int64)
        made = np.zeros((count, self.bins + 1))
        # From the next bin on it counts whole, in its own for what is left of it.
        np.add.at(made, (rows, at + 1), deltas)
        made = np.cumsum(made, axis=1)
        np.add.at(made, (rows, at), deltas * (at + 1 - position))
        return made[:, : self.bins]

    def sums(self, times: Floats, amounts: Floats) -> Floats:
        """What falls into each bin: (n,), (n,) -> (bins,)."""
        at = np.floor((times - self.start) / self.width).astype(np.int64)
        inside = (at >= 0) & (at < self.bins)
        return np.bincount(at[inside], amounts[inside], self.bins).astype(np.float64)


def story_of(log: Sequence[Row], *, days: float) -> dict[str, Json]:
    """One run, for the page: distributions of queue and JCT; means over bins of the first ``days``; servers by bin."""
    jobs = lives(log)
    start = jobs.submitted[0]
    span = max(min(days * DAY_S, log[-1].time - start), 1.0)
    window = Window(start, span / BINS)
    return {
        "start_s": start,
        "bin_s": window.width,
        "bins": BINS,
        "end_s": log[-1].time - start,
        "queue": shares_within(np.array(jobs.queues)),
        "jct": shares_within(np.array(jobs.jcts)),
        **_pools(log, window),
        **_events(log, jobs, window),
        "servers": _servers(log, window),
    }


def shares_within(seconds: Floats) -> list[float]:
    """The share of all that is at most 1 s, 1.12 s ... 100,000,000 s: ``POINTS`` steps, twenty to a decade."""
    limits = 10 ** (np.arange(POINTS) / 20)
    return _rounded(np.searchsorted(np.sort(seconds), limits * (1 + 1e-9), side="right") / max(len(seconds), 1), 5)


def _pools(log: Sequence[Row], window: Window) -> dict[str, Json]:
    """GPUs that training holds on its own servers and on lent ones, that are lent, and that inference needs."""
    gpus = {row.servers[0][0]: row.after for row in log if row.action is Action.SERVER}
    pools = {row.servers[0][0]: row.reason for row in log if row.action is Action.SERVER}
    per_infer = max((gpus[s] for s, pool in pools.items() if pool == Pool.INFER), default=0)
    held: dict[str, tuple[int, int]] = {}
    times: list[float] = []
    own: list[int] = []
    lent: list[int] = []
    for row in log:
        if row.action in _HOLDING:
            before = held.get(row.job, (0, 0))
            times.append(row.time)
            own.append(row.gpus[0] - before[0])
            lent.append(row.gpus[1] - before[1])
            held[row.job] = row.gpus
    at = np.array(times)
    loans = [row for row in log if row.action in (Action.LOAN, Action.RETURN)]
    moved = np.array([gpus[r.servers[0][0]] * (1 if r.action is Action.LOAN else -1) for r in loans], dtype=np.float64)
    return {
        "own": _rounded(window.means(at, np.array(own, dtype=np.float64))),
        "lent": _rounded(window.means(at, np.array(lent, dtype=np.float64))),
        "on_loan": _rounded(window.means(np.array([r.time for r in loans]), moved)),
        "need": _rounded(_need(log, window) * per_infer),
        "train_gpus": sum(n for s, n in gpus.items() if pools[s] == Pool.TRAIN),
        "infer_gpus": sum(n for s, n in gpus.items() if pools[s] == Pool.INFER),
        "gpus_per_infer": per_infer,
    }


def _need(log: Sequence[Row], window: Window) -> Floats:
    """Servers that inference needs in the middle of each bin."""
    needs = [row for row in log if row.action is Action.NEED]
    if not needs:
        return np.zeros(window.bins)
    middles = window.start + window.width * (np.arange(window.bins) + 0.5)
    found: Floats = np.interp(middles, [row.time for row in needs], [row.cost for row in needs])
    return found


def _events(log: Sequence[Row], jobs: Lives, window: Window) -> dict[str, Json]:
    """Jobs that wait, on average; and how many servers are lent and asked back and jobs preempted in each bin."""
    change = {Action.SUBMIT: 1, Action.START: -1, Action.PREEMPT: 1}
    waits = [(row.time, change[row.action]) for row in log if row.action in change]

    def counted(action: Action, amount: float | None = None) -> list[float]:
        rows = [row for row in log if row.action is action]
        amounts = [row.after if amount is None else amount for row in rows]
        return _rounded(window.sums(np.array([row.time for row in rows]), np.array(amounts, dtype=np.float64)))

    return {
        "waiting": _rounded(window.means(np.array([t for t, _ in waits]), np.array([float(n) for _, n in waits]))),
        "lends": counted(Action.LOAN, 1),
        "asked_back": counted(Action.RECLAIM),
        "preempted": counted(Action.PREEMPT, 1),
    }


def _servers(log: Sequence[Row], window: Window) -> dict[str, Json]:
    """A row for each server, or for some that follow each other, and in it a byte for each bin.

    Of training's: the share of its GPUs that is taken, of 255. Of inference's: the share of the time that it is lent,
    of 15, times 16, and the share of its GPUs that training then has, of 15. Deflated, in base 64.
    """
    told = [row for row in log if row.action is Action.SERVER]
    groups: list[tuple[str, list[int]]] = []
    for pool in (Pool.TRAIN, Pool.INFER):
        ids = [at for at, row in enumerate(told) if row.reason == pool]
        size = max(1, -(-len(ids) // (MOST_ROWS // 2)))
        groups += [(pool, ids[n : n + size]) for n in range(0, len(ids), size)]
    row_of = np.zeros(len(told), dtype=np.int64)
    for row, (_, ids) in enumerate(groups):
        row_of[ids] = row
    gpus = np.array([row.after for row in told], dtype=np.float64)
    in_row = np.bincount(row_of, gpus, len(groups))[:, None]
    taken = [(row.time, server, n) for row in log if row.action in _HOLDING for server, n in row.servers if n]
    used = _grid(window, taken, row_of, np.ones(len(told)), len(groups)) / in_row
    moves = [
        (row.time, row.servers[0][0], 1 if row.action is Action.LOAN else -1)
        for row in log
        if row.action in (Action.LOAN, Action.RETURN)
    ]
    lent = _grid(window, moves, row_of, gpus, len(groups)) / in_row
    within = np.divide(used, lent, out=np.zeros_like(used), where=lent > 1e-9)
    inference = np.array([pool == Pool.INFER for pool, _ in groups])[:, None]
    own_byte = np.rint(np.clip(used, 0, 1) * 255)
    lent_byte = np.rint(np.clip(lent, 0, 1) * _LEVELS) * 16 + np.rint(np.clip(within, 0, 1) * _LEVELS)
    cells = np.where(inference, lent_byte, own_byte).astype(np.uint8)
    return {
        "names": [_named([told[at].job for at in ids]) for _, ids in groups],
        "pools": [str(pool) for pool, _ in groups],
        "cells": base64.b64encode(zlib.compress(cells.tobytes(), 9)).decode(),
    }


def _grid(window: Window, changes: Sequence[tuple[float, int, int]], row_of: Any, weight: Floats, count: int) -> Floats:
    times = np.array([time for time, _, _ in changes], dtype=np.float64)
    servers = np.array([server for _, server, _ in changes], dtype=np.int64)
    deltas = np.array([n for _, _, n in changes], dtype=np.float64)
    return window.grid(row_of[servers], times, deltas * weight[servers], count)


def _named(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _rounded(values: Floats, digits: int = 2) -> list[float]:
    rounded: list[float] = np.round(values, digits).tolist()
    return [int(value) if value == int(value) else value for value in rounded]
