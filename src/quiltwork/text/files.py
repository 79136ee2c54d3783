"""The files of a model, wherever they lie: in a folder, or in a zoo as blocks."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError, NotFoundError

Tensors = Mapping[str, npt.NDArray[np.generic]]


class ModelFiles(Protocol):
    """Read access to a model's files, by their names below its folder (``config.json``, ``1_Pooling/config.json``)."""

    @property
    def where(self) -> str:
        """What error messages call the model."""
        ...

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        ...

    def read(self, name: str) -> bytes:
        """A small file. Raises NotFoundError; BadInputError where it cannot be read."""
        ...

    def tensors(self, name: str) -> Tensors:
        """The arrays of a safetensors file, read only. Raises as ``read``, and BadInputError for a broken one."""
        ...


class Folder:
    """A model in a folder."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)

    @property
    def where(self) -> str:
        return str(self._path)

    def has(self, name: str) -> bool:
        return (self._path / name).is_file()

    def read(self, name: str) -> bytes:
        path = self._path / name
        try:
            return path.read_bytes()
        except FileNotFoundError as error:
            raise NotFoundError("no such file", where=str(path)) from error
        except OSError as error:
            raise BadInputError(f"cannot be read: {error.strerror}", where=str(path)) from error

    def tensors(self, name: str) -> Tensors:
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = self._path / name
        if not path.is_file():
            raise NotFoundError("no such file", where=str(path))
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise BadInputError(f"is not a safetensors file: {error}", where=str(path)) from error


def read_json(files: ModelFiles, name: str) -> dict[str, Any]:
    """A file that holds a JSON object. Raises NotFoundError, and BadInputError where it does not."""
    where = f"{files.where}: {name}"
    try:
        found = json.loads(files.read(name))
    except (ValueError, RecursionError) as error:
        raise BadInputError("is not JSON", where=where) from error
    if not isinstance(found, dict):
        raise BadInputError("is not a JSON object", where=where)
    return found
