"""The folder that a training leaves behind: it appears whole, and is known again."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from quiltwork.core.disk import disk_errors, folder_above, require_place, sync
from quiltwork.core.errors import BadInputError, CapacityError, ConflictError, QuiltworkError
from quiltwork.core.servable import Json

REPORT = "training.json"
"""The file that tells which training a folder is of, and what that has to say."""


class ResultFolder:
    """A folder to be.

    where : what error messages call the setting that names it. replaces : another training's result may be there, and
    goes for the new one; else only what the very same training left may be.
    """

    def __init__(self, path: Path, *, where: str, replaces: bool = False) -> None:
        self.path, self._where, self._replaces = path, where, replaces

    def require_free(self, run: str | None = None) -> None:
        """Raise ConflictError where the folder holds something else, BadInputError where it cannot be made,
        CapacityError where the disk is full.

        run : what tells this training from all others; not needed where any result is replaced.
        """
        where = f"{self._where}: {self.path}"
        there = self._told()
        if there is not None and (self._replaces or there["run"] == run):
            return
        empty = self.path.is_dir() and not any(self.path.iterdir())
        if self.path.is_symlink() or (self.path.exists() and not empty):
            whose = "a" if self._replaces else "this"
            raise ConflictError(f"is in use, and not by {whose} training", where=where, hint="choose another folder")
        try:
            require_place(self.path)
        except CapacityError:
            raise
        except QuiltworkError as error:
            raise BadInputError(f"no folder can be made in {folder_above(self.path)}", where=where) from error

    def report(self, run: str) -> dict[str, Json] | None:
        """What this very training had to say, where its result is there already."""
        told = self._told()
        return told if told is not None and told["run"] == run else None

    def write(self, run: str, report: Mapping[str, Json], fill: Callable[[Path], None]) -> None:
        """Let ``fill`` write into a folder beside, add the report, and put that in its place.

        Raises CapacityError where the disk is full, QuiltworkError where it cannot be written; nothing is left then,
        and what was there is there still.
        """
        fresh = self.path.with_name(f".{self.path.name}.{secrets.token_hex(6)}")
        old = fresh.with_name(f"{fresh.name}.old")
        try:
            with disk_errors(self.path):
                fresh.mkdir(parents=True)
                fill(fresh)
                (fresh / REPORT).write_text(json.dumps({"run": run, **report}, indent=2) + "\n", encoding="utf-8")
                for path in fresh.rglob("*"):
                    sync(path)
                sync(fresh)
                if self._replaces and self._told() is not None:
                    os.replace(self.path, old)
                try:
                    os.replace(fresh, self.path)
                except OSError:
                    if old.exists():
                        os.replace(old, self.path)
                    raise
                sync(self.path.absolute().parent)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)

    def _told(self) -> dict[str, Json] | None:
        try:
            told = json.loads((self.path / REPORT).read_bytes())
        except (OSError, ValueError):
            return None  # whatever else is there is for ``require_free`` to refuse
        return told if isinstance(told, dict) and isinstance(told.get("run"), str) else None
