"""Blocks that nearly equal another model's at the same place: what merging might save, if measured to be harmless."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from quiltwork.core.names import PUBLIC, ModelRef
from quiltwork.zoo.dtypes import is_float
from quiltwork.zoo.similar import alike, cosine, places, sample
from quiltwork.zoo.types import Block, Model, TensorRef

if TYPE_CHECKING:
    from quiltwork.zoo.zoo import Zoo

CANDIDATE = 0.98
"""Cosine from which two blocks are worth measuring. It decides nothing: every block of a real fine-tune passes it, and
yet one swapped block may cost a fifth of a nat."""


@dataclass(frozen=True)
class Near:
    """A block that only one model has, and the block of another that is most like it."""

    part: str
    block: str
    nbytes: int
    """What the model would not need any more."""
    model: ModelRef
    other_block: str
    cosine: float
    """Of a sample of both blocks' weights."""


def near_duplicates(
    zoo: Zoo,
    model: Model,
    others: Sequence[Model],
    alone: Collection[str],
    progress: Callable[[int], None] = lambda nbytes: None,
) -> tuple[Near, ...]:
    """For each block in ``alone`` the most alike block at the same place of ``others``, where one is a candidate.

    Only models that look like fine-tunes of the same base are compared. Weights are read; ``progress`` is told how
    many bytes since it was last told.
    """
    if not alone:
        return ()
    mine = places(model)

    def read(ref: TensorRef) -> npt.NDArray[np.float32]:
        progress(ref.nbytes)
        return sample(zoo.read(ref))

    shapes = {place: ref.shape for place, ref in mine.items()}
    related = [found.model for found in alike(zoo, others, shapes, lambda place: zoo.read(mine[place]))]
    # Where several models have the block, its base is named, or a public one, rather than some adapter or tenant.
    related.sort(key=lambda o: (o.ref != model.base, o.ref.tenant != PUBLIC, o.base is not None, o.ref))
    near: list[Near] = []
    for part in model.parts:
        if part.block.id not in alone:
            continue
        candidates: dict[str, tuple[Block, ModelRef]] = {}
        for other in related:
            for theirs in other.parts:
                if theirs.name == part.name and _fits(part.block, theirs.block):
                    candidates.setdefault(theirs.block.id, (theirs.block, other.ref))
        if not candidates:
            continue
        ours = [read(ref) for ref in part.block.tensors]
        best: Near | None = None
        for block, ref in candidates.values():
            value = cosine(np.concatenate(ours), np.concatenate([read(tensor) for tensor in block.tensors]))
            if value >= CANDIDATE and (best is None or value > best.cosine):
                best = Near(part.name, part.block.id, part.block.nbytes, ref, block.id, value)
        if best is not None:
            near.append(best)
    return tuple(near)


def _fits(a: Block, b: Block) -> bool:
    """Whether one could stand in the other's place, and can be compared with it."""
    if (a.kind, a.arch, a.children, b.children) != (b.kind, b.arch, (), ()) or not a.tensors:
        return False
    shapes = [[(t.name, t.shape) for t in block.tensors] for block in (a, b)]
    return shapes[0] == shapes[1] and all(is_float(t.dtype) for t in (*a.tensors, *b.tensors))
