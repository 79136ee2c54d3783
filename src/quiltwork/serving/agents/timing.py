"""What segments cost on an agent, from a table where one is given, else learnt from the batches it runs; and what it
costs to move keys and values to it, learnt from its moves."""

from __future__ import annotations

import math
from collections.abc import Mapping

from quiltwork.serving.agents.layout import Cut
from quiltwork.serving.policy.cost import CostTable, Handling, SegmentProfile
from quiltwork.serving.policy.queueing import Instance

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
FIRST_GUESS_S = 5e-4
"""Per block, before anything has been measured."""
FIRST_HANDLING = Handling(1e-3, 1e-9)
"""Before any move: pages are read, hashed and written at about a gigabyte per second."""
FIRST_SIZES = (1 << 20, 1 << 24)
"""Bytes of the moves that stand for ``FIRST_HANDLING`` among those measured, so that no single one decides."""
SURPRISE = 3.0
"""A move that took longer than so many times what was expected counts as one that took so long: it was held up."""


class Timing:
    """Seconds per batch by instance.

    table : measured profiles by instance; what is in it is not learnt.
    weight : of a new measurement against the old ones (EWMA).
    """

    def __init__(self, table: Mapping[Instance, SegmentProfile] | None = None, weight: float = 0.2) -> None:
        self._table = dict(table or {})
        self._weight = weight
        self._per_block: dict[int, float] = {}

    def learn(self, rows: int, blocks: int, seconds: float) -> None:
        """A step ran ``blocks`` blocks (batches counted block by block) of about ``rows`` rows each."""
        if blocks <= 0:
            return
        size = next((s for s in SIZES if s >= rows), SIZES[-1])
        new = seconds / blocks
        old = self._per_block.get(size)
        self._per_block[size] = new if old is None else old + self._weight * (new - old)

    def known(self, cut: Cut, segment: int) -> SegmentProfile | None:
        """The profile of one segment of a model; None where nothing was measured that tells of it."""
        return self.of(cut, segment) if self._per_block or cut.keys[segment] in self._table else None

    def of(self, cut: Cut, segment: int) -> SegmentProfile:
        """The same, or a guess."""
        known = self._table.get(cut.keys[segment])
        if known is not None:
            return known
        blocks = len(cut.keys[segment])
        if not self._per_block:
            rows = CostTable((1,), (blocks * FIRST_GUESS_S,))
        else:
            sizes = sorted(self._per_block)
            rows = CostTable(tuple(sizes), tuple(blocks * self._per_block[s] for s in sizes))
        return SegmentProfile(rows, kv_bytes=cut.kv_bytes[segment], hidden_bytes=cut.hidden_bytes)


class Handlings:
    """What moves cost beyond their way: a line through them by bytes, the latest counting most.

    weight : of a new measurement against the old ones (EWMA). memory_s : seconds after which a measurement counts for
    1 / e: where moves came out dear none are made, and so none would ever show that they have become cheap.
    """

    def __init__(self, weight: float = 0.2, memory_s: float = 30.0) -> None:
        self._weight, self._memory_s = weight, memory_s
        self._at = 0.0
        self._moves: list[tuple[float, float, float]] = []
        """Weight, bytes, seconds."""

    def learn(self, nbytes: int, seconds: float, now: float) -> None:
        """A move of ``nbytes`` took ``seconds`` more than the link does, and ended ``now``."""
        expected = self.now(now)
        held = min(max(seconds, 0.0), SURPRISE * expected.seconds(nbytes))
        self._age(now)
        kept = [(w * (1 - self._weight), b, s) for w, b, s in self._moves]
        self._moves = [(w, b, s) for w, b, s in kept if w > 1e-3]
        self._moves.append((1.0, float(nbytes), held))

    def _age(self, now: float) -> None:
        fade = math.exp(-max(now - self._at, 0.0) / self._memory_s)
        self._at = now
        self._moves = [(w * fade, b, s) for w, b, s in self._moves]

    def now(self, now: float) -> Handling:
        """What a move costs as far as is known ``now``."""
        self._age(now)
        first = [(0.1, float(b), FIRST_HANDLING.seconds(b)) for b in FIRST_SIZES]
        moves = [*first, *self._moves]
        total = sum(w for w, _, _ in moves)
        mean_b, mean_s = sum(w * b for w, b, _ in moves) / total, sum(w * s for w, _, s in moves) / total
        spread = sum(w * (b - mean_b) ** 2 for w, b, _ in moves)
        byte_s = max(sum(w * (b - mean_b) * (s - mean_s) for w, b, s in moves) / spread, 0.0)
        fixed_s = mean_s - byte_s * mean_b
        if fixed_s < 0:
            return Handling(0.0, sum(w * b * s for w, b, s in moves) / sum(w * b * b for w, b, _ in moves))
        return Handling(fixed_s, byte_s)
