"""What things cost in seconds: batches from measured tables, transfers from measured links."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from quiltwork.core.errors import BadInputError


@dataclass(frozen=True)
class CostTable:
    """Seconds by amount (rows of a batch, bytes of a message): linear between measured points.

    Below the first point the first cost holds (a launch costs what it costs); beyond the last one the slope of the last
    piece goes on. Raises BadInputError where points are missing, out of order or negative.
    """

    amounts: tuple[float, ...]
    """Ascending."""
    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.amounts or len(self.amounts) != len(self.seconds):
            raise BadInputError(f"{len(self.amounts)} amounts and {len(self.seconds)} costs", where="cost table")
        if any(b <= a for a, b in zip(self.amounts, self.amounts[1:], strict=False)):
            raise BadInputError("amounts do not ascend", where="cost table")
        if min(self.seconds) < 0 or self.amounts[0] < 0:
            raise BadInputError("holds a negative number", where="cost table")

    def at(self, amount: float) -> float:
        """Seconds of ``amount``; 0 for nothing at all."""
        if amount <= 0:
            return 0.0
        if amount <= self.amounts[0] or len(self.amounts) == 1:
            return self.seconds[0]
        i = min(bisect_right(self.amounts, amount), len(self.amounts) - 1)
        a, b, x, y = self.amounts[i - 1], self.amounts[i], self.seconds[i - 1], self.seconds[i]
        return max(x + (y - x) * (amount - a) / (b - a), 0.0)

    def most_within(self, seconds: float) -> float:
        """The largest amount that costs at most ``seconds``; 0 where even the smallest costs more.

        Never more than twice what was measured: no line goes on for ever.
        """
        if self.at(self.amounts[0]) > seconds:
            return 0.0
        best = self.amounts[0]
        for a, b, x, y in zip(self.amounts, self.amounts[1:], self.seconds, self.seconds[1:], strict=False):
            if y <= seconds:
                best = b
            elif x <= seconds:
                return max(best, a + (b - a) * (seconds - x) / (y - x))
            else:
                return best
        if len(self.amounts) > 1:
            slope = (self.seconds[-1] - self.seconds[-2]) / (self.amounts[-1] - self.amounts[-2])
            if slope > 0 and self.seconds[-1] <= seconds:
                return min(best + (seconds - self.seconds[-1]) / slope, 2 * self.amounts[-1])
        return best


@dataclass(frozen=True)
class SegmentProfile:
    """What one segment costs on one kind of device (the profile T(block, B, n) of BlockLLM, section 1.8 of its design).

    A batch costs what its rows cost plus what attention reads: ``rows.at(rows) + context * context_s``.
    """

    rows: CostTable
    """Seconds of a batch by its rows, attention over the context left out."""
    context_s: float = 0.0
    """Seconds per (row, token before it) pair that attention goes over."""
    weight_bytes: int = 0
    kv_bytes: int = 0
    """Bytes of keys and values per token over all its attention blocks."""
    hidden_bytes: int = 0
    """Bytes of hidden state per row that enter (and leave) it."""
    load_s: float = 0.0
    """Seconds to bring it into the device's memory."""
    prompt_context_s: float | None = None
    """``context_s`` where many rows of one sequence share what they read; None where that is no cheaper."""

    def batch_s(self, rows: float, context: float = 0.0, prompt_context: float = 0.0) -> float:
        """Seconds of one batch: ``rows`` rows that attend over ``context`` (row, token) pairs in all.

        prompt_context : the pairs of those rows that come many of one sequence; not counted in ``context``.
        """
        of_prompts = self.context_s if self.prompt_context_s is None else self.prompt_context_s
        return self.rows.at(rows) + context * self.context_s + prompt_context * of_prompts

    def prefill_s(self, tokens: float) -> float:
        """Seconds to compute ``tokens`` consecutive tokens from nothing."""
        return self.batch_s(tokens, prompt_context=tokens * (tokens + 1) / 2)


@dataclass(frozen=True)
class Link:
    """A directed way between two places: a fixed latency and a rate, or measured times by size."""

    latency_s: float = 0.0
    bytes_per_s: float = float("inf")
    measured: CostTable | None = None
    """Seconds by message bytes; stands in for latency and rate where given."""
    busy_s: float = 0.0
    """Until what is being sent on it has arrived."""

    def __post_init__(self) -> None:
        if self.latency_s < 0 or not self.bytes_per_s > 0:
            raise BadInputError("a link needs a latency >= 0 and a rate > 0", where="link")

    def seconds(self, nbytes: float) -> float:
        """Seconds until ``nbytes`` have arrived, after what is on the link already."""
        if self.measured is not None:
            return self.busy_s + self.measured.at(max(nbytes, 1.0))
        return self.busy_s + self.latency_s + nbytes / self.bytes_per_s


@dataclass(frozen=True)
class Handling:
    """What keys and values cost beyond their way: reading, checking and writing pages, and waiting for whoever does."""

    fixed_s: float = 0.0
    """Seconds of each move."""
    byte_s: float = 0.0
    """Seconds per byte."""

    def seconds(self, nbytes: float) -> float:
        """Of a move of ``nbytes``."""
        return self.fixed_s + nbytes * self.byte_s


def joined(profiles: Sequence[SegmentProfile]) -> SegmentProfile:
    """One profile of segments that follow each other on one device."""
    amounts = tuple(sorted({a for p in profiles for a in p.rows.amounts}))
    return SegmentProfile(
        rows=CostTable(amounts, tuple(sum(p.rows.at(a) for p in profiles) for a in amounts)),
        context_s=sum(p.context_s for p in profiles),
        prompt_context_s=sum(p.context_s if p.prompt_context_s is None else p.prompt_context_s for p in profiles),
        weight_bytes=sum(p.weight_bytes for p in profiles),
        kv_bytes=sum(p.kv_bytes for p in profiles),
        hidden_bytes=profiles[0].hidden_bytes,
        load_s=sum(p.load_s for p in profiles),
    )
