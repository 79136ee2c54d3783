"""Low-rank updates of many sequences in one call: every row adds its own sequence's ``scale * B (A x)``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from numba import carray
from torch import Tensor

from quiltwork.layers.compiled import compilable
from quiltwork.layers.team import float32_at, int64_at, run_shared, take_ticket, team_size

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
class Short:
    """Updates of few rows each, all done in one compiled call."""

    table: npt.NDArray[np.int64]
    """(n, 7) as in LowRanks, rows filled in."""
    scales: npt.NDArray[np.float32]
    bounds: npt.NDArray[np.int64]
    """(uses + 1,): where each use's rows of the table begin."""
    work: int
    """Multiplications in all."""
    alive: tuple[Use, ...]
    """Holds the tensors behind the addresses."""


@dataclass(frozen=True)
class LowRankBatch:
    """All updates of a batch at one projection, by how they are applied."""

    short: Short | None
    padded: tuple[Padded, ...]
    """Single rows where nothing is compiled."""
    long: tuple[Use, ...]
    """Runs of many rows: two matrix products each."""


def _add_loop(call):  # type: ignore[no-untyped-def]
    """Updates ``bounds[u]`` to ``bounds[u + 1]`` are one use; uses touch different rows, so threads may share them."""
    c = carray(call, 11)
    rows, width, uses, updates = c[1], c[2], c[4], c[5]
    x, y = carray(float32_at(c[6]), (rows, width)), carray(float32_at(c[7]), (rows, c[3]))
    table, scales = carray(int64_at(c[8]), (updates, 7)), carray(float32_at(c[9]), (updates,))
    bounds = carray(int64_at(c[10]), (uses + 1,))
    most = 0
    for e in range(updates):
        most = max(most, table[e, 4])
    inner = np.empty(most, np.float32)
    use = take_ticket(call)
    while use < uses:
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
                    a, b, c0, d = inner[k], inner[k + 1], inner[k + 2], inner[k + 3]
                    at = k * columns
                    for j in range(columns):
                        result[offset + j] += (
                            a * up[at + j]
                            + b * up[at + columns + j]
                            + c0 * up[at + 2 * columns + j]
                            + d * up[at + 3 * columns + j]
                        )
                for k in range(whole, rank):
                    for j in range(columns):
                        result[offset + j] += inner[k] * up[k * columns + j]
        use = take_ticket(call)


def _add_short(x: Tensor, y: Tensor, short: Short) -> None:
    sizes = (*x.shape, y.shape[1], short.bounds.shape[0] - 1, short.table.shape[0])
    places = (x.data_ptr(), y.data_ptr(), *(a.ctypes.data for a in (short.table, short.scales, short.bounds)))
    run_shared(_add_loop, sizes + places, team_size(short.work, _WORTH_SHARING))


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
        return LowRankBatch(None, padded, long)
    table = np.concatenate([u.own.addresses for u in short])
    counts = [len(u.own.updates) for u in short]
    table[:, :2] = np.repeat(np.array([(u.begin, u.end) for u in short], np.int64), counts, axis=0)
    together = Short(
        table=table,
        scales=np.concatenate([u.own.scales for u in short]),
        bounds=np.concatenate([[0], np.cumsum(counts)]),
        work=sum((u.end - u.begin) * u.own.work for u in short),
        alive=tuple(short),
    )
    return LowRankBatch(together, padded, long)


def add_low_rank_torch(x: Tensor, y: Tensor, uses: Sequence[Use]) -> None:
    """The reference: add each update to its rows of y, in place."""
    for use in uses:
        for update in use.own.updates:
            columns = y[use.begin : use.end, update.offset : update.offset + update.columns]
            columns.addmm_(x[use.begin : use.end] @ update.down.t(), update.up, alpha=update.scale)


def add_low_rank(x: Tensor, y: Tensor, batched: LowRankBatch) -> None:
    """Add every update of the batch to y (rows, out) in place; x (rows, in) and y contiguous."""
    if batched.short is not None:
        _add_short(x, y, batched.short)
    for group in batched.padded:
        added = torch.bmm(torch.bmm(x[group.rows, None], group.down), group.up)[:, 0]
        columns = y[:, group.columns]
        columns.index_add_(0, group.rows, added)
    add_low_rank_torch(x, y, batched.long)
