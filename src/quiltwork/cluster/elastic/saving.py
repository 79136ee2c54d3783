"""When checkpoints are written, and by which thread: training waits only for the state to be copied."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from quiltwork.cluster.elastic.checkpoint import Found, Progress, newest, write_checkpoint
from quiltwork.cluster.elastic.message import Checkpointed, NotCheckpointed
from quiltwork.cluster.spec import Checkpoint
from quiltwork.core.errors import QuiltworkError
from quiltwork.core.trainable import State

Tell = Callable[[Checkpointed | NotCheckpointed], None]


class Saver:
    """Writes one worker's checkpoints, one at a time.

    A checkpoint that cannot be written is told about in one line, and training goes on.
    """

    def __init__(self, kept: Checkpoint | None, clock: Callable[[], float], tell: Tell) -> None:
        self._kept, self._clock, self._tell = kept, clock, tell
        self._writer: threading.Thread | None = None
        self._last = clock()
        self._saved = -1
        """Steps behind the newest state that is on the disk."""

    @property
    def on_warning(self) -> bool:
        """Whether a checkpoint is wanted before a stop."""
        return self._kept is not None and self._kept.on_warning

    def begin(self) -> None:
        """Count the interval from now on."""
        self._last = self._clock()

    def due(self) -> bool:
        """Whether the interval is over. One that comes due while another is being written waits."""
        if self._kept is None or self._kept.interval_s is None or self._busy():
            return False
        return self._clock() - self._last >= self._kept.interval_s

    def restore(self) -> Found | None:
        """The newest checkpoint that is whole, if there is one; others are told about."""
        if self._kept is None:
            return None
        found = newest(Path(self._kept.path), lambda what: self._tell(NotCheckpointed(None, f"passed over: {what}")))
        if found is not None:
            self._saved = found.progress.done
        return found

    def save(self, state: Callable[[], State], progress: Progress) -> None:
        """Write a checkpoint beside training. Does nothing where none are kept or this state is on the disk."""
        if self._kept is not None and progress.done > self._saved and not self._busy():
            self._last = self._clock()
            taken = state()
            self._writer = threading.Thread(target=self._write, args=(taken, progress, False), name="elastic-saver")
            self._writer.start()

    def save_now(self, state: Callable[[], State], progress: Progress, *, result: bool = False) -> str | None:
        """Write a checkpoint and wait for it; returns where it is, None where none are kept or it failed."""
        if self._writer is not None:
            self._writer.join()
        if self._kept is None or (progress.done <= self._saved and not result):
            return None
        return self._write(state(), progress, result)

    def close(self) -> None:
        """Wait for what is being written."""
        if self._writer is not None:
            self._writer.join()

    def _busy(self) -> bool:
        return self._writer is not None and self._writer.is_alive()

    def _write(self, state: State, progress: Progress, result: bool) -> str | None:
        assert self._kept is not None
        try:
            path = write_checkpoint(Path(self._kept.path), state, progress, result=result)
        except QuiltworkError as error:
            self._tell(NotCheckpointed(progress.done, str(error)))
            return None
        self._saved = progress.done
        self._tell(Checkpointed(progress.done, str(path)))
        return str(path)
