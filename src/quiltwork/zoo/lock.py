"""One lock file per zoo: adders hold it shared, the garbage collector alone."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quiltwork.core.errors import ConflictError


class FolderLock:
    """A readers-writer lock between processes and threads, gone with the process that held it.

    Every holder opens the (empty) file anew: ``flock`` belongs to the open file, so threads of one process exclude
    each other as processes do, and a killed holder leaves nothing behind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold with others; waits while someone holds it alone."""
        with self._held(fcntl.LOCK_SH):
            yield

    @contextmanager
    def exclusive(self, *, wait: bool = True) -> Iterator[None]:
        """Hold alone. Without ``wait``, raises ConflictError where anyone else holds it."""
        with self._held(fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB):
            yield

    @contextmanager
    def _held(self, operation: int) -> Iterator[None]:
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            try:
                fcntl.flock(descriptor, operation)
            except BlockingIOError as error:
                raise ConflictError("models are being added", where=str(self.path.parent), hint="try again") from error
            yield
        finally:
            os.close(descriptor)
