"""A file of tensors as its readers describe it: named byte ranges of a memory map, and the gaps between them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError
from quiltwork.zoo.types import DTYPE_BITS, RawTensor


@dataclass(frozen=True)
class Slice:
    """A tensor in a file. ``strides`` (in elements) is given only where the elements do not lie in row-major order."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    """First byte, counted from the start of the file."""
    nbytes: int
    """Bytes of the tensor's values."""
    strides: tuple[int, ...] | None = None


@dataclass(frozen=True)
class WeightsFile:
    """The tensors of one file by name. Nothing is read until ``read``."""

    path: Path
    size: int
    tensors: Mapping[str, Slice]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def map(self) -> npt.NDArray[np.uint8]:
        """The whole file as a read-only memory map of bytes."""
        if self.size == 0:
            return np.zeros(0, dtype=np.uint8)
        mapped = np.memmap(self.path, dtype=np.uint8, mode="r")
        if mapped.shape[0] != self.size:
            raise BadInputError("changed while it was read", where=str(self.path))
        return mapped

    def read(self, name: str) -> RawTensor:
        """One tensor; a view of the memory map unless its elements must be put in order."""
        return read_slice(self.map(), self.tensors[name])

    def ranges(self) -> Iterator[Slice]:
        """One slice per stretch of the file that is a row-major tensor, in order and without overlap.

        Two names of the same stretch give one slice; a stretch that overlaps an earlier, different one gives none, so
        that it is kept as residue. Empty tensors give none.
        """
        end = 0
        candidates = (s for s in self.tensors.values() if s.strides is None and s.nbytes)
        for item in sorted(candidates, key=lambda s: (s.offset, -s.nbytes, s.name)):
            if item.offset >= end:
                yield item
                end = item.offset + item.nbytes


def read_slice(data: npt.NDArray[np.uint8], item: Slice) -> RawTensor:
    """The tensor of ``item`` from the bytes of its file, in row-major order."""
    if item.strides is None:
        return RawTensor(item.dtype, item.shape, data[item.offset : item.offset + item.nbytes])
    width = DTYPE_BITS[item.dtype] // 8
    elements = data[item.offset :]
    strided = np.lib.stride_tricks.as_strided(
        elements,
        shape=(*item.shape, width),
        strides=(*(s * width for s in item.strides), 1),
        writeable=False,
    )
    return RawTensor(item.dtype, item.shape, np.ascontiguousarray(strided).reshape(-1))


def elements(shape: tuple[int, ...]) -> int:
    """Number of elements, as an exact integer of any size."""
    return math.prod(shape)
