"""Gradients of many parameters as one row of numbers, so that a step needs one collective and not one for each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from quiltwork.core.errors import BadInputError
from quiltwork.core.trainable import Arrays, Gradients

Row = npt.NDArray[np.floating]
_KINDS = ("float16", "float32", "float64")


@dataclass(frozen=True)
class Layout:
    """Which parameters lie where in a row, and the metrics that go with them."""

    shapes: Mapping[str, tuple[int, ...]]
    """In the order of the row."""
    dtypes: Mapping[str, str]
    metrics: tuple[str, ...]
    """Names, sorted: those of the first gradient; others that come later stay where they are."""

    @property
    def size(self) -> int:
        """Numbers of all parameters together."""
        return sum(_count(shape) for shape in self.shapes.values())

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """What is summed in: float64 where any parameter has it, float32 for all else."""
        return np.dtype(np.float64 if "float64" in self.dtypes.values() else np.float32)

    def digest(self) -> str:
        """The same for workers whose gradients can be summed, and for no others."""
        told = json.dumps([list(self.shapes.items()), list(self.dtypes.items()), self.metrics])
        return hashlib.sha256(told.encode()).hexdigest()

    def check(self, gradients: Gradients) -> None:
        """Raises BadInputError naming a parameter that is not as it was at the beginning."""
        if gradients.count < 0:
            raise BadInputError(f"{gradients.count} is not a number of samples", where="gradients")
        for name in gradients.arrays.keys() | self.shapes.keys():
            array, shape = gradients.arrays.get(name), self.shapes.get(name)
            if array is None or shape is None:
                raise BadInputError("is not there in every step", where=f"gradients: {name}")
            if array.shape != shape or array.dtype.name != self.dtypes[name]:
                now = f"{array.dtype.name} {array.shape}"
                raise BadInputError(f"is {now} and was {self.dtypes[name]} {shape}", where=f"gradients: {name}")

    def fill(self, row: Row, arrays: Arrays, factor: float = 1.0) -> None:
        """Write parameters times ``factor`` into ``row`` (size,)."""
        start = 0
        for name, shape in self.shapes.items():
            stop = start + _count(shape)
            np.multiply(arrays[name].reshape(-1), factor, out=row[start:stop], casting="same_kind")
            start = stop

    def arrays(self, row: Row) -> dict[str, npt.NDArray[np.generic]]:
        """Parameters out of a row (size,), each of its type; views of it where the type is the row's."""
        found: dict[str, npt.NDArray[np.generic]] = {}
        start = 0
        for name, shape in self.shapes.items():
            stop = start + _count(shape)
            found[name] = row[start:stop].reshape(shape).astype(self.dtypes[name], copy=False)
            start = stop
        return found


def layout_of(gradients: Gradients) -> Layout:
    """The layout of a trainable's gradients. Raises BadInputError naming one that is not of real numbers."""
    for name, array in gradients.arrays.items():
        if array.dtype.name not in _KINDS:
            hint = f"known: {', '.join(_KINDS)}"
            raise BadInputError(f"cannot be averaged: {array.dtype.name}", where=f"gradients: {name}", hint=hint)
    return Layout(
        {name: array.shape for name, array in gradients.arrays.items()},
        {name: array.dtype.name for name, array in gradients.arrays.items()},
        tuple(sorted(gradients.metrics)),
    )


def _count(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))
