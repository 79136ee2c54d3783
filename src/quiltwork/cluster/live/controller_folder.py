"""The folder that a controller has to itself: a lock, and a folder for each server."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from quiltwork.cluster.live.local_server import ASIDE, LocalServer, write_server
from quiltwork.cluster.live.wire import make_gate
from quiltwork.core.disk import disk_errors
from quiltwork.core.errors import ConflictError


class ControllerFolder:
    """Raises ConflictError where another controller has it."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        with disk_errors(self.path):
            (self.path / "servers").mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock: int | None = os.open(
                self.path / "controller.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.close()
            raise ConflictError("another controller has this folder", where=str(self.path)) from error

    def servers(self) -> list[Path]:
        """The folders of the servers that it knows."""
        folders = sorted((self.path / "servers").iterdir())
        # One that was being made when all failed has nothing in it yet.
        return [folder for folder in folders if {path.name for path in folder.iterdir()} - {ASIDE}]

    def add(self, server: LocalServer) -> Path:
        """Make the folder of a server that it does not know."""
        folder = self.path / "servers" / server.id
        with disk_errors(folder):
            folder.mkdir(mode=0o700, exist_ok=True)
            write_server(server, folder)
        make_gate(folder)
        return folder

    def close(self) -> None:
        """Let go of it."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
