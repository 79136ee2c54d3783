"""PyTorch's zip checkpoints (``pytorch_model.bin``, ``adapter_model.bin``), without torch and pickle's powers.

The pickle inside names tensors as views of storages; storages are stored zip entries, hence byte ranges of the file.
The unpickler here knows the few names that weights need and refuses every other, so that a file cannot run code.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quiltwork.core.errors import BadInputError, QuiltworkError, UnsupportedError
from quiltwork.zoo.formats.weights import Slice, WeightsFile, elements
from quiltwork.zoo.types import DTYPE_BITS

_STORAGES = {
    "DoubleStorage": "F64", "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL", "ComplexFloatStorage": "C64",
}  # fmt: skip
_MAX_PICKLE = 256 << 20
_MALFORMED = (
    pickle.UnpicklingError, zipfile.BadZipFile, EOFError, IndexError, ValueError, TypeError, KeyError, AttributeError,
    OverflowError, RecursionError, NotImplementedError, MemoryError, AssertionError, zipfile.LargeZipFile,
)  # fmt: skip


@dataclass(frozen=True)
class _StorageType:
    dtype: str


@dataclass(frozen=True)
class _Storage:
    dtype: str
    key: str
    count: int


@dataclass(frozen=True)
class _View:
    storage: _Storage
    start: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_checkpoint(path: Path) -> WeightsFile:
    """The tensors of a zip checkpoint: a (possibly ordered) dict from names to tensors.

    Raises BadInputError naming the file, and the global that a pickle payload asks for; UnsupportedError for the
    format from before PyTorch 1.6, compressed entries and big-endian files.
    """
    where = str(path)
    try:
        with path.open("rb") as file:
            if file.read(4) != b"PK\x03\x04":
                raise UnsupportedError(
                    "not a zip checkpoint (perhaps saved before PyTorch 1.6)",
                    where=where,
                    hint="load it where it is trusted and save it as safetensors",
                )
            with zipfile.ZipFile(file) as archive:
                return _read(path, file, archive, where)
    except OSError as error:
        raise BadInputError(f"cannot be read: {error.strerror or error}", where=where) from error
    except QuiltworkError:
        raise
    except _MALFORMED as error:
        raise BadInputError(f"is not a checkpoint: {str(error)[:100]}", where=where) from error


def _read(path: Path, file: Any, archive: zipfile.ZipFile, where: str) -> WeightsFile:
    entries = {info.filename: info for info in archive.infolist()}
    if len(entries) != len(archive.infolist()):
        raise BadInputError("two zip entries have the same name", where=where)
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise BadInputError("holds no data.pkl: not a PyTorch checkpoint", where=where)
    root = pickles[0].removesuffix("data.pkl")
    size = path.stat().st_size

    def located(name: str) -> tuple[int, int]:
        """First byte and length of a stored entry's content."""
        info = entries.get(root + name)
        if info is None:
            raise BadInputError(f"the entry {name[:60]!r} is missing", where=where)
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise UnsupportedError(f"the entry {name[:60]!r} is compressed or encrypted", where=where)
        file.seek(info.header_offset)
        header = file.read(30)
        if header[:4] != b"PK\x03\x04":
            raise BadInputError(f"the entry {name[:60]!r} has no header", where=where)
        start = info.header_offset + 30 + int.from_bytes(header[26:28], "little")
        start += int.from_bytes(header[28:30], "little")
        if start + info.file_size > size:
            raise BadInputError(f"truncated in the entry {name[:60]!r}", where=where)
        return start, info.file_size

    def content(name: str) -> bytes:
        start, length = located(name)
        if length > _MAX_PICKLE:
            raise BadInputError(f"an entry {name} of {length} bytes is absurd", where=where)
        file.seek(start)
        return bytes(file.read(length))

    if root + "byteorder" in entries and content("byteorder") != b"little":
        raise UnsupportedError("saved on a big-endian machine", where=where)
    state = _WeightsOnly(content("data.pkl"), where).load()
    if isinstance(state, Mapping) and "state_dict" in state and isinstance(state["state_dict"], Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not state:
        raise BadInputError("does not hold a dict of tensors", where=where)
    places: dict[str, tuple[int, int]] = {}
    tensors = {}
    for name, view in state.items():
        if not isinstance(name, str) or not name.isprintable() or not isinstance(view, _View):
            raise BadInputError(f"{str(name)[:60]!r} is not a named tensor", where=where)
        key = view.storage.key
        if key not in places:
            places[key] = located(f"data/{key}")
        tensors[name] = _slice(name, view, places[key], where)
    return WeightsFile(path, size, tensors)


def _slice(name: str, view: _View, place: tuple[int, int], where: str) -> Slice:
    width = DTYPE_BITS[view.storage.dtype] // 8
    start, length = place
    count = elements(view.shape)
    last = view.start + sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True)) if count else 0
    if view.storage.count * width > length or last >= max(view.storage.count, 1):
        raise BadInputError("lies outside its storage (truncated?)", where=f"{where}: {name}")
    row_major, step = [], 1
    for n in reversed(view.shape):
        row_major.append(step)
        step *= n
    ordered = count <= 1 or all(
        n == 1 or s == r for n, s, r in zip(view.shape, view.strides, reversed(row_major), strict=True)
    )
    strides = None if ordered else view.strides
    return Slice(name, view.storage.dtype, view.shape, start + view.start * width, count * width, strides)


def _sizes(value: Any) -> tuple[int, ...]:
    if (
        not isinstance(value, tuple | list)
        or len(value) > 64
        or not all(type(n) is int and 0 <= n < 2**48 for n in value)
    ):
        raise ValueError("a size is not a list of counts")
    return tuple(value)


def _rebuild_tensor(storage: Any, start: Any, shape: Any, strides: Any, *_: Any) -> _View:
    if not isinstance(storage, _Storage) or type(start) is not int or start < 0:
        raise ValueError("a tensor is not a view of a storage")
    shape, strides = _sizes(shape), _sizes(strides)
    if len(shape) != len(strides):
        raise ValueError("a tensor has not as many strides as sizes")
    if elements(shape) > storage.count and 0 not in strides:
        raise ValueError("a tensor is larger than its storage")
    if 0 in strides and elements(shape) > 2**32:
        raise ValueError("a tensor repeats its storage absurdly often")
    return _View(storage, start, shape, strides)


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    return data


_ALLOWED: Mapping[tuple[str, str], Callable[..., Any] | _StorageType] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    **{("torch", name): _StorageType(dtype) for name, dtype in _STORAGES.items()},
}


class _WeightsOnly(pickle.Unpickler):
    """An unpickler that can name nothing but tensors, storages and dicts."""

    def __init__(self, data: bytes, where: str) -> None:
        super().__init__(io.BytesIO(data))
        self._where = where

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise BadInputError(
                f"its pickle asks for {module[:60]}.{name[:60]}, which weights never need",
                where=self._where,
                hint="refused: loading it could run code",
            ) from None

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage, key, _, count = pid
        if kind != "storage" or not isinstance(storage, _StorageType) or not isinstance(key, str):
            raise ValueError("a persistent id is not a storage")
        if type(count) is not int or not 0 <= count < 2**48:
            raise ValueError("a storage's size is not a count")
        return _Storage(storage.dtype, key, count)
