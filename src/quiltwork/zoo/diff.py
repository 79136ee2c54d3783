"""Where two models differ: per layer and kind, by bytes and by relative change."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from quiltwork.core.names import ModelRef
from quiltwork.zoo.dtypes import PIECE, is_float, itemsize, to_float32
from quiltwork.zoo.types import Block, Model, Part, RawTensor, TensorRef

if TYPE_CHECKING:
    from quiltwork.zoo.zoo import Zoo


@dataclass(frozen=True)
class Change:
    """How one part of two models differs."""

    part: str
    kind: str
    tensors: int
    """Tensors of the part's block, in either model."""
    changed: int
    """Those with different content, or in one model only."""
    nbytes: int
    """Bytes of the part in the larger of the two."""
    changed_bytes: int
    """Bytes of the changed tensors."""
    relative: float | None
    """L2 norm of the difference over that of ``a``, over changed tensors of equal shape; None where there is none."""
    attachments: tuple[str, ...]
    """Kinds that hang on the part in only one of the two, or differ: ``+lora`` in b, ``-lora`` in a, ``~lora``."""

    @property
    def same(self) -> bool:
        """Whether both models compute the same here."""
        return not self.changed and not self.attachments


@dataclass(frozen=True)
class Difference:
    """Two models compared, part by part."""

    a: ModelRef
    b: ModelRef
    changes: tuple[Change, ...]

    @property
    def changed_bytes(self) -> int:
        """Bytes of all changed tensors."""
        return sum(change.changed_bytes for change in self.changes)

    @property
    def nbytes(self) -> int:
        """Bytes of all parts."""
        return sum(change.nbytes for change in self.changes)


def diff(zoo: Zoo, a: ModelRef | str, b: ModelRef | str) -> Difference:
    """Compare two models part by part. Only tensors whose content differs are read.

    Raises NotFoundError where one does not exist.
    """
    first, second = zoo.model(a), zoo.model(b)
    ours, theirs = _by_name(first), _by_name(second)
    names = [*ours, *(name for name in theirs if name not in ours)]
    return Difference(first.ref, second.ref, tuple(_change(zoo, n, ours.get(n), theirs.get(n)) for n in names))


def _by_name(model: Model) -> dict[str, Part]:
    return {part.name: part for part in model.parts}


def _change(zoo: Zoo, name: str, a: Part | None, b: Part | None) -> Change:
    ours = dict(a.block.named()) if a else {}
    theirs = dict(b.block.named()) if b else {}
    roles = [*ours, *(role for role in theirs if role not in ours)]
    changed = [role for role in roles if not _same(ours.get(role), theirs.get(role))]
    both = [(ours[role], theirs[role]) for role in changed if role in ours and role in theirs]
    return Change(
        part=name,
        kind=(a or b).block.kind if (a or b) else "",  # type: ignore[union-attr]
        tensors=len(roles),
        changed=len(changed),
        nbytes=max(sum(t.nbytes for t in ours.values()), sum(t.nbytes for t in theirs.values())),
        changed_bytes=sum(max(t.nbytes for t in (ours.get(r), theirs.get(r)) if t is not None) for r in changed),
        relative=_relative(zoo, [(x, y) for x, y in both if x.shape == y.shape]),
        attachments=tuple(_attachments(a.attachments if a else (), b.attachments if b else ())),
    )


def _same(a: TensorRef | None, b: TensorRef | None) -> bool:
    return a is not None and b is not None and (a.content, a.shape) == (b.content, b.shape)


def _attachments(a: Iterable[Block], b: Iterable[Block]) -> Iterable[str]:
    ours, theirs = {x.kind: x.id for x in a}, {x.kind: x.id for x in b}
    for kind in [*ours, *(kind for kind in theirs if kind not in ours)]:
        if ours.get(kind) != theirs.get(kind):
            yield ("+" if kind not in ours else "-" if kind not in theirs else "~") + kind


def _relative(zoo: Zoo, pairs: list[tuple[TensorRef, TensorRef]]) -> float | None:
    pairs = [(x, y) for x, y in pairs if _comparable(x.dtype) and _comparable(y.dtype)]
    if not pairs:
        return None
    change = size = 0.0
    for ours, theirs in pairs:
        left, right = zoo.read(ours), zoo.read(theirs)
        count = left.data.size // itemsize(left.dtype)
        for start in range(0, count, PIECE):
            x, y = _piece(left, start), _piece(right, start)
            change += float(np.square(y - x).sum())
            size += float(np.square(x).sum())
    return float(np.sqrt(change / size)) if size > 0 else None


def _comparable(dtype: str) -> bool:
    return is_float(dtype)


def _piece(raw: RawTensor, start: int) -> npt.NDArray[np.float64]:
    width = itemsize(raw.dtype)
    data = raw.data[start * width : (start + PIECE) * width]
    if raw.dtype == "F64":
        return data.view(np.float64)
    return to_float32(data, raw.dtype).astype(np.float64)
