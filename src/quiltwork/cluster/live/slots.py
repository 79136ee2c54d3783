"""Locks on GPU slots that the kernel keeps: held by a worker's keeper and by its program, free when both are gone."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Sequence
from pathlib import Path

from quiltwork.cluster.live.ledger import disk_errors
from quiltwork.core.errors import ConflictError


def hold(folder: Path, server_id: str, slots: Sequence[int]) -> list[int]:
    """Lock some slots of a server; whoever inherits one of these files keeps its slot locked.

    Raises ConflictError where one is locked already; then none is.
    """
    held: list[int] = []
    try:
        for slot in slots:
            path = folder / f"{server_id}.slot{slot}.lock"
            with disk_errors(path):
                held.append(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
                try:
                    fcntl.flock(held[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise ConflictError(
                        f"slot {slot} is held by a process", where=f"server {server_id}",
                        hint="until nothing of the worker that had it is left",
                    ) from error  # fmt: skip
    except BaseException:
        release(held)
        raise
    return held


def release(held: Sequence[int]) -> None:
    """Let go of one's own hold on slots; who inherited it has it still."""
    for file in held:
        os.close(file)
