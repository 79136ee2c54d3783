"""Letters through shared memory: one ring per ordered pair of places, with one writer and one reader.

The ring is a run of bytes in a memory-mapped file, written round and round. The writer publishes by moving ``tail``
after all bytes are there, the reader frees by moving ``head``; each number has one writer only, so no lock is needed,
and a process that dies in the middle of a letter leaves nothing half-read. The doorbell (see ``local``) carries the
tail through the kernel, which orders it after the bytes on every machine.
"""

from __future__ import annotations

import mmap
from pathlib import Path

_HEADER = 128
"""Bytes before the data: ``tail`` at 0 and ``head`` at 64, apart so that they do not share a cache line."""


class Ring:
    """One direction between two places.

    path : of the file. size : bytes of data; None attaches to a ring that exists. A letter may be longer than the
    ring: it then goes through in pieces while the reader reads.
    """

    def __init__(self, path: Path, size: int | None = None) -> None:
        if size is not None:
            path.write_bytes(b"")
            with path.open("r+b") as file:
                file.truncate(_HEADER + size)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)
        self._bytes = memoryview(self._map)
        self._data = self._bytes[_HEADER:]
        self.size = len(self._data)
        # Whole words: a reader never sees half of a number.
        self._tail = self._bytes[0:8].cast("Q")
        self._head = self._bytes[64:72].cast("Q")

    @property
    def tail(self) -> int:
        """Bytes ever written."""
        return self._tail[0]

    @property
    def free(self) -> int:
        """Bytes that can be written now."""
        return self.size - (self._tail[0] - self._head[0])

    def write(self, data: memoryview) -> int:
        """Write as much of ``data`` as there is room for; the bytes written."""
        tail = self._tail[0]
        count = min(len(data), self.free)
        at = tail % self.size
        first = min(count, self.size - at)
        self._data[at : at + first] = data[:first]
        self._data[: count - first] = data[first:count]
        self._tail[0] = tail + count
        return count

    def read(self, into: memoryview, upto: int | None = None) -> int:
        """Fill ``into`` with what is there, up to the byte of that number if given; the bytes read."""
        head = self._head[0]
        count = min(max((self._tail[0] if upto is None else upto) - head, 0), len(into))
        at = head % self.size
        first = min(count, self.size - at)
        into[:first] = self._data[at : at + first]
        into[first:count] = self._data[: count - first]
        self._head[0] = head + count
        return count

    def close(self) -> None:
        """Let go of the memory."""
        for view in (self._tail, self._head, self._data, self._bytes):
            view.release()
        self._map.close()
