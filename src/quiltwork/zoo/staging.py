"""Folders in which additions are prepared, and the journal that lets anyone clear up after one that was killed.

A session writes its objects in a folder of its own under ``tmp/``, which it keeps locked. Before the first of them
gets its name among the zoo's objects, the journal says which ones will. Whoever finds the folder of a dead session
removes the files of its journal that no row speaks of, and the folder.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from quiltwork.core.disk import disk_errors, sync
from quiltwork.core.errors import QuiltworkError
from quiltwork.zoo.index import Index, object_row
from quiltwork.zoo.objects import ObjectFiles, write_synced

_JOURNAL = "journal"
_LINE = re.compile(rb"^[0-9a-f]{64}\n", re.MULTILINE)


@contextmanager
def session_folder(temporary: Path, index: Index, files: ObjectFiles) -> Iterator[Path]:
    """A folder for one session, locked while it lives; gone at the end, with what a failed commit placed."""
    token = f"{os.getpid()}-{secrets.token_hex(8)}"
    fresh, folder = temporary / f"{token}.new", temporary / token
    with disk_errors(temporary):
        fresh.mkdir(parents=True)
    descriptor = os.open(fresh, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # Locked before it has its name, so that a folder with a name and no lock is a dead session's.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        fresh.rename(folder)
        try:
            yield folder
        except BaseException as error:
            try:
                _undo(folder, index, files)
            except (QuiltworkError, OSError) as second:
                error.add_note(f"{folder} is left to be cleared by the next who opens the zoo: {second}")
                raise error from None
            shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


def write_journal(folder: Path, contents: Iterable[str]) -> None:
    """Say, durably, which objects are about to be placed."""
    journal = folder / _JOURNAL
    journal.unlink(missing_ok=True)
    with disk_errors(folder):
        write_synced(journal, ["".join(f"{content}\n" for content in contents).encode()])
        sync(folder)


def recover(temporary: Path, index: Index, files: ObjectFiles) -> int:
    """Clear away what killed sessions left; living ones are not touched. Returns how many were cleared."""
    cleared = 0
    for folder in sorted(temporary.iterdir()) if temporary.is_dir() else ():
        if folder.suffix == ".new" or not folder.is_dir():
            continue
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _undo(folder, index, files)
            shutil.rmtree(folder)
            cleared += 1
        except (BlockingIOError, FileNotFoundError):  # alive, or cleared by another just now
            continue
        finally:
            os.close(descriptor)
    return cleared


def clear_unnamed(temporary: Path) -> None:
    """Remove the empty folders of sessions that were killed in their first moment; only while none can be starting."""
    for folder in sorted(temporary.glob("*.new")):
        shutil.rmtree(folder)


def _undo(folder: Path, index: Index, files: ObjectFiles) -> None:
    try:
        journal = (folder / _JOURNAL).read_bytes()
    except FileNotFoundError:
        return
    # Files are placed only by whoever is the writer, and each gets its row before he ends: what has no row now is ours.
    with index.transaction() as transaction:
        # A journal cut short by the crash was written before anything was placed; half a line is no name.
        for content in (line.decode().strip() for line in _LINE.findall(journal)):
            if object_row(transaction, content) is None:
                files.path(content).unlink(missing_ok=True)
