"""A training's state in one file: safetensors, with the JSON beside the arrays in its header.

A new state is written beside the old one and then takes its place, so a process killed at any moment leaves a whole
file. A digest over everything tells a damaged one.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from os import PathLike
from pathlib import Path

import numpy as np

from quiltwork.core.disk import require_place, sync
from quiltwork.core.errors import BadInputError, CorruptionError, QuiltworkError
from quiltwork.core.trainable import Arrays, State

_META, _DIGEST = "quiltwork.state", "quiltwork.digest"


class CheckpointFile:
    """The place of one training's state, where there may be none yet."""

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)

    def read(self) -> State | None:
        """The state, or None where there is no file.

        Raises CorruptionError for a file that is cut short or damaged, BadInputError for one that holds something
        else, QuiltworkError for one that cannot be read.
        """
        from safetensors import SafetensorError, safe_open

        where, hint = str(self.path), "remove it to begin anew"
        if not self.path.exists():
            return None
        try:
            with self.path.open("rb"):  # safe_open tells a folder or a lack of rights as if they were damage
                pass
            with safe_open(self.path, framework="np") as file:
                told = file.metadata() or {}
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        except SafetensorError as error:
            raise CorruptionError(f"is truncated or damaged: {error}", where=where, hint=hint) from error
        except OSError as error:
            raise QuiltworkError(f"cannot be read: {error.strerror or error}", where=where) from error
        if _META not in told:
            raise BadInputError("is not a checkpoint of a training", where=where)
        if told.get(_DIGEST) != _digest(arrays, told[_META]):
            raise CorruptionError("is damaged: its content does not have its digest", where=where, hint=hint)
        return State(arrays, json.loads(told[_META]))

    def require_place(self) -> None:
        """Raise QuiltworkError where no state can be written, before there is one."""
        require_place(self.path)

    def write(self, state: State) -> None:
        """Put a state in the place of what was there. Raises QuiltworkError, and the old one stays."""
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        arrays = {name: np.asarray(array, order="C") for name, array in state.arrays.items()}
        meta = json.dumps(dict(state.meta), allow_nan=False)
        fresh = self.path.with_name(f".{self.path.name}.{secrets.token_hex(6)}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            save_file(arrays, fresh, {_META: meta, _DIGEST: _digest(arrays, meta)})
            sync(fresh)
            os.replace(fresh, self.path)
            sync(self.path.parent)
        except (OSError, SafetensorError) as error:
            what = (error.strerror if isinstance(error, OSError) else None) or error
            raise QuiltworkError(f"cannot be written: {what}", where=str(self.path)) from error
        finally:
            fresh.unlink(missing_ok=True)


def _digest(arrays: Arrays, meta: str) -> str:
    total = hashlib.blake2b(meta.encode(), digest_size=16)
    for name in sorted(arrays):
        array = arrays[name]
        total.update(f"\0{name}\0{array.dtype.name}\0{array.shape}\0".encode())
        total.update(array.reshape(-1).view(np.uint8).data)
    return total.hexdigest()
