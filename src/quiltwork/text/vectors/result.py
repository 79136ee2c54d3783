"""The folder that a training leaves: it appears whole, and is known again."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from quiltwork.core.disk import disk_errors, sync
from quiltwork.core.errors import BadInputError, ConflictError

_RUN = "training.json"


class Result:
    """A folder to be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def require_free(self) -> None:
        """Raises ConflictError where the folder holds anything but a training's result, BadInputError where none can be
        made there."""
        where = f"config: out: {self.folder}"
        empty = self.folder.is_dir() and not any(self.folder.iterdir())
        if self.folder.exists() and not empty and self._run() is None:
            raise ConflictError("is in use, and not by a training", where=where, hint="choose another folder")
        above = next(path for path in self.folder.absolute().parents if path.exists())
        if not (above.is_dir() and os.access(above, os.W_OK)):
            raise BadInputError(f"no folder can be made in {above}", where=where)

    def holds(self, run: str) -> bool:
        """Whether it is there already, of this very training."""
        return self._run() == run

    def write(self, run: str, fill: Callable[[Path], None]) -> None:
        """Let ``fill`` write into a folder beside, and put that in the place of what was there.

        Raises CapacityError where the disk is full, QuiltworkError where it cannot be written; nothing is left then.
        """
        fresh = self.folder.with_name(f".{self.folder.name}.{secrets.token_hex(6)}")
        old = fresh.with_name(f"{fresh.name}.old")
        try:
            with disk_errors(self.folder):
                fresh.mkdir(parents=True)
                fill(fresh)
                (fresh / _RUN).write_text(json.dumps({"run": run}) + "\n", encoding="utf-8")
                for path in fresh.iterdir():
                    sync(path)
                sync(fresh)
                if self._run() is not None:
                    os.replace(self.folder, old)
                try:
                    os.replace(fresh, self.folder)
                except OSError:
                    if old.exists():
                        os.replace(old, self.folder)
                    raise
                sync(self.folder.absolute().parent)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)

    def _run(self) -> str | None:
        try:
            told = json.loads((self.folder / _RUN).read_bytes())
        except (OSError, ValueError):
            return None  # whatever else is there is for ``require_free`` to refuse
        found = told.get("run") if isinstance(told, dict) else None
        return found if isinstance(found, str) else None
