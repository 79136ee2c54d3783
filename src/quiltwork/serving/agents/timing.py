"""What segments cost on an agent: from a table where one is given, else learnt from the batches it runs."""

from __future__ import annotations

from collections.abc import Mapping

from quiltwork.serving.agents.layout import Cut
from quiltwork.serving.policy.cost import CostTable, SegmentProfile
from quiltwork.serving.policy.queueing import Instance

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
FIRST_GUESS_S = 5e-4
"""Per block, before anything has been measured."""


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

    def of(self, cut: Cut, segment: int) -> SegmentProfile:
        """The profile of one segment of a model."""
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
