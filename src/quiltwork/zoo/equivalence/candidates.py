"""Blocks of other models that might serve in a model's parts: equal by hash, near by sketch, near by cosine.

A candidate is worth measuring and no more: every block of a real fine-tune passes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quiltwork.core.names import PUBLIC, ModelRef, visible_to
from quiltwork.zoo.dtypes import is_float
from quiltwork.zoo.equivalence.sketch import Sketches, sketch_cosine, values
from quiltwork.zoo.equivalence.swap import Swap
from quiltwork.zoo.families import TENSORS, has_chain
from quiltwork.zoo.folding import FOLDED_KINDS, fold
from quiltwork.zoo.segments import link_id
from quiltwork.zoo.similar import cosine
from quiltwork.zoo.types import Block, Model, Part

if TYPE_CHECKING:
    from quiltwork.zoo.zoo import Zoo

LEAST_COSINE = 0.9
"""Cosine below which a block is not even measured."""
SKETCH_MARGIN = 0.15
"""How far a sketch's estimate may fall short of it: more than six times its spread."""


@dataclass(frozen=True)
class PartCandidates:
    """A part of a model and what might stand in its place."""

    part: Part
    shared_with: tuple[ModelRef, ...]
    """Models that have the very same block with the same attachments: nothing is looked for then."""
    swaps: tuple[Swap, ...]
    """The likeliest first; exact ones before all others."""


def find_candidates(
    zoo: Zoo,
    model: Model,
    *,
    tenant: str,
    seed: int = 0,
    least: float = LEAST_COSINE,
    per_part: int = 3,
    progress: Callable[[int], None] = lambda nbytes: None,
) -> tuple[PartCandidates, ...]:
    """For every part of a model, the parts at the same place of other models that fit and are near.

    Parameters
    ----------
    tenant : whose models, beside the public ones, may be drawn on.
    seed : of the sketches.
    least : cosine that a candidate has at least.
    per_part : candidates per part, at most.
    progress : told how many bytes of weights have been read since it was last told.
    """
    others = [zoo.model(ref) for ref in zoo.models() if visible_to(ref, tenant) and ref != model.ref]
    # What was made from this very model shares its blocks without being a reason to keep them.
    others = [other for other in others if has_chain(other) and not _made_from(other, model)]
    # Where several models have a block, it is called the base's, or a public one's, rather than some adapter's.
    others.sort(
        key=lambda o: (o.ref != model.base, bool(o.substitutions), o.ref.tenant != PUBLIC, o.base is not None, o.ref)
    )
    kept = {content for other in others for part in other.parts for content in _contents(part)}
    sketches = Sketches(zoo.read, seed, progress)
    return tuple(
        _of_part(zoo, model, part, others, kept, sketches, least, per_part)
        for part in model.parts
        if part.block.kind != TENSORS
    )


def _made_from(other: Model, model: Model) -> bool:
    return bool(other.substitutions) and other.base == model.ref


def _of_part(
    zoo: Zoo,
    model: Model,
    part: Part,
    others: Sequence[Model],
    kept: Set[str],
    sketches: Sketches,
    least: float,
    per_part: int,
) -> PartCandidates:
    holders: dict[str, list[ModelRef]] = {}
    theirs: dict[str, Part] = {}
    for other in others:
        for candidate in other.parts:
            if candidate.name == part.name:
                holders.setdefault(link_id(candidate), []).append(other.ref)
                theirs.setdefault(link_id(candidate), candidate)
    same = holders.get(link_id(part))
    if same:
        return PartCandidates(part, tuple(same), ())
    found: list[Swap] = []
    saved = _saved(model, part, kept)
    for key, candidate in theirs.items():
        near = _nearness(zoo, part, candidate, sketches, least)
        if near is not None:
            exact = _function(part) == _function(candidate)
            found.append(Swap(part, candidate, holders[key][0], near, exact, saved))
    found.sort(key=lambda swap: (not swap.exact, -swap.cosine))
    return PartCandidates(part, (), tuple(found[:per_part]))


def _nearness(zoo: Zoo, part: Part, other: Part, sketches: Sketches, least: float) -> float | None:
    """The cosine of two parts; None where one does not fit in the other's place, or is too far from it."""
    if not _fits(part, other):
        return None
    if _function(part) == _function(other):
        return 1.0
    ours, theirs = sketches.of(part), sketches.of(other)
    if _mean(sketch_cosine(ours[role], theirs[role]) for role in ours) < least - SKETCH_MARGIN:
        return None
    by_role = {tensor.name: tensor for tensor in other.block.tensors}

    def exactly() -> Iterable[float]:
        for tensor in part.block.tensors:
            a, b = fold(part, tensor, zoo.read), fold(other, by_role[tensor.name], zoo.read)
            yield cosine(values(a), values(b))
            sketches.progress(tensor.nbytes)

    near = _mean(exactly())
    return near if near >= least else None


def _mean(numbers: Iterable[float]) -> float:
    listed = list(numbers)
    return sum(listed) / len(listed)


def _fits(a: Part, b: Part) -> bool:
    """Whether one can stand in the other's place, and can be compared with it."""
    if (a.block.kind, a.block.arch, a.block.children, b.block.children) != (b.block.kind, b.block.arch, (), ()):
        return False
    if any(block.kind not in FOLDED_KINDS for block in (*a.attachments, *b.attachments)):
        return False  # virtual tokens change what all other parts see
    shapes = [{t.name: t.shape for t in part.block.tensors} for part in (a, b)]
    floats = all(is_float(t.dtype) for part in (a, b) for t in part.block.tensors)
    return bool(shapes[0]) and shapes[0] == shapes[1] and floats


def _function(part: Part) -> tuple[object, ...]:
    """Equal for parts that compute the same function from the same values, whatever dtype these are kept in."""

    def of(block: Block) -> tuple[object, ...]:
        tensors = {tensor.name: (tensor.shape, tensor.content, tensor.stored_dtype) for tensor in block.tensors}
        return block.kind, dict(block.arch), tensors

    return of(part.block), [of(block) for block in part.attachments]


def _saved(model: Model, part: Part, kept: Set[str]) -> int:
    """Bytes of a part's tensors that neither another part of the model has nor another model."""
    beside = {content for other in model.parts if other.name != part.name for content in _contents(other)}
    return sum(nbytes for content, nbytes in _contents(part).items() if content not in kept | beside)


def _contents(part: Part) -> Mapping[str, int]:
    return {t.content: t.nbytes for block in (part.block, *part.attachments) for t in block.walk()}
