"""Buckets of samples of alike length, and groups of consecutive samples that come in an order of their own."""

from __future__ import annotations

import numpy as np

from quiltwork.layers.order import Ids


def length_buckets(lengths: Ids, buckets: int) -> list[Ids]:
    """Ids by bucket, shortest samples first; buckets are as large as each other. lengths : (n,).

    More buckets than samples are as many as there are samples.
    """
    ordered = np.argsort(lengths, kind="stable").astype(np.int64)
    return [np.sort(bucket) for bucket in np.array_split(ordered, min(buckets, max(1, len(lengths))))]


def in_groups(ordered: Ids, start: int, size: int, draw: np.random.Generator | None) -> Ids:
    """Consecutive samples in groups of ``size``, the groups in a drawn order; as they stand without ``draw``.

    A group begins where a step does, if steps have ``size`` samples: start is the number of samples taken before
    ordered[0]. So the first group and the last may be smaller, and they too come from anywhere.
    """
    count = len(ordered)
    lead = min(-start % size, count)
    whole, tail = divmod(count - lead, size)
    sizes = np.array([lead] * (lead > 0) + [size] * whole + [tail] * (tail > 0), np.int64)
    slots = np.arange(len(sizes)) if draw is None else draw.permutation(len(sizes))
    pieces = np.split(ordered, sizes[slots].cumsum()[:-1]) if len(sizes) else []
    placed = sorted(zip(slots.tolist(), pieces, strict=True), key=lambda one: one[0])
    return np.concatenate([piece for _, piece in placed]) if placed else ordered
