"""Finding the model that a full fine-tune was made from: same shapes, and matrices that point the same way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from quiltwork.zoo.dtypes import itemsize, to_float32
from quiltwork.zoo.types import Model, RawTensor, TensorRef

if TYPE_CHECKING:
    from quiltwork.zoo.zoo import Zoo

ALIKE = 0.9
"""Cosine from which two matrices are taken for the same one, trained further. Unrelated ones are near 0, real
fine-tunes above 0.99."""

_MATRICES = 8
_ELEMENTS = 4096

Place = tuple[str, str]
"""A part's name and a role."""


@dataclass(frozen=True)
class Found:
    """A base and how alike it is."""

    model: Model
    cosine: float


def sample(raw: RawTensor) -> npt.NDArray[np.float32]:
    """A few thousand evenly spaced elements of a float tensor, as float32."""
    width = itemsize(raw.dtype)
    rows = raw.data.reshape(-1, width)
    step = max(1, rows.shape[0] // _ELEMENTS)
    chosen = np.ascontiguousarray(rows[::step][:_ELEMENTS]).reshape(-1)
    if raw.dtype == "F64":
        return chosen.view(np.float64).astype(np.float32)
    return to_float32(chosen, raw.dtype)


def cosine(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> float:
    """Cosine of two vectors; 0 where one is zero or not finite."""
    wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
    norm = float(np.linalg.norm(wide_a) * np.linalg.norm(wide_b))
    value = float(wide_a @ wide_b) / norm if norm > 0 and np.isfinite(norm) else 0.0
    return value if np.isfinite(value) else 0.0


def places(model: Model) -> dict[Place, TensorRef]:
    """Every tensor of a model's own blocks by part and role, those inside them included."""
    walked = (inner for part in model.parts for inner in part.walk())
    return {(part.name, tensor.name): tensor for part in walked for tensor in part.block.tensors}


def find(
    zoo: Zoo, models: Iterable[Model], shapes: Mapping[Place, tuple[int, ...]], read: Callable[[Place], RawTensor]
) -> Found | None:
    """The model most like the one described, if any is alike at all; the first of those that are equally so."""
    return max(alike(zoo, models, shapes, read), key=lambda found: found.cosine, default=None)


def alike(
    zoo: Zoo, models: Iterable[Model], shapes: Mapping[Place, tuple[int, ...]], read: Callable[[Place], RawTensor]
) -> Iterator[Found]:
    """The models that seem to be made from the same one as the one described.

    ``shapes`` : every tensor of the new model; ``read`` gives one of them. Only matrices inside the layers are
    compared, so that a changed vocabulary or head does not hide the base.
    """
    matrices = [place for place, shape in shapes.items() if len(shape) == 2 and place[0] not in ("embed", "head")]
    chosen = matrices[:: max(1, len(matrices) // _MATRICES)][:_MATRICES]
    if not chosen:
        return
    mine: dict[Place, npt.NDArray[np.float32]] = {}
    for model in models:
        theirs = places(model)
        if any(place not in theirs or theirs[place].shape != shapes[place] for place in matrices):
            continue
        total = 0.0
        for place in chosen:
            if place not in mine:
                mine[place] = sample(read(place))
            value = cosine(mine[place], sample(zoo.read(theirs[place])))
            if value < ALIKE:
                break
            total += value
        else:
            yield Found(model, total / len(chosen))
