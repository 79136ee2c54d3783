"""The files of a model in a zoo, without writing them out: arrays come from the shared pieces they are stored as."""

from __future__ import annotations

import json
import math
import posixpath
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError, CorruptionError, NotFoundError
from quiltwork.core.names import ModelRef
from quiltwork.text.files import Tensors
from quiltwork.zoo.dtypes import itemsize, to_float32, widen
from quiltwork.zoo.objects import Bytes
from quiltwork.zoo.recipe import FileRecipe, TensorPiece
from quiltwork.zoo.recipe import load as load_recipe
from quiltwork.zoo.types import Model

_NUMPY = {
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "I16": np.int16, "U16": np.uint16, "F16": np.float16,
    "I32": np.int32, "U32": np.uint32, "F32": np.float32, "F64": np.float64, "I64": np.int64, "U64": np.uint64,
}  # fmt: skip
_MOST_LINKS = 16


class ModelStore(Protocol):
    """The part of a zoo that is read here."""

    def model(self, ref: ModelRef) -> Model: ...
    def recipe(self, ref: ModelRef) -> bytes: ...
    def content(self, content: str) -> Bytes: ...


class ZooFiles:
    """One version of a model of a zoo, as ``ModelFiles``.

    Arrays are read-only, and memory maps of the zoo's own files where those hold them as they are; bfloat16, which
    numpy has not, comes as float32 (exact).
    """

    def __init__(self, zoo: ModelStore, ref: ModelRef) -> None:
        self._zoo = zoo
        self.model = zoo.model(ref)

    @property
    def where(self) -> str:
        return f"model {self.model.ref}"

    @cached_property
    def _entries(self) -> dict[str, FileRecipe]:
        recipe = load_recipe(self._zoo.recipe(self.model.ref), where=f"recipe of {self.model.ref}")
        return {file.path: file for file in recipe.files}

    def _entry(self, name: str) -> FileRecipe | None:
        """A file's recipe, links followed."""
        for _ in range(_MOST_LINKS):
            found = self._entries.get(name)
            if found is None or found.link is None:
                return found if found is not None and (found.pieces is not None or found.content is not None) else None
            name = posixpath.normpath(posixpath.join(posixpath.dirname(name), found.link))
        return None

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return self._entry(name) is not None

    def read(self, name: str) -> bytes:
        """A file's bytes. Raises NotFoundError, CorruptionError."""
        entry = self._needed(name)
        if entry.content is not None:
            return self._zoo.content(entry.content).tobytes()
        pieces = entry.pieces or ()
        return b"".join(self._bytes(p).tobytes() if isinstance(p, TensorPiece) else p.data for p in pieces)

    def tensors(self, name: str) -> Tensors:
        """The arrays of a safetensors file, as ``ModelFiles`` has it."""
        entry = self._needed(name)
        where = f"{self.where}: {name}"
        if entry.pieces is None or not name.endswith(".safetensors"):
            raise BadInputError("is not a safetensors file", where=where)
        head = next((piece.data for piece in entry.pieces if not isinstance(piece, TensorPiece)), b"")
        length = int.from_bytes(head[:8], "little")
        try:
            header = json.loads(head[8 : 8 + length])
            places: dict[tuple[int, int], list[tuple[str, str, list[int]]]] = {}
            for key, value in header.items():
                if key != "__metadata__":
                    start, end = value["data_offsets"]
                    places.setdefault((start, end), []).append((key, value["dtype"], value["shape"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptionError("its header is not what was stored", where=where) from error
        found: dict[str, npt.NDArray[np.generic]] = {}
        at = -8 - length
        for piece in entry.pieces:
            data = self._bytes(piece) if isinstance(piece, TensorPiece) else np.frombuffer(piece.data, np.uint8)
            for key, dtype, shape in places.pop((at, at + data.size), ()):
                found[key] = _array(data, dtype, shape, f"{where}: {key}")
            at += data.size
        for (start, end), named in places.items():  # no bytes, no piece
            for key, dtype, shape in named:
                if start != end:
                    raise BadInputError("overlaps another tensor", where=f"{where}: {key}")
                found[key] = _array(np.empty(0, np.uint8), dtype, shape, f"{where}: {key}")
        return found

    def _needed(self, name: str) -> FileRecipe:
        entry = self._entry(name)
        if entry is None:
            raise NotFoundError("no such file", where=f"{self.where}: {name}")
        return entry

    def _bytes(self, piece: TensorPiece) -> Bytes:
        return widen(self._zoo.content(piece.content), piece.stored_dtype, piece.dtype)


def _array(data: Bytes, dtype: str, shape: list[int], where: str) -> npt.NDArray[np.generic]:
    if data.size != math.prod(shape) * itemsize(dtype):
        raise CorruptionError(f"{data.size} bytes are not a {dtype} of shape {shape}", where=where)
    if dtype == "BF16":
        return to_float32(data, dtype).reshape(shape)
    if dtype not in _NUMPY:
        raise BadInputError(f"{dtype} is not read here", where=where)
    found: npt.NDArray[np.generic] = data.view(_NUMPY[dtype]).reshape(shape)
    found.flags.writeable = False
    return found
