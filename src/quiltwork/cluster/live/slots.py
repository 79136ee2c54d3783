"""Locks on GPU slots that the kernel keeps: held by a worker's keeper and by its program, free when both are gone.

A lock is a file, which says by what mark the processes of the worker that has it, or had it last, are known.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

from quiltwork.core.disk import disk_errors
from quiltwork.core.errors import ConflictError


def _path(folder: Path, server_id: str, slot: int) -> Path:
    return folder / f"{server_id}.slot{slot}.lock"


def hold(folder: Path, server_id: str, slots: Sequence[int], mark: str) -> list[int]:
    """Lock some slots of a server; whoever inherits one of these files keeps its slot locked.

    Raises ConflictError where one is locked already; then none is.
    """
    held: list[int] = []
    try:
        for slot in slots:
            path = _path(folder, server_id, slot)
            with disk_errors(path):
                held.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
                try:
                    fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise ConflictError(
                        f"slot {slot} is held by a process", where=f"server {server_id}",
                        hint="until nothing of the worker that had it is left",
                    ) from error  # fmt: skip
                os.ftruncate(held[-1], 0)
                os.write(held[-1], mark.encode())
    except BaseException:
        release(held)
        raise
    return held


def holders(folder: Path, server_id: str, slots: Sequence[int]) -> set[str]:
    """Marks of those that have slots, or had them last."""
    paths = (_path(folder, server_id, slot) for slot in slots)
    return {path.read_text(encoding="utf-8") for path in paths if path.exists()} - {""}


def release(held: Sequence[int]) -> None:
    """Let go of one's own hold on slots; who inherited it has it still."""
    for file in held:
        os.close(file)
