"""What a worker prints, in a file that does not grow without end. A file that cannot be written stops no worker."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from contextlib import suppress


class Log:
    """A worker's log. It may take ``most`` bytes (4,096 and more) together with the one before it, ``PATH.1``: when it
    has half of them it takes that name, and what had it is dropped.

    trouble : is told once when output cannot be written (a full disk), and once when it can be again. Meanwhile it is
    counted, not kept: whoever prints must never wait for the disk.
    """

    def __init__(self, path: str, most: int, trouble: Callable[[str], None]) -> None:
        self.path, self._half, self._trouble = path, most // 2, trouble
        self._file: int | None = None
        self._size = 0
        self._rotates = False
        self._fresh = True
        """Whether there is no output in the file."""
        self.lost = 0
        """Bytes that could not be written since the last that could."""
        self._failing = False

    def write(self, data: bytes) -> None:
        """Raises nothing: what cannot be written is counted, and told."""
        left = memoryview(data)
        try:
            if self._file is None:
                self._open()
            if self.lost:
                self._put(f"\nquiltwork: {self.lost} bytes of output could not be written and are lost\n".encode())
                self.lost = 0
            while left:
                if piece := self._fitting(left):
                    left = left[self._put(piece) :]
                    self._fresh = False
                else:
                    self._rotate()
            if self._failing:
                self._failing = False
                self._trouble(f"{self.path}: output is written again")
        except OSError as error:
            self.lost += len(left)
            if not self._failing:
                self._failing = True
                self._trouble(f"{self.path}: output cannot be written and is lost: {error.strerror}")

    def line(self, text: str) -> None:
        """Say something in the log that is not the worker's."""
        self.write(f"quiltwork: {text}\n".encode(errors="backslashreplace"))

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _fitting(self, data: memoryview) -> memoryview:
        """What the file takes: whole lines, and a part of one only where it is longer than a file may be."""
        room = max(self._half - self._size, 0)
        if not self._rotates or len(data) <= room:
            return data
        lines = bytes(data[:room]).rfind(b"\n") + 1
        return data[: lines or room] if lines or self._fresh else data[:0]

    def _put(self, data: bytes | memoryview) -> int:
        assert self._file is not None
        written = os.write(self._file, data)
        self._size += written
        return written

    def _open(self) -> None:
        folder = os.path.dirname(self.path)
        if folder:
            os.makedirs(folder, exist_ok=True)
        # Without waiting: a pipe that nobody reads from is no log.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        self._file = os.open(self.path, flags, 0o644)
        about = os.fstat(self._file)
        self._size, self._rotates = about.st_size, stat.S_ISREG(about.st_mode)
        self._fresh = not self._size

    def _rotate(self) -> None:
        before = f"{self.path}.1"
        dropped = os.path.exists(before)
        os.replace(self.path, before)
        self.close()
        self._open()
        more = "; what came before that was dropped" if dropped else ""
        note = f"quiltwork: earlier output is in {os.path.basename(before)}{more}\n".encode()
        with suppress(OSError):  # the output itself will tell
            self._put(note)
