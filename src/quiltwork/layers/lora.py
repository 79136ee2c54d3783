"""Low-rank updates of many sequences in one call: every row adds its own sequence's ``scale * B (A x)``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from quiltwork.layers.compiled import float32_at, kernel

LONG_RUN = 16
"""Rows of one adapter from which two matrix products beat the compiled row-by-row loop."""


@dataclass(frozen=True)
class LowRank:
    """One low-rank update: columns ``offset`` to ``offset + up.shape[1]`` of y gain ``scale * (x @ down.T) @ up``."""

    down: Tensor
    """(r, in): PEFT's A."""
    up: Tensor
    """(r, out): PEFT's B transposed, so that adding one rank's share is a pass over contiguous columns."""
    offset: int
    scale: float

    @property
    def rank(self) -> int:
        """r."""
        return self.up.shape[0]

    @property
    def columns(self) -> int:
        """Columns of y it adds to."""
        return self.up.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of both matrices."""
        return self.down.nbytes + self.up.nbytes


@dataclass(frozen=True)
class Use:
    """An update and the rows it is for: ``begin`` to ``end``."""

    begin: int
    end: int
    update: LowRank


@dataclass(frozen=True)
class LowRankBatch:
    """All updates of a batch at one projection; ``short`` ones are applied by one compiled call."""

    short: npt.NDArray[np.int64]
    """(n, 7): begin, end, address of down, address of up, r, offset, columns."""
    scales: npt.NDArray[np.float32]
    long: tuple[Use, ...]
    alive: tuple[Tensor, ...]
    """The tensors behind the addresses."""


@kernel()
def _add_low_rank(x, y, table, scales):  # type: ignore[no-untyped-def]
    width = x.shape[1]
    most = 0
    for e in range(table.shape[0]):
        most = max(most, table[e, 4])
    inner = np.empty(most, np.float32)
    for e in range(table.shape[0]):
        down, up, rank = float32_at(table[e, 2]), float32_at(table[e, 3]), table[e, 4]
        offset, columns = table[e, 5], table[e, 6]
        for i in range(table[e, 0], table[e, 1]):
            row, result = x[i], y[i]
            for k in range(rank):
                total = np.float32(0)
                for j in range(width):
                    total += row[j] * down[k * width + j]
                inner[k] = total * scales[e]
            k = 0
            while k + 4 <= rank:
                a, b, c, d = inner[k], inner[k + 1], inner[k + 2], inner[k + 3]
                at = k * columns
                for j in range(columns):
                    result[offset + j] += (
                        a * up[at + j]
                        + b * up[at + columns + j]
                        + c * up[at + 2 * columns + j]
                        + d * up[at + 3 * columns + j]
                    )
                k += 4
            while k < rank:
                for j in range(columns):
                    result[offset + j] += inner[k] * up[k * columns + j]
                k += 1


def compilable(tensor: Tensor) -> bool:
    """Whether compiled kernels can read and write ``tensor``."""
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32


def batch(uses: Sequence[Use]) -> LowRankBatch:
    """Arrange the updates of a batch; the result is good for any x and y of the same rows."""
    short = [u for u in uses if u.end - u.begin < LONG_RUN and compilable(u.update.down)]
    rows = [
        (u.begin, u.end, own.down.data_ptr(), own.up.data_ptr(), own.rank, own.offset, own.columns)
        for u in short
        for own in (u.update,)
    ]
    return LowRankBatch(
        short=np.array(rows, np.int64).reshape(-1, 7),
        scales=np.array([u.update.scale for u in short], np.float32),
        long=tuple(u for u in uses if u.end - u.begin >= LONG_RUN or not compilable(u.update.down)),
        alive=tuple(t for u in short for t in (u.update.down, u.update.up)),
    )


def add_low_rank_torch(x: Tensor, y: Tensor, uses: Sequence[Use]) -> None:
    """The reference: add each update to its rows of y, in place."""
    for use in uses:
        update = use.update
        columns = y[use.begin : use.end, update.offset : update.offset + update.columns]
        columns.addmm_(x[use.begin : use.end] @ update.down.t(), update.up, alpha=update.scale)


def add_low_rank(x: Tensor, y: Tensor, batched: LowRankBatch) -> None:
    """Add every update of the batch to y (rows, out) in place; x (rows, in) and y contiguous."""
    if len(batched.scales):
        _add_low_rank(x.numpy(), y.numpy(), batched.short, batched.scales)
    add_low_rank_torch(x, y, batched.long)
