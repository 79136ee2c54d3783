"""What a worker has been told and has not done yet. Threads of the link write here, the one that trains reads."""

from __future__ import annotations

import threading

from quiltwork.cluster.elastic import message as m


class Inbox:
    """Flags that stay up until somebody sees to them. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._go: int | None = None
        self._enter: int | None = None
        self._abandoned = 0
        self._answered = 0
        self._warned = self._conclude = False
        self._end: m.End | m.Refused | None = None

    def tell(self, order: m.ToWorker) -> None:
        """Note what was told. Plans are somebody else's business (``Joining``)."""
        with self._changed:
            match order:
                case m.Go(generation):
                    self._go = generation
                case m.Enter(generation):
                    self._enter = generation
                case m.Abandon(generation):
                    self._abandoned = max(self._abandoned, generation)
                    # What came before it may be of a later plan, which this does not touch.
                    self._go = None if self._go is None or self._go <= generation else self._go
                    self._enter = None if self._enter is None or self._enter <= generation else self._enter
                case m.Warn():
                    self._warned = True
                case m.Conclude():
                    self._conclude = True
                case m.End() | m.Refused():
                    self._end = order
            self._changed.notify_all()

    def cut_off(self) -> None:
        """The link is lost: no change that others might not hear of is begun."""
        with self._changed:
            self._go = self._enter = None

    def going(self) -> int | None:
        """The plan to change to as soon as all know of it."""
        with self._changed:
            return self._go

    def void(self, generation: int) -> bool:
        """Whether that plan was abandoned, or this worker is to end whatever it does."""
        with self._changed:
            return generation <= self._abandoned or self._end is not None

    def take_warning(self) -> bool:
        """Whether a stop was announced since the last call."""
        with self._changed:
            warned, self._warned = self._warned, False
            return warned

    def switched(self) -> None:
        """The plan to change to has been changed to."""
        with self._changed:
            self._go = None

    def next(self, timeout: float) -> m.ToWorker | None:
        """For one that does not compute: what to do now; None where nothing has come within ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(self._anything, timeout)
            if self._end is not None:
                return self._end
            if self._abandoned > self._answered:
                self._answered = self._abandoned
                return m.Abandon(self._abandoned)
            if self._conclude:
                self._conclude = False
                return m.Conclude()
            if self._enter is not None:
                entered, self._enter = self._enter, None
                return m.Enter(entered)
            return None

    def _anything(self) -> bool:
        return self._end is not None or self._abandoned > self._answered or self._conclude or self._enter is not None
