"""Having what was written on the disk, what a full one is called, and whether there is a place for what is to come."""

from __future__ import annotations

import errno
import os
import secrets
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


def folder_above(path: Path) -> Path:
    """The nearest that is there, of those that a file or folder to be lies in; it may be a file."""
    return next(above for above in path.absolute().parents if above.exists())


def require_place(path: Path) -> None:
    """Raise as ``disk_errors`` where a file or folder cannot be put there, folders made on the way. Nothing is left.

    For what is written after hours of work: rights alone do not tell (a disk that is full, one that is read-only).
    """
    with disk_errors(path):
        probe = folder_above(path) / f".{secrets.token_hex(6)}"
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        probe.unlink()


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
