"""Who computes which samples of a step."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]


def shares(ids: Ids, parts: int) -> list[Ids]:
    """The ids of a step dealt out: ``parts`` consecutive pieces whose sizes differ by one at most, some perhaps empty.

    Together they are ``ids`` in the same order. Who gets what hangs on the ids and the number of parts alone.
    """
    return np.array_split(ids, parts)


def span(count: int, rank: int, workers: int) -> range:
    """Which of ``count`` things, shards or elements, are this rank's: consecutive, as even as can be."""
    whole, rest = divmod(count, workers)
    start = rank * whole + min(rank, rest)
    return range(start, start + whole + (rank < rest))
