"""One substitution that might be made: a part of a model, and the part of another that would serve in its place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from quiltwork.core.names import ModelRef
from quiltwork.zoo.types import Part


@dataclass(frozen=True)
class Swap:
    """A part and what would take its place. Whether it may is not said here."""

    original: Part
    replacement: Part
    """Under the same name: the other's block with what is attached to it there."""
    source: ModelRef
    """The model that it is a part of."""
    cosine: float
    """Mean over the tensors of the cosine of both, attachments folded in; 1 where they are equal."""
    exact: bool
    """Whether both compute the same function: equal values, perhaps kept in another dtype."""
    saved_bytes: int
    """Bytes that only this part of this model needs: no other part, and no other model that the tenant may see."""

    @property
    def part(self) -> str:
        """The name of the place."""
        return self.original.name


def substituted(parts: Iterable[Part], swaps: Sequence[Swap]) -> tuple[Part, ...]:
    """The parts of a model with some of them replaced."""
    replaced = {swap.part: swap.replacement for swap in swaps}
    return tuple(replaced.get(part.name, part) for part in parts)
