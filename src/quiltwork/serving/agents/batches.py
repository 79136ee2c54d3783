"""What every executed batch held, on its way from the agents to the front's log.

An agent notes its batches while it runs them and sends what it noted with its signs of life, so that no piece of work
waits for it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence

from quiltwork.serving.agents.message import Batches
from quiltwork.serving.batch_log import Executed
from quiltwork.serving.execute import BatchRecord, Work
from quiltwork.serving.policy.queueing import Instance
from quiltwork.serving.route import Segment
from quiltwork.zoo.segments import segment_id

MOST_NOTES = 4096
"""Batches that an agent keeps between two signs of life; beyond, the oldest are left out."""


class Notes:
    """One agent's batches since it told of them last. clock : seconds. most : kept at a time."""

    def __init__(self, agent: str, clock: Callable[[], float], most: int = MOST_NOTES) -> None:
        self._agent, self._clock = agent, clock
        self._kept: deque[tuple[float, Segment, int, tuple[str, ...]]] = deque(maxlen=most)
        self._left_out = 0

    def watch(self, segment: Segment, works: Sequence[Work], record: BatchRecord) -> None:
        """A batch is about to run through ``segment``."""
        self._left_out += len(self._kept) == self._kept.maxlen
        self._kept.append((self._clock(), segment, record.rows, tuple(str(work.seq.model) for work in works)))

    def letter(self) -> Batches | None:
        """What was noted, and forgotten here with it; None where there was nothing."""
        if not self._kept:
            return None
        now = self._clock()
        segments: dict[Instance, tuple[int, tuple[str, str, str, int]]] = {}
        models: dict[str, int] = {}
        batches: list[tuple[float, int, int, tuple[tuple[int, int], ...]]] = []
        for began, segment, rows, sequences in self._kept:
            if segment.key not in segments:
                links = segment.links
                place = (segment_id(segment.key), links[0].name, links[-1].name, len(links))
                segments[segment.key] = (len(segments), place)
            held = tuple(
                (models.setdefault(model, len(models)), count) for model, count in sorted(Counter(sequences).items())
            )
            batches.append((round(now - began, 6), segments[segment.key][0], rows, held))
        left_out, self._left_out = self._left_out, 0
        self._kept.clear()
        places = tuple(place for _, place in segments.values())
        return Batches(self._agent, places, tuple(models), tuple(batches), left_out)


def executed(letter: Batches) -> Iterator[Executed]:
    """The batches of a letter as the log has them."""
    for before, at, rows, held in letter.batches:
        segment, first, last, blocks = letter.segments[at]
        sequences = {letter.models[model]: count for model, count in held}
        yield Executed(segment, first, last, blocks, rows, sequences, letter.agent, before)
