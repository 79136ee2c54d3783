"""The weights of a module, from whichever files they are in."""

from __future__ import annotations

import io
import pickle
import posixpath
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError, NotFoundError
from quiltwork.text.files import ModelFiles, read_json

Floats = npt.NDArray[np.float32]

SAFE, SAFE_INDEX, PICKLED = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"


def read_weights(files: ModelFiles, folder: str = "") -> dict[str, Floats]:
    """The arrays of a module's folder, as float32, by name.

    Takes ``model.safetensors``, whole or in shards, and else the older ``pytorch_model.bin``, of which nothing but
    tensors is read. Raises NotFoundError where there is none of them, BadInputError naming the file and the array.
    """
    name = posixpath.join(folder, SAFE)
    if files.has(name):
        return _float32(files, name, files.tensors(name))
    index = posixpath.join(folder, SAFE_INDEX)
    if files.has(index):
        return _sharded(files, folder, index)
    pickled = posixpath.join(folder, PICKLED)
    if files.has(pickled):
        return _pickled(files, pickled)
    raise NotFoundError(f"has no weights: neither {SAFE} nor {PICKLED}", where=posixpath.join(files.where, folder))


def frozen(array: Floats) -> Floats:
    """The same array, not to be written to: compiled kernels take all weights alike, mapped from a file or not."""
    view = array.view()
    view.flags.writeable = False
    return view


class Weights:
    """Arrays by name, each asked for with the shape that it has to have; read only."""

    def __init__(self, arrays: Mapping[str, Floats], where: str) -> None:
        self._arrays, self._where = arrays, where

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def get(self, name: str, shape: tuple[int, ...]) -> Floats:
        """Raises BadInputError naming an array that is missing, of another shape, or not finite."""
        found = self._arrays.get(name)
        if found is None:
            raise BadInputError("is missing", where=f"{self._where}: {name}")
        if found.shape != shape:
            has, wants = list(found.shape), list(shape)
            raise BadInputError(f"has the shape {has}, the configuration says {wants}", where=f"{self._where}: {name}")
        if not np.isfinite(found).all():
            raise BadInputError("has numbers that are not finite", where=f"{self._where}: {name}")
        return frozen(np.ascontiguousarray(found))

    def rows(self, name: str) -> int:
        """How many rows a table has; 0 where it is not there."""
        found = self._arrays.get(name)
        return 0 if found is None or found.ndim != 2 else int(found.shape[0])


def _float32(files: ModelFiles, name: str, arrays: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, Floats]:
    found = {}
    for key, array in arrays.items():
        if array.dtype.kind in "fV":
            if array.dtype.kind == "V" or array.dtype.itemsize > 8:
                raise BadInputError(f"holds {array.dtype}", where=f"{files.where}: {name}: {key}")
            found[key] = array.astype(np.float32, copy=False)
    return found


def _sharded(files: ModelFiles, folder: str, index: str) -> dict[str, Floats]:
    where = f"{files.where}: {index}"
    places = read_json(files, index).get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(one, str) for one in places.values()):
        raise BadInputError("names no shards", where=f"{where}: weight_map")
    found: dict[str, Floats] = {}
    for shard in sorted(set(places.values())):
        name = posixpath.join(folder, shard)
        found |= _float32(files, name, files.tensors(name))
    return found


def _pickled(files: ModelFiles, name: str) -> dict[str, Floats]:
    import torch

    where = f"{files.where}: {name}"
    try:
        loaded = torch.load(io.BytesIO(files.read(name)), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        line = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
        raise BadInputError(f"is not a file of weights: {line}", where=where) from error
    if not isinstance(loaded, dict):
        raise BadInputError("is not a file of weights", where=where)
    tensors = {key: one for key, one in loaded.items() if isinstance(one, torch.Tensor) and one.is_floating_point()}
    return {str(key): one.float().numpy() for key, one in tensors.items()}
