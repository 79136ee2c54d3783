"""One thread that does everything, and others that ask it to do something between two steps."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from quiltwork.core.errors import QuiltworkError

Answer = TypeVar("Answer")


class Turns:
    """Who asks waits for its turn. Where no thread is ``taking`` turns, what is asked is done at once."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        self._thread: int | None = None

    def run(self, stop: threading.Event, step: Callable[[float], None], poll_s: float) -> None:
        """``step(poll_s)`` again and again until told to stop. Whoever still waits then gets an error."""
        self._thread = threading.get_ident()
        try:
            while not stop.is_set():
                step(poll_s)
        finally:
            self._thread = None
            self._refuse()

    def take(self, timeout_s: float) -> None:
        """Do what is asked; wait so long for somebody to ask."""
        try:
            task, future = self._asked.get(timeout=timeout_s) if timeout_s else self._asked.get_nowait()
            while True:
                try:
                    future.set_result(task())
                except Exception as error:  # noqa: BLE001 - whoever asked gets it
                    future.set_exception(error)
                task, future = self._asked.get_nowait()
        except queue.Empty:
            return

    def ask(self, task: Callable[[], Answer]) -> Answer:
        """What ``task`` gives or raises."""
        if self._thread is None or self._thread == threading.get_ident():
            return task()
        future: Future[Answer] = Future()
        self._asked.put((task, future))
        return future.result()

    def _refuse(self) -> None:
        while True:
            try:
                _, future = self._asked.get_nowait()
            except queue.Empty:
                return
            future.set_exception(QuiltworkError("the controller has stopped"))
