"""What a fine-tuning leaves behind: a folder that appears whole, with what it has learned told beside the weights."""

from __future__ import annotations

import copy
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from quiltwork.core.disk import disk_errors, sync
from quiltwork.core.errors import BadInputError, ConflictError
from quiltwork.core.servable import Json
from quiltwork.serving.finetuning.config import WHERE
from quiltwork.serving.finetuning.source import quietly
from quiltwork.serving.text import CODEC_FILES

REPORT = "training.json"


class Result:
    """A folder to be.

    run : what tells this fine-tuning from all others; written down, so that a result is known again.
    """

    def __init__(self, folder: Path, run: str) -> None:
        self.folder, self.run = folder, run

    def require_free(self) -> None:
        """Raise ConflictError where the folder holds something else, BadInputError where it cannot be made."""
        if self.read() is not None:
            return
        where = f"{WHERE}: out: {self.folder}"
        if self.folder.is_symlink() or (
            self.folder.exists() and not (self.folder.is_dir() and not any(self.folder.iterdir()))
        ):
            raise ConflictError("is in use, and not by this training", where=where, hint="choose another folder")
        above = next(path for path in self.folder.absolute().parents if path.exists())
        if not (above.is_dir() and os.access(above, os.W_OK)):
            raise BadInputError(f"no folder can be made in {above}", where=where)

    def read(self) -> dict[str, Json] | None:
        """The report of this very fine-tuning, where its result is there already."""
        try:
            told = json.loads((self.folder / REPORT).read_bytes())
        except (OSError, ValueError):
            return None  # whatever else is there is for ``require_free`` to refuse
        return told if isinstance(told, dict) and told.get("run") == self.run else None

    def write(self, report: Mapping[str, Json], fill: Callable[[Path], None]) -> None:
        """Let ``fill`` write the weights into a folder beside, add the report, and put that in its place.

        Raises CapacityError where the disk is full, QuiltworkError where it cannot be written; nothing is left then.
        """
        fresh = self.folder.with_name(f".{self.folder.name}.{secrets.token_hex(6)}")
        try:
            with disk_errors(self.folder):
                fresh.mkdir(parents=True)
                fill(fresh)
                text = json.dumps({"run": self.run, **report}, indent=2)
                (fresh / REPORT).write_text(text + "\n", encoding="utf-8")
                for path in fresh.iterdir():
                    with path.open("rb") as file:
                        os.fsync(file.fileno())
                sync(fresh)
                os.replace(fresh, self.folder)
                sync(self.folder.parent)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def write_checkpoint(folder: Path, model: Any, stored: torch.dtype, source: Path) -> None:
    """Save a model in the precision that it came in, with the tokenizer it came with."""
    # A copy: what is trained is neither rounded nor, lying in one run of memory, fit to be saved tensor by tensor.
    with quietly():
        copy.deepcopy(model).to(stored).save_pretrained(folder)
    for name in CODEC_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
