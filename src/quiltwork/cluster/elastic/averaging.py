"""The mean gradient of a step over all workers, with a mark from each: one all-reduce, or bit-identically in parts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from quiltwork.cluster.elastic.group import Group
from quiltwork.cluster.elastic.layout import Layout
from quiltwork.cluster.elastic.sharing import Ids, shares, span
from quiltwork.core.errors import BadInputError
from quiltwork.core.trainable import Gradients, mean_of

Compute = Callable[[Ids], Gradients]
Mark = Callable[[], bool]
"""Whether this worker sets its mark; asked once in a step, after its gradient is computed."""
Mean = Callable[[Ids, Mark], tuple[Gradients, int]]
"""From the ids of a step: the mean over all workers, and how many marks were set. The same at all."""


def alone(compute: Compute) -> Mean:
    """A single worker."""

    def mean(ids: Ids, mark: Mark) -> tuple[Gradients, int]:
        own = compute(ids)
        return own, int(mark())

    return mean


def together(compute: Compute, layout: Layout, group: Group) -> Mean:
    """Workers that each compute their share of a step: ``mean_of`` their gradients, up to rounding.

    What is summed is one row: the gradients times their count, then count, mark, and each metric with the count that
    it stands for; hence a step costs one all-reduce. It is summed in the layout's type, so that more than 2**24 samples
    in a step would be counted inexactly in float32.
    """
    size, metrics = layout.size, layout.metrics
    row = torch.zeros(size + 2 + 2 * len(metrics), dtype=torch.from_numpy(np.empty(0, layout.dtype)).dtype)
    numbers = row.numpy()

    def mean(ids: Ids, mark: Mark) -> tuple[Gradients, int]:
        mine = shares(ids, group.size)[group.rank]
        numbers[size:] = 0
        own = compute(mine) if len(mine) else Gradients({}, 0)
        if len(mine):
            layout.check(own)
        if own.count:
            layout.fill(numbers[:size], own.arrays, own.count)
            numbers[size] = own.count
            for at, name in enumerate(metrics):
                if name in own.metrics:
                    numbers[size + 2 + 2 * at :][:2] = own.metrics[name] * own.count, own.count
        else:
            numbers[:size] = 0
        numbers[size + 1] = mark()
        group.add_up(row)
        count = _counted(float(numbers[size]))
        told = {
            name: float(numbers[size + 2 + 2 * at]) / count
            for at, name in enumerate(metrics)
            if round(float(numbers[size + 3 + 2 * at])) == count
        }
        # Not in place: whoever gets the mean may keep it, and the row is needed again.
        arrays = layout.arrays(numbers[:size] / layout.dtype.type(count))
        return Gradients(arrays, count, told), round(float(numbers[size + 1]))

    return mean


def in_parts(compute: Compute, layout: Layout, parts: int, group: Group | None) -> Mean:
    """The same bits whatever the number of workers: a step is computed in ``parts`` parts, which are summed in order.

    Each worker computes some parts, hands every other one a stretch of their gradients, takes the ``mean_of`` all parts
    on its own stretch, and all gather the stretches: about the traffic of an all-reduce for each part of a worker.
    A part's gradient has to be the same wherever it is computed: equal machines, numbers of threads, versions.
    """
    rank, workers = (0, 1) if group is None else (group.rank, group.size)
    mine = span(parts, rank, workers)
    stretch = -(-layout.size // workers)
    metrics = layout.metrics

    def mean(ids: Ids, mark: Mark) -> tuple[Gradients, int]:
        rows = np.zeros((len(mine), stretch * workers), layout.dtype)
        told = np.zeros((-(-parts // workers), 1 + 2 * len(metrics)))
        for at, part in enumerate(mine):
            share = shares(ids, parts)[part]
            if len(share):
                own = compute(share)
                layout.check(own)
                layout.fill(rows[at][: layout.size], own.arrays)
                told[at] = [own.count, *(x for n in metrics for x in (n in own.metrics, own.metrics.get(n, 0.0)))]
        marks, said = _all_told(mark(), told, parts, group)
        counts = [int(one[0]) for one in said]
        _counted(sum(counts))
        columns = _exchanged(rows, stretch, parts, group)
        whole = np.asarray(
            mean_of([Gradients({"": columns[part]}, counts[part]) for part in range(parts)]).arrays[""], layout.dtype
        )
        if group is not None:
            whole = group.gather(torch.from_numpy(whole)).numpy().reshape(-1)
        figures = mean_of([Gradients({}, counts[part], _metrics(metrics, said[part])) for part in range(parts)])
        return Gradients(layout.arrays(whole[: layout.size]), sum(counts), figures.metrics), marks

    return mean


def _counted(total: float) -> int:
    if total < 1:
        raise BadInputError("no worker had any samples in a step", where="next_samples")
    return round(total)


def _all_told(mark: bool, told: np.ndarray, parts: int, group: Group | None) -> tuple[int, np.ndarray]:
    """Marks set by all, and what was told of each part, (parts, n), in the order of parts."""
    if group is None:
        return int(mark), told
    mine = torch.from_numpy(np.append(told.reshape(-1), float(mark)))
    got = group.gather(mine).numpy()
    rows = got[:, :-1].reshape(group.size, *told.shape)
    ordered = [rows[rank, : len(span(parts, rank, group.size))] for rank in range(group.size)]
    return round(float(got[:, -1].sum())), np.concatenate(ordered)


def _exchanged(rows: np.ndarray, stretch: int, parts: int, group: Group | None) -> np.ndarray:
    """(parts, stretch): this worker's stretch of every part's gradients."""
    if group is None:
        return rows
    sent = [torch.from_numpy(rows[:, to * stretch : (to + 1) * stretch].reshape(-1)) for to in range(group.size)]
    sizes = [len(span(parts, rank, group.size)) * stretch for rank in range(group.size)]
    return torch.cat(group.exchange(sent, sizes)).numpy().reshape(parts, stretch)


def _metrics(names: tuple[str, ...], told: np.ndarray) -> dict[str, float]:
    return {name: float(told[2 + 2 * at]) for at, name in enumerate(names) if told[1 + 2 * at]}
