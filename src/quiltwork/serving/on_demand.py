"""Requests that wait for a model to come into memory, and the thread that brings one after the other."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from quiltwork.core.errors import QuiltworkError
from quiltwork.core.names import ModelRef
from quiltwork.serving.policy.pace import worth_holding_back
from quiltwork.serving.request import Request
from quiltwork.serving.residency import Crowded, Residency

LOOK_AGAIN_SECONDS = 0.1
"""Room may come without a model becoming idle: running sequences give pages back as they end."""


class OnDemand:
    """Who waits for which model. Models come one at a time, in the order in which they were first asked for.

    Parameters
    ----------
    call : has something done in the engine's thread and waits for it.
    begin : starts a request whose model is in memory. fail : ends one with an error. Both in the engine's thread.
    bring : brings a model into memory, waiting for room; called in a thread of its own.
    clock : seconds.
    """

    def __init__(
        self,
        residency: Residency,
        call: Callable[[Callable[[], object]], object],
        begin: Callable[[Request], None],
        fail: Callable[[Request, Exception], None],
        bring: Callable[[ModelRef], None],
        clock: Callable[[], float],
    ) -> None:
        self._residency, self._call, self._begin, self._fail = residency, call, begin, fail
        self._bring, self._clock = bring, clock
        # Of the engine's thread.
        self._waiting: dict[ModelRef, list[Request]] = {}
        self._held_back: frozenset[ModelRef] = frozenset()
        self._cramped: deque[tuple[ModelRef, Request]] = deque()
        self._changed = threading.Condition()
        """Guards what follows; notified when room may have come."""
        self._wanted: deque[ModelRef] = deque()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._changes = 0

    # --- the engine's thread ------------------------------------------------------------------------------------

    def admits(self, ref: ModelRef, request: Request) -> bool:
        """Whether a request may begin. If not it waits, and is begun or failed when that is decided."""
        self._residency.asked(ref)
        resident = self._residency.is_resident(ref)
        if resident and ref not in self._held_back:
            return self._has_room(ref, request)
        self._waiting.setdefault(ref, []).append(request)
        if not resident:
            self._want(ref)
        return False

    def _has_room(self, ref: ModelRef, request: Request) -> bool:
        """Whether a request for a model in memory has room for its keys and values; if not it queues for that, and
        whatever comes after it queues as well, so that the weights in its way become idle."""
        if not self._cramped and self._residency.make_kv_room(ref, _tokens(request)):
            return True
        self._cramped.append((ref, request))
        self._note_awaited()
        return False

    def _note_awaited(self) -> None:
        """Let no load take what the first in the queue for keys and values needs."""
        self._residency.awaited = None
        if self._cramped:
            ref, request = self._cramped[0]
            self._residency.awaited = (ref, _tokens(request))

    def _begin_cramped(self) -> None:
        while self._cramped:
            ref, request = self._cramped[0]
            if self._residency.is_resident(ref) and not self._residency.make_kv_room(ref, _tokens(request)):
                break
            self._cramped.popleft()
            if self._residency.is_resident(ref):
                self._begin(request)
            else:
                self._waiting.setdefault(ref, []).append(request)
                self._want(ref)
        self._note_awaited()

    def ended(self, ref: ModelRef, request: Request) -> None:
        """A request is over, whether it had begun or not."""
        waiting = self._waiting.get(ref)
        if waiting is not None and request in waiting:
            waiting.remove(request)
        if self._cramped:
            self._cramped = deque(item for item in self._cramped if item[1] is not request)
            self._begin_cramped()
        if self._wanted and not self._residency.is_busy(ref):
            with self._changed:
                self._changes += 1
                self._changed.notify_all()

    def drop(self, ref: ModelRef, error: Exception) -> None:
        """Fail all that wait for a model."""
        cramped = [request for model, request in self._cramped if model == ref]
        self._cramped = deque(item for item in self._cramped if item[0] != ref)
        for request in self._waiting.pop(ref, []) + cramped:
            self._fail(request, error)

    def fail_all(self, error: Exception) -> None:
        """Fail all that wait."""
        for ref in [*self._waiting, *(ref for ref, _ in self._cramped)]:
            self.drop(ref, error)

    def _arrived(self, ref: ModelRef, error: Exception | None) -> None:
        with self._changed:
            self._wanted.popleft()
        if error is not None:
            self.drop(ref, error)
        # Whoever waited for it begins before others can have it go again.
        self._go_on([ref, *sorted(self._held_back - {ref})])

    def _go_on(self, refs: Sequence[ModelRef]) -> None:
        """Nobody is held back any more: begin what waits for models in memory, want the others."""
        self._held_back = frozenset()
        for ref in refs:
            if self._residency.is_resident(ref):
                for request in self._waiting.pop(ref, []):
                    if self._has_room(ref, request):
                        self._begin(request)
            elif self._waiting.get(ref):
                self._want(ref)
        self._begin_cramped()

    def _hold_back(self, refs: frozenset[ModelRef]) -> None:
        self._held_back |= refs

    def _is_awaited(self, ref: ModelRef) -> bool:
        return bool(self._waiting.get(ref))

    def _want(self, ref: ModelRef) -> None:
        with self._changed:
            if self._closed or ref in self._wanted:
                return
            self._wanted.append(ref)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="quiltwork-loader", daemon=True)
                self._thread.start()

    # --- other threads ------------------------------------------------------------------------------------------

    @property
    def changes(self) -> int:
        """Grows when room may have come."""
        return self._changes

    def wait_for_room(self, crowded: Crowded, since: float, seen: int) -> None:
        """Wait until room may have come after ``changes`` was ``seen``; models that have been in the way of one that is
        waited for since ``since`` take no further requests after a while. Raises QuiltworkError after the end."""
        if worth_holding_back(self._clock() - since, crowded.load_s):
            self._call(lambda: self._hold_back(crowded.models))
        with self._changed:
            self._changed.wait_for(lambda: self._changes != seen or self._closed, timeout=LOOK_AGAIN_SECONDS)
            if self._closed:
                raise QuiltworkError("the engine has stopped")

    def let_go_on(self) -> None:
        """Whoever was held back for a load that came from elsewhere may begin."""
        self._call(lambda: self._go_on(sorted(self._held_back)))

    def close(self) -> None:
        """Bring nothing any more; returns when the thread has ended."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                if self._closed or not self._wanted:
                    self._thread = None
                    return
                ref = self._wanted[0]
            error: Exception | None = None
            try:
                if self._call(partial(self._is_awaited, ref)):
                    self._bring(ref)
            except Exception as raised:  # noqa: BLE001  those who wait are told
                error = raised
            # After the end nobody waits any more.
            with suppress(QuiltworkError):
                self._call(partial(self._arrived, ref, error))


def _tokens(request: Request) -> int:
    """Prompt and answer of one choice. How long an open-ended answer may get follows from the memory there is."""
    asked = request.options.max_tokens
    return len(request.prompt) + (1 if asked is None else max(asked, 1))
