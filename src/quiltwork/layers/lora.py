"""Low-rank updates of many sequences in one call: every row adds its own sequence's ``scale * B (A x)``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from numba import prange
from torch import Tensor

from quiltwork.layers.compiled import compilable, float32_at, kernel, numba_threads, parallel_is_safe

_LONG = 96
"""Rows of one model times its rank from which two matrix products beat the compiled row-by-row loop."""


_WORTH_SHARING = 1 << 17
"""Multiplications below which one thread is done before others have started."""


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
class LowRanks:
    """The updates one model makes to one projection, with what the compiled kernel reads of them."""

    updates: tuple[LowRank, ...]

    @cached_property
    def compilable(self) -> bool:
        """Whether the compiled kernel can read all of them."""
        return all(compilable(u.down) and compilable(u.up) for u in self.updates)

    @cached_property
    def rank(self) -> int:
        """The widest."""
        return max((u.rank for u in self.updates), default=0)

    @cached_property
    def work(self) -> int:
        """Multiplications per row."""
        return sum(u.down.numel() + u.up.numel() for u in self.updates)

    @cached_property
    def addresses(self) -> npt.NDArray[np.int64]:
        """(n, 7): 0, 0 (rows, to be filled in), address of down, of up, r, offset, columns."""
        rows = [(0, 0, u.down.data_ptr(), u.up.data_ptr(), u.rank, u.offset, u.columns) for u in self.updates]
        return np.array(rows, np.int64).reshape(-1, 7)

    @cached_property
    def scales(self) -> npt.NDArray[np.float32]:
        """(n,)."""
        return np.array([u.scale for u in self.updates], np.float32)


@dataclass(frozen=True)
class Use:
    """A model's updates and the rows they are for: ``begin`` to ``end``."""

    begin: int
    end: int
    own: LowRanks

    @property
    def long(self) -> bool:
        """Whether matrix products pay: never for a single row."""
        rows = self.end - self.begin
        return rows > 1 and rows * self.own.rank >= _LONG


@dataclass(frozen=True)
class Padded:
    """One update of each of n single rows, to the same columns, padded to the widest rank."""

    rows: Tensor
    """(n,) int64."""
    down: Tensor
    """(n, in, r)."""
    up: Tensor
    """(n, r, columns), scales folded in."""
    columns: slice


@dataclass(frozen=True)
class LowRankBatch:
    """All updates of a batch at one projection, by how they are applied."""

    short: npt.NDArray[np.int64] | None
    """(n, 7) as in LowRanks, rows filled in: all of them in one compiled call."""
    scales: npt.NDArray[np.float32] | None
    bounds: npt.NDArray[np.int64] | None
    """(uses + 1,): where each use's rows of ``short`` begin."""
    work: int
    """Multiplications of all of ``short``."""
    padded: tuple[Padded, ...]
    """Single rows where nothing is compiled."""
    long: tuple[Use, ...]
    """Runs of many rows: two matrix products each."""
    alive: tuple[Use, ...]
    """Holds the tensors behind the addresses."""


def _add_low_rank(x, y, table, scales, bounds):  # type: ignore[no-untyped-def]
    """Updates ``bounds[u]`` to ``bounds[u + 1]`` are one use; uses touch different rows, so they run in parallel."""
    width = x.shape[1]
    most = 0
    for e in range(table.shape[0]):
        most = max(most, table[e, 4])
    for use in prange(bounds.shape[0] - 1):
        inner = np.empty(most, np.float32)
        for e in range(bounds[use], bounds[use + 1]):
            down, up, rank = float32_at(table[e, 2]), float32_at(table[e, 3]), table[e, 4]
            offset, columns = table[e, 5], table[e, 6]
            for i in range(table[e, 0], table[e, 1]):
                row, result = x[i], y[i]
                for k in range(rank):
                    total = np.float32(0)
                    for j in range(width):
                        total += row[j] * down[k * width + j]
                    inner[k] = total * scales[e]
                whole = rank // 4 * 4
                for k in range(0, whole, 4):
                    a, b, c, d = inner[k], inner[k + 1], inner[k + 2], inner[k + 3]
                    at = k * columns
                    for j in range(columns):
                        result[offset + j] += (
                            a * up[at + j]
                            + b * up[at + columns + j]
                            + c * up[at + 2 * columns + j]
                            + d * up[at + 3 * columns + j]
                        )
                for k in range(whole, rank):
                    for j in range(columns):
                        result[offset + j] += inner[k] * up[k * columns + j]


_add_serial = kernel()(_add_low_rank)
_add_parallel = kernel(parallel=True)(_add_low_rank)


def _add_short(x: Tensor, y: Tensor, batched: LowRankBatch) -> None:
    threads = torch.get_num_threads()
    arguments = (x.numpy(), y.numpy(), batched.short, batched.scales, batched.bounds)
    if threads == 1 or batched.work < _WORTH_SHARING or not parallel_is_safe():
        _add_serial(*arguments)
        return
    with numba_threads(threads):
        _add_parallel(*arguments)


def _pad(uses: Sequence[Use]) -> tuple[Padded, ...]:
    places: dict[tuple[int, int], list[tuple[int, LowRank]]] = {}
    for use in uses:
        for update in use.own.updates:
            places.setdefault((update.offset, update.columns), []).append((use.begin, update))
    padded = []
    for (offset, columns), members in places.items():
        rank = max(u.rank for _, u in members)
        down = torch.stack([F.pad(u.down, (0, 0, 0, rank - u.rank)) for _, u in members]).transpose(1, 2)
        up = torch.stack([F.pad(u.up * u.scale, (0, 0, 0, rank - u.rank)) for _, u in members])
        rows = torch.tensor([row for row, _ in members], device=up.device)
        padded.append(Padded(rows, down, up, slice(offset, offset + columns)))
    return tuple(padded)


def batch(uses: Sequence[Use]) -> LowRankBatch:
    """Arrange the updates of a batch; the result is good for any x and y of the same rows."""
    short = [u for u in uses if u.own.compilable and not u.long]
    single = [u for u in uses if not u.own.compilable and u.end - u.begin == 1]
    chosen = {id(u) for u in (*short, *single)}
    padded, long = _pad(single), tuple(u for u in uses if id(u) not in chosen)
    if not short:
        return LowRankBatch(None, None, None, 0, padded, long, ())
    table = np.concatenate([u.own.addresses for u in short])
    counts = [len(u.own.updates) for u in short]
    table[:, :2] = np.repeat(np.array([(u.begin, u.end) for u in short], np.int64), counts, axis=0)
    return LowRankBatch(
        short=table,
        scales=np.concatenate([u.own.scales for u in short]),
        bounds=np.concatenate([[0], np.cumsum(counts)]),
        work=sum((u.end - u.begin) * u.own.work for u in short),
        padded=padded,
        long=long,
        alive=tuple(short),
    )


def add_low_rank_torch(x: Tensor, y: Tensor, uses: Sequence[Use]) -> None:
    """The reference: add each update to its rows of y, in place."""
    for use in uses:
        for update in use.own.updates:
            columns = y[use.begin : use.end, update.offset : update.offset + update.columns]
            columns.addmm_(x[use.begin : use.end] @ update.down.t(), update.up, alpha=update.scale)


def add_low_rank(x: Tensor, y: Tensor, batched: LowRankBatch) -> None:
    """Add every update of the batch to y (rows, out) in place; x (rows, in) and y contiguous."""
    if batched.short is not None:
        _add_short(x, y, batched)
    for group in batched.padded:
        added = torch.bmm(torch.bmm(x[group.rows, None], group.down), group.up)[:, 0]
        columns = y[:, group.columns]
        columns.index_add_(0, group.rows, added)
    add_low_rank_torch(x, y, batched.long)
