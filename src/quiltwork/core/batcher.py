"""From one-shot batches to streams: what a model needs that answers whole batches at once to stand behind a Servable.

Like a lift: it leaves when it is full, or when whoever came first has waited long enough.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from quiltwork.core.errors import BadInputError, CapacityError, QuiltworkError
from quiltwork.core.servable import Part, Stream

Item = TypeVar("Item")


@dataclass(frozen=True)
class BatchLimits:
    """When a batch starts.

    Parameters
    ----------
    max_batch : items in one batch at most.
    max_wait : seconds an item may wait for others to come.
    max_queue : items that may wait in all; more are refused.
    """

    max_batch: int
    max_wait: float
    max_queue: int

    def __post_init__(self) -> None:
        for name, value, least in (
            ("max_batch", self.max_batch, 1),
            ("max_wait", self.max_wait, 0),
            ("max_queue", self.max_queue, 1),
        ):
            if not least <= value < float("inf"):
                raise BadInputError(f"{value} is less than {least} or not finite", where=name)


def choose_batch(
    queue: Sequence[tuple[Hashable, float]], now: float, limits: BatchLimits
) -> tuple[list[int], float | None]:
    """Which waiting items to run now, and else for how long to wait.

    queue : key and arrival time of every waiting item, oldest first. Only items with equal keys run together.

    Returns the places of a batch, oldest first, or no places and the seconds until one is due (None for an empty
    queue). Of several batches that are due, the one with the oldest item goes first.
    """
    groups: dict[Hashable, list[int]] = {}
    for place, (key, _) in enumerate(queue):
        groups.setdefault(key, []).append(place)
    soonest: float | None = None
    for places in groups.values():  # in the order of their oldest items
        left = queue[places[0]][1] + limits.max_wait - now
        if len(places) >= limits.max_batch or left <= 0:
            return places[: limits.max_batch], None
        soonest = left if soonest is None else min(soonest, left)
    return [], soonest


@dataclass(frozen=True, eq=False)
class _Waiting(Generic[Item]):
    item: Item
    key: Hashable
    arrival: float
    stream: Stream


class Batcher(Generic[Item]):
    """Runs items in batches on a thread of its own and hands each its own stream of one part.

    Parameters
    ----------
    run : called with the items of a batch; returns for each, in order, its Part or the QuiltworkError that it met.
        What it raises fails the whole batch.
    alike : items run together only where this gives equal keys (a model, an image's size); all do where None.
    clock : seconds; only differences matter.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Item]], Sequence[Part | QuiltworkError]],
        limits: BatchLimits,
        *,
        alike: Callable[[Item], Hashable] | None = None,
        clock: Callable[[], float] = time.monotonic,
        name: str = "batcher",
    ) -> None:
        self._run, self._limits, self._alike, self._clock, self._name = run, limits, alike, clock, name
        self._queue: list[_Waiting[Item]] = []
        self._running: list[_Waiting[Item]] = []
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Items that have not begun to run."""
        return len(self._queue)

    def submit(self, item: Item) -> Stream:
        """Queue an item; returns at once. Cancelling the stream takes it out of the queue; what already runs is run to
        its end and dropped. Raises CapacityError where the queue is full or the batcher is closing."""
        key = self._alike(item) if self._alike is not None else None
        waiting: _Waiting[Item]

        def withdraw() -> None:
            with self._changed:
                if waiting in self._queue:
                    self._queue.remove(waiting)
                    self._changed.notify_all()

        waiting = _Waiting(item, key, self._clock(), Stream(withdraw))
        with self._changed:
            if self._closing:
                raise CapacityError("is closing", where=self._name)
            if len(self._queue) >= self._limits.max_queue:
                raise CapacityError(f"{len(self._queue)} requests are waiting already", where=self._name)
            self._queue.append(waiting)
            self._changed.notify_all()
        return waiting.stream

    def close(self, *, drain_seconds: float = 0.0) -> None:
        """Take nothing new, run what waits for up to ``drain_seconds``, then fail what is left. Harmless after."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(drain_seconds)
        with self._changed:
            left = [*self._running, *self._queue]
            self._queue.clear()
            self._changed.notify_all()
        for waiting in left:
            waiting.stream.fail(CapacityError("was stopped before it was answered", where=self._name))

    def _work(self) -> None:
        while batch := self._next():
            for waiting, answer in zip(batch, self._answers(batch), strict=True):
                if isinstance(answer, Part):
                    waiting.stream.put(replace(answer, last=True))
                else:
                    waiting.stream.fail(answer)
            with self._changed:
                self._running = []

    def _next(self) -> list[_Waiting[Item]]:
        """Wait for a batch; empty at the end."""
        with self._changed:
            while True:
                # Nobody comes any more, so there is nothing to wait for.
                limits = replace(self._limits, max_wait=0.0) if self._closing else self._limits
                queued = [(waiting.key, waiting.arrival) for waiting in self._queue]
                places, seconds = choose_batch(queued, self._clock(), limits)
                if places:
                    self._running = [self._queue[place] for place in places]
                    self._queue = [waiting for waiting in self._queue if waiting not in self._running]
                    return self._running
                if self._closing:
                    return []
                self._changed.wait(seconds)

    def _answers(self, batch: list[_Waiting[Item]]) -> Sequence[Part | QuiltworkError]:
        try:
            answers = list(self._run([waiting.item for waiting in batch]))
        except QuiltworkError as error:
            return [error] * len(batch)
        except Exception as error:  # noqa: BLE001  (whatever it is, those who asked are told, and the next batch runs)
            failure = QuiltworkError(f"the batch failed: {error!r}", where=self._name)
            failure.__cause__ = error
            return [failure] * len(batch)
        if len(answers) != len(batch) or not all(isinstance(answer, Part | QuiltworkError) for answer in answers):
            wrong = QuiltworkError(f"gave {len(answers)} answers to {len(batch)} items, or no parts", where=self._name)
            return [wrong] * len(batch)
        return answers
