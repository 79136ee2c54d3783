"""A folder that appears whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from quiltwork.core.disk import disk_errors, require_place, sync
from quiltwork.core.errors import ConflictError


def require_free(path: Path) -> None:
    """Raise ConflictError where something is in the place of a folder to be, and as ``require_place`` where none can
    be made; an empty folder may be there."""
    if path.is_symlink() or (path.exists() and not (path.is_dir() and not any(path.iterdir()))):
        raise ConflictError("is there already", where=str(path), hint="choose another folder")
    require_place(path)


@contextmanager
def fresh_folder(path: Path) -> Iterator[Path]:
    """A folder beside, to write into, that takes the place of ``path`` at the end.

    Raises ConflictError as ``require_free``, CapacityError where the disk is full, QuiltworkError where it cannot be
    written; nothing is left then.
    """
    require_free(path)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        with disk_errors(path):
            fresh.mkdir(parents=True)
            yield fresh
            for file in fresh.rglob("*"):
                sync(file)
            os.replace(fresh, path)
            sync(path.absolute().parent)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
