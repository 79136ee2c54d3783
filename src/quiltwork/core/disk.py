"""Having what was written on the disk, and what a full one is called."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quiltwork.core.errors import CapacityError, QuiltworkError

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Errors of a disk, a quota or a file that takes no more."""


def sync(path: Path) -> None:
    """Make a file, or the names created in a folder, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Has an OSError within told as one of ours: CapacityError where the disk is full, QuiltworkError else."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            hint = "free some space; nothing was changed"
            raise CapacityError("the disk is full", where=str(where), hint=hint) from error
        raise QuiltworkError(
            f"cannot be used: {error.strerror or error}", where=str(error.filename or where)
        ) from error
