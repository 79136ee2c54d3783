"""The folder that a fine-tuning leaves behind: it appears whole, with what was learned told beside the weights."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from quiltwork.core.disk import disk_errors, sync
from quiltwork.core.errors import BadInputError, ConflictError
from quiltwork.core.servable import Json
from quiltwork.text.encoder.finetuning.config import WHERE

REPORT = "training.json"


class Result:
    """A folder to be. run : what tells this fine-tuning from all others, so that its result is known again."""

    def __init__(self, folder: Path, run: str) -> None:
        self._folder, self._run = folder, run

    def require_free(self) -> None:
        """Raise ConflictError where the folder holds something else, BadInputError where it cannot be made."""
        where = f"{WHERE}: out: {self._folder}"
        if self.read() is not None:
            return
        if self._folder.is_symlink() or (
            self._folder.exists() and not (self._folder.is_dir() and not any(self._folder.iterdir()))
        ):
            raise ConflictError("is in use, and not by this training", where=where, hint="choose another folder")
        above = next(path for path in self._folder.absolute().parents if path.exists())
        if not (above.is_dir() and os.access(above, os.W_OK)):
            raise BadInputError(f"no folder can be made in {above}", where=where)

    def read(self) -> Mapping[str, Json] | None:
        """The report of this very fine-tuning, where its result is there already."""
        try:
            told = json.loads((self._folder / REPORT).read_bytes())
        except (OSError, ValueError):
            return None  # whatever else is there is for ``require_free`` to refuse
        return told if isinstance(told, dict) and told.get("run") == self._run else None

    def write(self, report: Mapping[str, Json], fill: Callable[[Path], None]) -> None:
        """Let ``fill`` write into a folder beside, add the report, and put that in its place.

        Raises CapacityError where the disk is full, QuiltworkError where it cannot be written; nothing is left then.
        """
        fresh = self._folder.with_name(f".{self._folder.name}.{secrets.token_hex(6)}")
        try:
            with disk_errors(self._folder):
                fresh.mkdir(parents=True)
                fill(fresh)
                text = json.dumps({"run": self._run, **report}, indent=2)
                (fresh / REPORT).write_text(text + "\n", encoding="utf-8")
                for path in fresh.rglob("*"):
                    sync(path)
                sync(fresh)
                os.replace(fresh, self._folder)
                sync(self._folder.absolute().parent)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
