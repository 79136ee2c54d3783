"""The engine's own thread: what others ask of it is done between two steps."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol, TypeVar

from quiltwork.core.errors import QuiltworkError
from quiltwork.serving.sequence import Emission

Result = TypeVar("Result")


class Steps(Protocol):
    """What the loop needs of an engine."""

    @property
    def has_work(self) -> bool:
        """Whether a step would do something."""
        ...

    def step(self) -> list[Emission]:
        """Schedule, run, finish."""
        ...


class EngineLoop:
    """Runs an engine in a thread of its own: posted calls in order, then a step, again and again.

    Parameters
    ----------
    engine : touched by this thread only.
    deliver : takes each step's emissions.
    failed : is told what a step or a posted call raised, so that whoever waits for it learns of it.
    begin : is called first, in the thread.
    wake : is called (in any thread) when something is posted: a step that only waits should return.
    """

    def __init__(
        self,
        engine: Steps,
        deliver: Callable[[Sequence[Emission]], None],
        failed: Callable[[Exception], None],
        begin: Callable[[], None] = lambda: None,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._deliver = deliver
        self._failed = failed
        self._begin = begin
        self._wake_engine = wake
        self._calls: deque[Callable[[], None]] = deque()
        self._wake = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="quiltwork-engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def post(self, call: Callable[[], None]) -> None:
        """Have something done before the next step. Raises QuiltworkError after the end."""
        with self._wake:
            if self._stopping:
                raise QuiltworkError("the engine has stopped")
            self._calls.append(call)
            self._wake.notify()
        self._wake_engine()

    def call(self, function: Callable[[], Result]) -> Result:
        """Have something done before the next step and wait for what it returns or raises."""
        if threading.current_thread() is self._thread:
            return function()
        future: Future[Result] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except BaseException as error:  # noqa: BLE001  raised again to the caller
                future.set_exception(error)

        self.post(run)
        return future.result()

    def stop(self) -> None:
        """Do what was posted, then end the thread."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._wake_engine()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        self._guard(self._begin)
        while True:
            with self._wake:
                while not (self._calls or self._stopping or self._engine.has_work):
                    self._wake.wait()
                calls = list(self._calls)
                self._calls.clear()
                if self._stopping and not calls:
                    return
            for call in calls:
                self._guard(call)
            if self._engine.has_work:
                self._guard(self._step)

    def _step(self) -> None:
        self._deliver(self._engine.step())

    def _guard(self, call: Callable[[], None]) -> None:
        """An error must reach those who wait and must not end the thread."""
        try:
            call()
        except Exception as error:  # noqa: BLE001
            self._failed(error)
