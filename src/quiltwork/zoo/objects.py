"""Object files: bytes on disk under the hash of what they decode to, written so that a crash leaves whole files."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from quiltwork.core.disk import sync
from quiltwork.core.errors import CorruptionError, QuiltworkError

Bytes: TypeAlias = npt.NDArray[np.uint8]
Data: TypeAlias = bytes | bytearray | memoryview | Bytes
Watch: TypeAlias = Callable[[str], None]
"""Told the name of each step of an addition or collection as it is reached; tests stop the process there."""

_PIECE = 1 << 24
_SMALL = 1 << 16


def as_view(data: Data) -> memoryview:
    """``data`` as a flat view of bytes; arrays have to be contiguous."""
    return (data.data if isinstance(data, np.ndarray) else memoryview(data)).cast("B")


def content_id(data: Data) -> str:
    """blake3 (hex, 64 characters) of ``data``."""
    return blake3(as_view(data)).hexdigest()


def write_synced(path: Path, pieces: Iterable[Data]) -> int:
    """Write a new file and bring it to the disk; returns its length in bytes. On any error the file is gone."""
    length = 0
    try:
        with open(path, "xb", buffering=0) as file:
            for piece in pieces:
                view = as_view(piece)
                while view:
                    written = file.write(view[:_PIECE]) or 0
                    length += written
                    view = view[written:]
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return length


def map_file(path: Path) -> Bytes:
    """The file as a read-only memory map; a small one is simply read. Raises FileNotFoundError.

    The map keeps its bytes when the file's name is removed.
    """
    with open(path, "rb", buffering=0) as file:
        # A map costs whole pages and one of the process's limited number of maps.
        if os.fstat(file.fileno()).st_size < _SMALL:
            return np.frombuffer(file.readall(), dtype=np.uint8)
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)


class ObjectFiles:
    """The folder of object files: ``objects/ab/cdef...``, two hex digits of the content id as fan-out."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, content: str) -> Path:
        """Where the object of this content id is or would be."""
        return self.root / content[:2] / content[2:]

    def place(self, written: Path, content: str) -> None:
        """Move a finished file to its name. The folder still has to be synced (``sync``)."""
        target = self.path(content)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(written, target)

    def sync(self, contents: Iterable[str]) -> None:
        """Make the names of these objects survive a power cut."""
        for folder in sorted({self.path(content).parent for content in contents}):
            sync(folder)
        sync(self.root)

    def map(self, content: str) -> Bytes:
        """The object's file as a read-only memory map. Raises CorruptionError where the file is missing."""
        try:
            return map_file(self.path(content))
        except FileNotFoundError as error:
            raise CorruptionError("the object's file is missing", where=f"object {content}") from error
        except OSError as error:
            raise QuiltworkError(f"cannot be read: {error.strerror or error}", where=f"object {content}") from error

    def __iter__(self) -> Iterator[tuple[str, Path]]:
        """Every file in the folder with the content id its name stands for (which may be no id at all)."""
        for path in sorted(self.root.rglob("*")):
            if not path.is_dir():
                yield "".join(path.relative_to(self.root).parts), path
